"""The report needs nothing beside itself and can be made of whatever a study may find."""

import json
import re
from dataclasses import replace
from itertools import combinations

import pytest
from matplotlib.text import Text
from PIL import Image

from loadtest.compare import Failures, PolicySpec, Serving, WorkloadSpec, read_study, run_study
from loadtest.compare.document import Code, Heading, Paragraph, Points, Table, as_html, as_markdown
from loadtest.compare.marks import marks, new_figure, place_labels
from loadtest.compare.report import write_report
from loadtest.compare.tables import TableCell
from tests.loadtest.compare.small_study import small_study

HOPELESS = PolicySpec("slackfit", label="hopeless", serving=Serving(loading=10.0))
DYING = WorkloadSpec(
    {"kind": "constant", "rate": 900, "seconds": 0.4},
    slo=((0.02, 0.5), (0.05, 0.5)),
    failures=Failures(0.1, 1),
    label="dying <b>& mixed|",
    workers=(3,),
    tuned_on=True,
)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A study with something of everything."""
    folder = tmp_path_factory.mktemp("report")
    study = small_study(
        policies=(*small_study().policies, HOPELESS), workloads=(*small_study().workloads, DYING)
    )
    write_report(run_study(study, folder, processes=1), folder)
    return folder


def test_the_page_refers_to_nothing_outside(report):
    page = (report / "report.html").read_text()

    assert "http://" not in page
    assert "https://" not in page
    assert all(
        source.startswith("data:image/png;base64,") for source in re.findall(r'src="(.*?)"', page)
    )
    assert not re.search(r"<(link|script|iframe)|@import|url\(", page)


def test_the_page_shows_every_picture_once(report):
    page = (report / "report.html").read_text()
    pictures = sorted((report / "plots").iterdir())

    # Two settings with two pictures each, the utilities and the decisions.
    assert len(pictures) == 6
    assert page.count("<img") == 6
    for path in pictures:
        with Image.open(path) as picture:
            assert picture.format == "PNG"


def test_the_links_of_the_markdown_lead_to_the_pictures(report):
    links = re.findall(r"!\[.*?\]\((.*?)\)", (report / "report.md").read_text())

    assert len(links) == 6
    assert all((report / link).is_file() for link in links)


def test_labels_cannot_break_the_page(report):
    page = (report / "report.html").read_text()

    assert "dying <b>" not in page
    assert "dying &lt;b&gt;&amp; mixed|" in page


def test_the_study_that_is_left_can_be_run_again(report):
    again = read_study(report / "study.json")
    first = json.loads((report / "cells.jsonl").read_bytes().splitlines()[0])["study"]

    assert [workload.label for workload in again.workloads] == ["calm", DYING.label]
    assert again.workloads[1] == DYING
    assert again.policies[2] == HOPELESS
    assert first == json.loads((report / "study.json").read_text())


@pytest.mark.parametrize(
    "changes",
    [
        {"bounds": False, "seeds": (0,)},
        {"policies": (HOPELESS,)},
        {"policies": tuple(PolicySpec("slackfit", label=f"p{i}") for i in range(4)), "seeds": (0,)},
    ],
    ids=["one seed, no bounds", "nothing met", "all on one spot"],
)
def test_a_report_is_made_of_whatever_was_found(tmp_path, changes):
    study = small_study(**changes)
    page = write_report(run_study(study, tmp_path, processes=1), tmp_path).read_text()

    assert ("beyond" in page or "No policy can" in page) == study.bounds
    assert "nan" not in re.sub(r'src=".*?"', "", page)


def test_blocks_become_markdown_and_html():
    table = Table(["a", "b|c"], [[TableCell("x"), TableCell("1", ("± 2", "min 0"), best=True)]])
    blocks = [Heading("T", 1), Paragraph("p < q"), Points(["one"]), table, Code("k = 1")]

    assert as_markdown(blocks, folder=None) == (
        "# T\n\np < q\n\n- one\n\n| a | b\\|c |\n| --- | ---: |\n| x | **1** (± 2, min 0) |\n\n"
        "```\nk = 1\n```\n"
    )
    page = as_html(blocks, "T")
    assert "<p>p &lt; q</p>" in page
    assert '<td class="best">1<small>± 2</small><small>min 0</small></td>' in page


def boxes(axes):
    canvas = axes.figure.canvas
    canvas.draw()
    # An annotation's own extent would include its line.
    return [Text.get_window_extent(text, canvas.get_renderer()) for text in axes.texts]


@pytest.mark.parametrize(
    "points",
    [
        [(1.0 + 0.03 * i, 1.0, f"policy number {i}", "k") for i in range(8)],
        [(0.5, 0.5 + 0.04 * i, f"policy number {i}", "k") for i in range(12)],
        [(0.0, 0.0, "in the corner", "k"), (2.0, 2.0, "in the other one", "k")],
    ],
    ids=["side by side", "one above the other", "at the edges"],
)
def test_labels_neither_overlap_nor_leave_the_axes(points):
    axes = new_figure(8.0, 5.0).subplots()
    axes.set_xlim(0, 2)
    axes.set_ylim(0, 2)
    place_labels(axes, points)
    found = boxes(axes)
    frame = axes.get_window_extent()

    assert len(found) == len(points)
    assert not any(one.overlaps(other) for one, other in combinations(found, 2))
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 for box in found)
    assert all(frame.y0 <= box.y0 and box.y1 <= frame.y1 for box in found)


def test_points_on_one_spot_share_a_label():
    axes = new_figure(4.0, 3.0).subplots()
    place_labels(axes, [(0.5, 0.5, "a", "r"), (0.5, 0.5, "b", "b"), (0.9, 0.1, "c", "g")])

    assert [text.get_text() for text in axes.texts] == ["a\nb", "c"]


def test_seventy_policies_look_different():
    looks = marks([str(number) for number in range(70)])

    assert len({(mark.color, mark.marker) for mark in looks.values()}) == 70


def test_a_label_of_a_policy_does_not_change_its_results(tmp_path):
    study = small_study(bounds=False, seeds=(0,))
    renamed = replace(study, policies=(replace(study.policies[0], label="new"),))
    one = run_study(study, tmp_path / "a", processes=1)
    other = run_study(renamed, tmp_path / "b", processes=1)

    assert [run.attainment for run in one.runs.values()][:1] == [
        run.attainment for run in other.runs.values()
    ]
