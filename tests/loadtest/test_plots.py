"""A picture file comes out of whatever a run may be like; how it looks is for eyes."""

import pytest
from PIL import Image

from loadtest.plots import Series, plot_timeline
from loadtest.report import Window

FULL = (Window(0.0, 0.5, 10, 10, 97.0, {}), Window(0.5, 0.5, 20, 15, 95.0, {}))
WITH_GAPS = (Window(0.0, 0.5, 0, 0, None, {}), Window(0.5, 0.2, 20, 0, None, {}))


@pytest.mark.parametrize(
    "runs",
    [
        [Series("slackfit", FULL)],
        [Series("slackfit", FULL), Series("fixed", WITH_GAPS)],
        [Series("cut short", FULL[:1])],
        [Series(f"run {i}", FULL) for i in range(6)],
    ],
    ids=["one run", "two, one with gaps", "one window", "more runs than colours"],
)
def test_a_picture_is_made(tmp_path, runs):
    path = tmp_path / "picture.png"
    plot_timeline(path, runs, title="A burst", subtitle="SLO 50 ms", capacity=30.0, shaded=(0, 1))
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.width >= 1200


@pytest.mark.parametrize("shaded", [(0.6, 100.0), (50.0, 100.0)])
def test_what_lies_beyond_an_interrupted_run_does_not_spoil_the_picture(tmp_path, shaded):
    """matplotlib warns, hence fails here, if something outside leaves no room for the panels."""
    plot_timeline(tmp_path / "p.png", [Series("slackfit", FULL)], title="Cut", shaded=shaded)


def test_capacity_and_shading_may_be_left_out(tmp_path):
    plot_timeline(tmp_path / "picture.png", [Series("slackfit", WITH_GAPS)], title="Silence")
    assert (tmp_path / "picture.png").exists()
