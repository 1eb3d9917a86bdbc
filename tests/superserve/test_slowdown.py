"""How late batches are, as the scheduler learns it and as policies see it."""

from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.types import Choice, Profile, QueueView
from superserve.messages import Dispatch, Query
from superserve.scheduler import Scheduler
from superserve.slowdown import HIGH, MEMORY, PRIOR_RATIO, Slowdown

PROFILE = Profile.from_table([("small", 70.0, {1: 1.0, 2: 1.5}), ("large", 80.0, {1: 4.0, 2: 6.0})])


def seen(ratios: list[float], planned: float = 1.0) -> Slowdown:
    slowdown = Slowdown()
    for ratio in ratios:
        slowdown.record(planned, planned * ratio)
    return slowdown


def test_before_any_batch_a_quarter_more_is_assumed_for_deadlines_and_nothing_for_throughput() -> (
    None
):
    assert (Slowdown().mean, Slowdown().high) == (1.0, PRIOR_RATIO)


def test_what_was_assumed_is_forgotten_when_enough_batches_were_as_planned() -> None:
    assert seen([1.0] * MEMORY).high == 1.0


def test_batches_faster_than_planned_raise_the_throughput_but_lend_no_time_to_deadlines() -> None:
    slowdown = seen([0.5] * MEMORY)
    assert (slowdown.mean, slowdown.high) == (0.5, 1.0)


def test_one_hiccup_among_many_batches_does_not_count_for_deadlines() -> None:
    assert seen([1.0] * MEMORY + [50.0]).high == 1.0


def test_a_lasting_slowdown_shows_after_a_few_batches() -> None:
    few = MEMORY - ceil(HIGH * MEMORY) + 1
    assert seen([1.0] * MEMORY + [1.5] * (few - 1)).high == 1.0
    assert seen([1.0] * MEMORY + [1.5] * few).high == 1.5


def test_the_mean_weighs_batches_by_their_planned_time() -> None:
    slowdown = Slowdown()
    slowdown.record(3.0, 3.0)
    slowdown.record(1.0, 2.0)
    assert slowdown.mean == 1.25


@given(st.lists(st.floats(0.1, 10.0), min_size=MEMORY, max_size=3 * MEMORY))
def test_both_are_those_of_the_last_batches_only(ratios: list[float]) -> None:
    last = sorted(round(ratio, 6) for ratio in ratios[-MEMORY:])
    slowdown = seen(ratios)
    assert slowdown.high == max(1.0, last[ceil(HIGH * MEMORY) - 1])
    assert slowdown.mean == pytest.approx(sum(ratios[-MEMORY:]) / MEMORY, rel=1e-5)


class Watching:
    """Takes one at a time, and keeps what it was shown."""

    def __init__(self) -> None:
        self.shown: list[tuple[float, QueueView]] = []  # slack of the head, and the view

    def choose(self, view: QueueView, now: float) -> Choice:
        self.shown.append((view.head.deadline - now, view))
        return Choice("small", 1)


def served(compensate: bool, took: float, count: int) -> list[tuple[float, QueueView]]:
    """One worker runs queries one after the other, each planned to take a second."""
    policy = Watching()
    scheduler = Scheduler({("", "cpu"): PROFILE}, lambda _: policy, compensate=compensate)
    now = 0.0
    scheduler.worker_joined("w", "cpu", now)
    for id_ in range(count):
        (dispatch,) = (
            c
            for c in scheduler.arrive(Query(id_, now, now + 100.0), now)
            if isinstance(c, Dispatch)
        )
        now += took
        scheduler.worker_free("w", dispatch.id, now)
    return policy.shown


def test_policies_see_the_slowdown_of_the_batches_that_came_back() -> None:
    _, view = served(compensate=False, took=2.0, count=MEMORY + 1)[-1]
    assert (view.slowdown, view.slowdown_p95) == (2.0, 2.0)


def test_compensated_policies_get_the_slack_divided_by_it_and_see_none() -> None:
    slack, view = served(compensate=True, took=2.0, count=MEMORY + 1)[-1]
    assert slack == pytest.approx(50.0)
    assert view.slowdown_p95 == 1.0


def test_a_second_credit_is_timed_from_the_end_of_the_first() -> None:
    policy = Watching()
    scheduler = Scheduler({("", "cpu"): PROFILE}, lambda _: policy)
    scheduler.worker_joined("w", "cpu", 0.0, credits=2)
    for id_ in range(2):
        scheduler.arrive(Query(id_, 0.0, 100.0), 0.0)
    scheduler.worker_free("w", 0, 1.0)
    scheduler.worker_free("w", 1, 2.0)
    scheduler.arrive(Query(2, 2.0, 102.0), 2.0)
    assert policy.shown[-1][1].slowdown == 1.0


def test_failed_batches_say_nothing_about_time() -> None:
    policy = Watching()
    scheduler = Scheduler({("", "cpu"): PROFILE}, lambda _: policy)
    scheduler.worker_joined("w", "cpu", 0.0)
    scheduler.arrive(Query(0, 0.0, 100.0), 0.0)
    scheduler.dispatch_failed("w", 0, 30.0)
    scheduler.arrive(Query(1, 30.0, 130.0), 30.0)
    assert policy.shown[-1][1].slowdown == 1.0
