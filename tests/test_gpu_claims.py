"""No document quotes a GPU figure that was measured with other kernels than these."""

import json
import pathlib

import pytest

from benchmarks.gpu.claims import problems, unmarked
from benchmarks.gpu.documents import DRY, FORMAT
from kernels.source_hash import kernel_hash

ROOT = pathlib.Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NOW = "0123456789abcdef"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_figure_of_a_gpu_is_of_the_kernels_as_they_are(path):
    assert list(problems(path.read_text(), RESULTS, kernel_hash())) == []


def test_the_page_on_gpus_has_no_figure_outside_the_marks():
    assert list(unmarked((ROOT / "docs" / "gpu.md").read_text())) == []


@pytest.fixture
def evidence(tmp_path):
    """Writes a document as the benchmarks do, measured with some kernels."""

    def write(kernels=NOW, how="measured on NVIDIA H200", cells=()):
        document = {"format": FORMAT, "how": how, "kernel_hash": kernels, "more": {}}
        document |= {"cells": list(cells), "refused": [], "left_out": []}
        (tmp_path / "gpu-subnets.json").write_text(json.dumps(document))
        return tmp_path

    return write


CELL = {"batch": 8, "median_us": 151.26, "ratio": 1.934, "samples_us": [160.0, 149.0]}


def quoted(text, file="gpu-subnets.json"):
    return f"Before.\n<!-- gpu: {file} -->\n{text}\n<!-- /gpu -->\nAfter."


def test_a_figure_with_current_evidence_stands(evidence):
    text = quoted("Batch 8 takes 151 µs, 0.15 ms, 1.93 times less.")
    assert list(problems(text, evidence(cells=[CELL]), NOW)) == []


def test_a_stale_figure_fails(evidence):
    (problem,) = problems(quoted("151 µs"), evidence(kernels="f" * 16, cells=[CELL]), NOW)
    assert "stale" in problem
    assert "gpu-subnets.json" in problem


def test_a_changed_kernel_makes_a_standing_figure_stale(evidence):
    folder = evidence(kernels=kernel_hash(), cells=[CELL])
    assert list(problems(quoted("151 µs"), folder, kernel_hash())) == []
    assert list(problems(quoted("151 µs"), folder, kernel_hash(ROOT / "policies"))) != []


def test_a_figure_without_evidence_fails(evidence):
    (problem,) = problems(quoted("151 µs", "gpu-other.json"), evidence(cells=[CELL]), NOW)
    assert "no such evidence" in problem


def test_a_dry_run_is_no_evidence(evidence):
    (problem,) = problems(quoted("151 µs"), evidence(how=DRY, cells=[CELL]), NOW)
    assert "no measurement" in problem


@pytest.mark.parametrize("figure", ["150", "151.3 and 152", "1.94", "160"])
def test_a_number_that_was_not_measured_fails(evidence, figure):
    """Single samples do not count: among many, anything is found."""
    assert list(problems(quoted(figure), evidence(cells=[CELL]), NOW))


@pytest.mark.parametrize(
    "text",
    [
        "<!-- gpu: gpu-subnets.json -->\n151 µs",
        "151 µs\n<!-- /gpu -->",
        "<!-- gpu: a --><!-- gpu: gpu-subnets.json -->151<!-- /gpu -->",
    ],
)
def test_a_mark_without_its_counterpart_fails(evidence, text):
    assert any("counterpart" in p for p in problems(text, evidence(cells=[CELL]), NOW))


@pytest.mark.parametrize("text", ["about 151 µs", "twice: 1.9×", "4.3 TB/s", "3 times faster"])
def test_a_figure_outside_the_marks_is_seen(text):
    assert len(list(unmarked(text))) == 1
    assert list(unmarked(quoted(text))) == []


@pytest.mark.parametrize("text", ["nine minutes", "batches of 1, 8 and 32", "float64 to 1e-4"])
def test_what_is_no_figure_needs_no_marks(text):
    assert list(unmarked(text)) == []
