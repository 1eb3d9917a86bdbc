"""Each query is counted once, and the counts are enough for the figures that people want."""

import json
from itertools import pairwise

import pytest

from superserve.messages import Complete, Dispatch, Drop, DropReason, Fail, Query, Wake
from superserve.metrics import LATENCY_EDGES, Metrics, percentile


def batch(*deadlines, subnet="small", accuracy=70.0):
    queries = tuple(Query(i, 0.0, deadline) for i, deadline in enumerate(deadlines))
    return Dispatch(0, "w", "", subnet, accuracy, queries, 0.0, 1.0)


def counted(*commands):
    metrics = Metrics()
    metrics.observe(commands)
    return metrics.snapshot()


def test_nothing_happened_everything_is_zero():
    snapshot = Metrics().snapshot()
    assert (snapshot["arrived"], snapshot["met"], snapshot["late"]) == (0, 0, 0)
    assert snapshot["dropped"] == {}


def test_arrivals_are_counted():
    metrics = Metrics()
    metrics.arrive()
    metrics.arrive()
    assert metrics.snapshot()["arrived"] == 2


def test_an_answer_at_the_deadline_is_on_time_and_after_it_is_late():
    snapshot = counted(Complete(batch(0.9, 1.0, 1.1), 1.0))
    assert (snapshot["met"], snapshot["late"]) == (2, 1)


def test_the_accuracy_is_summed_over_what_was_on_time():
    snapshot = counted(
        Complete(batch(9.0, 9.0, accuracy=70.0), 1.0), Complete(batch(9.0, 0.5, accuracy=76.0), 1.0)
    )
    assert snapshot["accuracy_sum"] == 70.0 + 70.0 + 76.0
    assert snapshot["accuracy_sum"] / snapshot["met"] == 72.0


def test_answers_are_counted_by_subnet_and_batches_by_size():
    snapshot = counted(
        Complete(batch(9.0, 9.0, subnet="small"), 1.0),
        Complete(batch(9.0, 9.0, subnet="small"), 1.0),
        Complete(batch(9.0, subnet="large"), 1.0),
    )
    assert snapshot["subnets"] == {"small": 4, "large": 1}
    assert snapshot["batch_sizes"] == {"2": 2, "1": 1}


def test_a_failed_batch_counts_its_queries():
    assert counted(Fail(batch(9.0, 9.0), 1.0))["failed"] == 2


def test_drops_are_counted_by_reason():
    query = Query(0, 0.0, 1.0)
    drops = [DropReason.EXPIRED, DropReason.SHED, DropReason.EXPIRED]
    assert counted(*(Drop(query, r, 1.0) for r in drops))["dropped"] == {"expired": 2, "shed": 1}


def test_commands_that_answer_nothing_are_passed_over():
    assert counted(Wake(1.0), batch(9.0)) == Metrics().snapshot()


@pytest.mark.parametrize(
    ("latency", "upper"),
    [(0.0, 0.0005), (0.0005, 0.0005), (0.004, 0.005), (30.0, 30.0), (31.0, None)],
)
def test_a_latency_falls_under_the_next_edge(latency, upper):
    histogram = counted(Complete(batch(99.0), latency))["latency"]
    assert [e for e, n in zip(histogram["edges"], histogram["counts"], strict=True) if n] == [upper]
    assert histogram["sum"] == latency


def test_the_edges_ascend_by_less_than_a_factor_of_two():
    ratios = [b / a for a, b in pairwise(LATENCY_EDGES)]
    assert all(1 < ratio < 2 for ratio in ratios)


def test_a_snapshot_is_json_and_stays_as_it_was():
    metrics = Metrics()
    metrics.observe([Complete(batch(9.0), 1.0)])
    snapshot = metrics.snapshot()
    before = json.dumps(snapshot)
    metrics.observe([Complete(batch(9.0), 1.0), Drop(Query(0, 0.0, 1.0), DropReason.SHED, 1.0)])
    assert json.dumps(snapshot) == before


def test_percentiles_are_read_off_the_histogram():
    # 0.002 and 0.004 lie under the edges 0.002 and 0.005.
    histogram = counted(*(Complete(batch(9.0), t) for t in [0.002] * 90 + [0.004] * 10))["latency"]
    assert percentile(histogram, 0.5) == 0.002
    assert percentile(histogram, 0.9) == 0.002
    assert percentile(histogram, 0.99) == 0.005


def test_there_is_no_percentile_of_nothing_nor_beyond_the_last_edge():
    assert percentile(Metrics().snapshot()["latency"], 0.5) is None
    assert percentile(counted(Complete(batch(99.0), 60.0))["latency"], 0.5) is None
