"""The measures, against a table worked by hand."""

import pytest

from loadtest.records import Record
from loadtest.report import Percentiles, summarise, timeline

# SLO 100 ms. Six queries: three met (90, 80, 80 %), one late, two dropped.
TABLE = [
    Record(0.0, 0.1, 0.05, "big", 90.0, correct=True, server_met=True),
    Record(0.2, 0.3, 0.30, "small", 80.0, correct=True, server_met=True),
    Record(0.4, 0.5, 0.41, "small", 80.0, correct=False, server_met=True, lateness=0.004),
    Record(0.6, 0.7, 0.80, "big", 90.0, correct=True, server_met=True, lateness=0.002),
    Record(1.0, 1.1, None, dropped="expired", lateness=0.001),
    Record(1.4, 1.5, None, dropped="shed"),
]


@pytest.mark.parametrize(
    ("measure", "expected"),
    [
        ("queries", 6),
        ("met", 3),
        ("late", 1),
        ("dropped", {"expired": 1, "shed": 1}),
        ("attainment", 3 / 6),
        ("server_attainment", 4 / 6),  # the late one looked on time to the server
        ("mean_accuracy", (90 + 80 + 80) / 3),  # the late 90 does not count
        ("effective_accuracy", (90 + 80 + 80) / 6),
        ("utility", (90 + 80 + 80 - 300) / 6),
        ("correctness", 75.0),  # of the four results
        ("subnets", {"big": 2, "small": 2}),
    ],
)
def test_measures_of_the_table(measure, expected):
    assert getattr(summarise(TABLE), measure) == pytest.approx(expected)


def test_latency_is_that_of_the_results_only():
    latency = summarise(TABLE).latency
    assert latency is not None
    # 50, 100, 10 and 200 ms
    assert (latency.p50, latency.max) == (pytest.approx(0.05), pytest.approx(0.2))


def test_percentiles_are_nearest_ranks():
    found = Percentiles.of(float(value) for value in range(1, 201))
    assert found == Percentiles(p50=100.0, p90=180.0, p95=190.0, p99=198.0, max=200.0)
    assert Percentiles.of([]) is None


def test_a_run_with_nothing_met_has_no_accuracy_and_the_worst_utility():
    report = summarise(TABLE[4:])
    assert (report.mean_accuracy, report.effective_accuracy, report.utility) == (None, 0.0, -100.0)
    assert report.latency is None


def test_an_empty_run_has_no_report():
    with pytest.raises(ValueError, match="no records"):
        summarise([])


@pytest.mark.parametrize(("slo", "trusted"), [(0.080, True), (0.079, False)])
def test_a_run_counts_only_if_its_generator_was_late_by_at_most_5_percent_of_the_slo(slo, trusted):
    assert summarise(TABLE).trustworthy(slo) is trusted  # its lateness at p99 is 4 ms


def test_windows_hold_the_queries_that_arrived_in_them():
    first, second, third = timeline(TABLE, window=0.5, seconds=1.5)
    assert (first.start, first.rate, first.attainment) == (0.0, 3 / 0.5, 1.0)
    assert first.mean_accuracy == pytest.approx(250 / 3)
    assert first.subnets == {"big": 1, "small": 2}
    assert (second.queries, second.met, second.mean_accuracy) == (1, 0, None)
    assert (third.queries, third.attainment, third.subnets) == (2, 0.0, {})


def test_an_empty_window_is_there_and_has_no_attainment():
    windows = timeline([Record(2.5, 3.0, 2.6)], window=1.0, seconds=4.0)
    assert [window.queries for window in windows] == [0, 0, 1, 0]
    assert [window.attainment for window in windows] == [None, None, 1.0, None]


def test_the_last_window_is_as_short_as_the_run():
    windows = timeline([Record(1.1, 2.0, None, dropped="shed")], window=0.5, seconds=1.2)
    assert [window.seconds for window in windows] == pytest.approx([0.5, 0.5, 0.2])
    assert windows[-1].rate == pytest.approx(1 / 0.2)


def test_rounding_makes_no_extra_window():
    assert len(timeline([], window=0.1, seconds=0.3)) == 3


def test_a_query_outside_the_run_is_refused():
    with pytest.raises(ValueError, match="arrived at"):
        timeline([Record(2.0, 3.0, None)], window=1.0, seconds=2.0)
