"""Intervals against a table of Student's t; rows and tables against numbers worked out by hand."""

from dataclasses import replace
from math import isnan, sqrt

import pytest

from loadtest.compare.cells import Finished
from loadtest.compare.results import Interval, Results
from loadtest.compare.study import Cell, Prepared, Setting
from loadtest.compare.summary import BoundSummary, RunSummary
from loadtest.compare.tables import COLUMNS, TableCell, column_cells, overview, setting_table
from tests.loadtest.compare.small_study import small_study

CALM = Setting("calm", 2)
RUN = RunSummary(100, 1.0, 75.0, 75.0, 75.0, 0.01, 0.02, 0.0, 0.0, 10, 10.0, 12, 1e-6, 2e-6)


def results(runs, bounds=(), study=None):
    """From {(policy, seed): run} and {seed: utility}."""
    prepared = Prepared.of(study or small_study())
    finished = [Finished(Cell(CALM, seed, label), run=run) for (label, seed), run in runs.items()]
    finished += [
        Finished(Cell(CALM, seed), bound=BoundSummary(utility, utility, None))
        for seed, utility in dict(bounds).items()
    ]
    return Results.of(prepared, finished, [])


@pytest.mark.parametrize(
    ("values", "half"),
    [
        ([0.0, 2.0], 12.706),  # s = sqrt(2), s / sqrt(2) = 1, t(1) = 12.706
        ([1.0, 2.0, 3.0], 4.303 / sqrt(3)),  # s = 1, t(2) = 4.303
        ([5.0, 5.0, 5.0, 5.0], 0.0),
        ([0.0, 0.0, 0.0, 0.0, 0.0, 6.0], 2.571),  # s² = 30 / 5 = 6, s / sqrt(6) = 1, t(5) = 2.571
    ],
)
def test_the_interval_is_students(values, half):
    found = Interval.of(values)

    assert found.mean == sum(values) / len(values)
    assert found.half == pytest.approx(half, abs=1e-3)
    assert (found.least, found.most, found.count) == (min(values), max(values), len(values))


def test_one_value_has_no_interval_and_none_has_no_mean():
    assert isnan(Interval.of([3.0, None]).half)
    assert Interval.of([None]) is None


def test_a_gap_is_taken_seed_by_seed():
    found = results(
        {("slackfit", 0): RUN, ("slackfit", 1): replace(RUN, utility=70.0)}, {0: 76.0, 1: 78.0}
    )

    gap = found.rows(CALM)[0].gap
    assert (gap.mean, gap.least, gap.most) == (4.5, 1.0, 8.0)
    assert found.ceiling(CALM).utility.mean == 77.0


def test_a_policy_without_a_finished_run_has_no_row():
    found = results({("slackfit", 0): RUN})

    assert [row.policy for row in found.rows(CALM)] == ["slackfit"]
    assert found.ceiling(CALM) is None


def column(title):
    return next(each for each in COLUMNS if each.title == title)


def best_of(title, **values):
    """Which of two runs are marked, given (first, second) for each field."""
    first = replace(RUN, **{name: pair[0] for name, pair in values.items()})
    second = replace(RUN, **{name: pair[1] for name, pair in values.items()})
    largest = small_study().policies[1].label
    rows = results({("slackfit", 0): first, (largest, 0): second}).rows(CALM)
    return [cell.best for cell in column_cells(column(title), rows)]


def test_the_best_is_marked_and_so_is_what_looks_the_same():
    assert best_of("Utility", utility=(75.0, 75.01)) == [False, True]
    assert best_of("Utility", utility=(75.0, 75.0001)) == [True, True]
    assert best_of("p99 (ms)", latency_p99=(0.02, 0.03)) == [True, False]
    assert best_of("Dropped (%)", dropped=(0.1, 0.2)) == [False, False]


def test_who_misses_more_than_one_in_a_hundred_is_not_the_most_accurate():
    few = {"attainment": (0.995, 0.5), "mean_accuracy": (75.0, 80.0)}
    assert best_of("Mean accuracy (%)", **few) == [True, False]
    assert best_of("Mean accuracy (%)", mean_accuracy=(75.0, None)) == [True, False]


def test_a_cell_shows_mean_interval_and_lowest_seed():
    runs = {("slackfit", 0): RUN, ("slackfit", 1): replace(RUN, utility=77.0)}
    heads, lines = setting_table(results(runs), CALM)

    # s / sqrt(2) = 1, so the half width is t(1) = 12.706.
    expected = TableCell("76.000", ("± 12.706", "min 75.000"), best=True)
    assert lines[0][heads.index("Utility")] == expected


def test_the_overview_ends_with_the_bound_and_tells_tuned_loads_apart():
    tuned = tuple(replace(each, tuned_on=True) for each in small_study().workloads)
    fresh = replace(tuned[0], label="fresh", tuned_on=False)
    study = small_study(workloads=(*tuned, fresh))
    cells = {Setting("calm", 2): (75.0, 76.0), Setting("fresh", 2): (70.0, 80.0)}
    finished = [
        each
        for setting, (utility, bound) in cells.items()
        for each in (
            Finished(Cell(setting, 0, "slackfit"), run=replace(RUN, utility=utility)),
            Finished(Cell(setting, 0), bound=BoundSummary(bound, bound, None)),
        )
    ]
    heads, lines = overview(Results.of(Prepared.of(study), finished, []))

    slackfit, largest, bound = [[cell.text for cell in line] for line in lines]
    assert heads[1:4] == [
        "Below the bound, mean",
        "… of those not tuned on",
        "Lowest attainment (%)",
    ]
    assert slackfit == ["slackfit", "5.500", "10.000", "100.000", "75.000", "70.000"]
    assert largest == ["fixed subnet=largest", *"–––––"]
    assert bound == ["bound", "", "", "", "76.000", "80.000"]
