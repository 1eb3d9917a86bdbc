"""What the live picture says, read back as text."""

import io

import numpy as np
from rich.console import Console

from loadtest.demo_plan import make_plan
from loadtest.demo_view import LiveView
from loadtest.records import Record
from policies.types import Profile

PROFILE = Profile.from_table([("small", 90.0, {4: 0.004}), ("large", 98.0, {4: 0.040})])
PLAN = make_plan(PROFILE, seconds=40.0)  # one cell of a strip is one second
ARRIVALS = np.array([0.1, 0.2, 0.3, 1.1, 1.2, 2.5])


def view(*records: Record) -> LiveView:
    shown = LiveView("slackfit", PLAN, PROFILE, ARRIVALS)
    for record in records:
        shown.add(record)
    shown.update()
    return shown


def text(shown: LiveView, now: float, under_way: int = 0, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    with console.capture() as capture:
        console.print(shown.render(now, under_way))
    return capture.get()


def row(picture: str, name: str) -> str:
    return next(line for line in picture.splitlines() if name in line)


def answered(arrival: float, subnet: str, accuracy: float, **more: object) -> Record:
    return Record(arrival, arrival + 0.08, arrival + 0.01, subnet, accuracy, **more)


def test_numbers_are_those_of_the_last_second():
    picture = text(view(
        answered(0.1, "small", 90.0), answered(1.1, "large", 98.0), answered(1.2, "small", 90.0),
        Record(1.3, 1.38, None, dropped="expired"),
    ), now=2.0, under_way=7)  # fmt: skip
    assert "2/s" in row(picture, "arrival rate")
    assert "94.00 %" in row(picture, "accuracy served")  # of 98 and 90
    assert "66.7 %" in row(picture, "SLO attainment")  # 2 of 3
    assert "7" in row(picture, "under way")
    assert "50 %" in row(picture, "large")


def test_counters_are_those_of_the_whole_run():
    picture = text(view(
        answered(0.1, "small", 90.0, correct=True), answered(1.1, "large", 98.0, correct=False),
        Record(0.2, 0.28, 5.0, "large", 98.0), Record(0.3, 0.38, None, dropped="expired"),
    ), now=3.0)  # fmt: skip
    assert "4 done: 2 met, 1 late, 1 expired;  50.00 % of the answers are right" in picture


def test_before_the_first_answer_there_are_no_numbers():
    picture = text(view(), now=0.0)
    assert "calm, 0 of 40 s" in picture
    assert "0 done: 0 met" in picture


def test_a_narrow_terminal_is_wide_enough():
    assert max(len(line) for line in text(view(), now=40.0).splitlines()) <= 80


def test_with_many_subnets_only_those_that_answer_are_listed():
    many = Profile.from_table([(f"net{i}", 80.0 + i, {4: 0.01 * (i + 1)}) for i in range(12)])
    shown = LiveView("slackfit", make_plan(many, seconds=40.0), many, ARRIVALS)
    shown.add(answered(0.1, "net7", 87.0))
    shown.update()
    picture = text(shown, now=1.0)
    assert "net7" in picture
    assert "net8" not in picture


def test_one_line_says_the_same():
    shown = view(answered(0.1, "large", 98.0), Record(0.2, 0.28, None, dropped="shed"))
    assert shown.line(1.0, 3) == (
        "slackfit:    1 s calm, 3 queries/s, accuracy 98.00 %, SLO attainment 50.0 %, 3 under way"
    )


def test_one_line_before_the_first_answer_has_no_numbers():
    assert "accuracy -, SLO attainment -" in view().line(0.5, 3)
