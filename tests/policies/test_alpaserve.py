"""AlpaServe: who is refused at arrival, and batches in powers of two."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.alpaserve import AlpaServe
from policies.types import Choice, Profile, QueueView, Waiting, WorkerView
from tests.policies.hand import HAND, NOW
from tests.policies.test_clockwork import check_lawful, view, views
from tests.policies.test_promises import profiles


def admits(policy, ahead, residuals, deadline=NOW + 90.0):
    """Whether one with this deadline is admitted after ``ahead`` that are due before it."""
    workers = [WorkerView(f"w{i}", residual=residual) for i, residual in enumerate(residuals)]
    waiting = tuple(Waiting(NOW + 1.0 + place) for place in range(ahead))
    return policy.admit(QueueView(waiting, workers), Waiting(deadline))


# mid takes 2.0, 3.2 and 5.5 seconds for 1, 2 and 4.
@pytest.mark.parametrize(
    ("most", "slo", "ahead", "residuals", "admitted", "why"),
    [
        (1, 2.0, 0, [0.0], True, "alone, at once"),
        (1, 1.9, 0, [0.0], False, "alone it takes 2.0"),
        (1, 3.5, 0, [1.5], True, "when the worker is done: 1.5 + 2.0"),
        (1, 3.4, 0, [1.5], False, "just not"),
        (1, 6.0, 2, [0.0], True, "third of three: 6.0"),
        (1, 5.9, 2, [0.0], False, "just not"),
        (1, 5.0, 2, [0.0, 1.0], True, "0 to 2, 1 to 3, and then 2 to 4: 4.0"),
        (1, 3.9, 2, [0.0, 1.0], False, "just not"),
        (4, 5.5, 3, [0.0], True, "with those ahead in one batch of four"),
        (4, 10.9, 4, [0.0], False, "after a full batch, in one that may become full: 11.0"),
        (4, 11.0, 4, [0.0], True, "just"),
        (4, 11.0, 7, [0.0], True, "still the same batch"),
        (4, 11.0, 8, [0.0], False, "the third batch"),
        (4, 9.5, 5, [1.0, 4.0], True, "1.0 to 6.5, and this one 4.0 to 9.5"),
        (4, 9.4, 5, [1.0, 4.0], False, "just not"),
        (4, 3.2, 1, [0.0], True, "four never fit into 3.2: planned in batches of two"),
        (4, 3.2, 2, [0.0], False, "the second batch of two"),
        (2, 6.4, 3, [0.0], True, "the second batch of two"),
        (3, 6.4, 3, [0.0], True, "three is no power of two"),
    ],
)
def test_a_query_is_admitted_if_it_is_predicted_to_be_in_time(
    most, slo, ahead, residuals, admitted, why
):
    policy = AlpaServe(HAND, "mid", max_batch=most, slo=slo)
    assert admits(policy, ahead, residuals) is admitted, why


def test_only_what_is_due_before_it_is_ahead_of_it():
    policy = AlpaServe(HAND, "mid", max_batch=1, slo=4.0)
    # Two of the five are due no later than 2.0 from now.
    assert not admits(policy, 5, [0.0], deadline=NOW + 2.0)
    assert admits(policy, 5, [0.0], deadline=NOW + 1.5)


def test_without_workers_nothing_is_predicted():
    assert admits(AlpaServe(HAND, slo=1.0), 3, [])


def test_without_an_slo_it_is_what_a_waiting_query_had_left_at_a_tick():
    policy = AlpaServe(HAND, "mid", max_batch=1)
    assert admits(policy, 40, [0.0])  # nothing is known yet
    policy.on_tick(QueueView.of([]), NOW)
    assert admits(policy, 40, [0.0])
    policy.on_tick(view(1.0, 6.0), NOW)
    assert admits(policy, 2, [0.0])
    assert not admits(policy, 3, [0.0])
    policy.on_tick(view(1.0, 3.0), NOW)  # the most of all ticks counts
    assert admits(policy, 2, [0.0])


def test_a_given_slo_is_not_learned_over():
    policy = AlpaServe(HAND, "mid", max_batch=1, slo=2.0)
    policy.on_tick(view(90.0), NOW)
    assert not admits(policy, 1, [0.0])


@given(st.integers(0, 60), st.lists(st.integers(0, 9), min_size=1, max_size=5), st.integers(1, 60))
def test_admission_without_batching_is_the_published_one(ahead, residuals, slo):
    """Each request in turn goes to the group whose clock is the least, for its own time."""
    clocks = [float(residual) for residual in residuals]
    for _ in range(ahead + 1):
        least = clocks.index(min(clocks))
        clocks[least] += 2.0
        finish = clocks[least]
    policy = AlpaServe(HAND, "mid", max_batch=1, slo=float(slo))
    assert admits(policy, ahead, residuals) is (finish <= slo)


POWERS = Profile.from_table([("only", 70.0, {1: 1.0, 2: 1.5, 3: 1.8, 4: 2.5, 6: 3.0})])


@pytest.mark.parametrize(
    ("most", "slacks", "expected", "why"),
    [
        (None, [9.0] * 7, (4, 0), "six is no power of two"),
        (None, [9.0] * 3, (2, 0), "four is not filled, three no power of two"),
        (None, [2.4] * 7, (2, 0), "four take 2.5"),
        (2, [9.0] * 7, (2, 0), "capped"),
        (3, [9.0] * 7, (2, 0), "capped"),
        (1, [9.0] * 7, (1, 0), "no batching"),
        (None, [0.9, 1.0, 9.0], (1, 1), "the first is lost, the second must go alone"),
        (None, [0.5, 0.9], (1, 2), "both are lost"),
    ],
)
def test_the_batch_is_the_largest_power_of_two_in_time_for_the_head(most, slacks, expected, why):
    policy = AlpaServe(POWERS, max_batch=most)
    assert policy.choose(view(*slacks), NOW) == Choice("only", *expected), why


def test_without_a_power_of_two_the_smallest_batch_is_left():
    profile = Profile.from_table([("only", 70.0, {3: 1.0, 6: 1.5})])
    policy = AlpaServe(profile, slo=2.0)
    assert policy.choose(view(*[9.0] * 7), NOW) == Choice("only", 3)
    assert admits(policy, 5, [0.0])
    assert not admits(policy, 6, [0.0])


@given(profiles(), views(), st.none() | st.integers(1, 20), st.floats(0.1, 60.0))
def test_it_is_lawful_whatever_waits(profile, seen, most, slo):
    policy = AlpaServe(profile, max_batch=most, slo=slo)
    check_lawful(policy.choose(seen, NOW), profile, seen)
    assert policy.admit(seen, Waiting(NOW + slo)) in {True, False}


@given(profiles(), st.integers(0, 30), st.floats(0.0, 20.0), st.floats(0.1, 60.0))
def test_a_longer_queue_or_a_busier_worker_never_helps(profile, ahead, residual, slo):
    policy = AlpaServe(profile, slo=slo)
    if not admits(policy, ahead, [residual]):
        assert not admits(policy, ahead + 1, [residual])
        assert not admits(policy, ahead, [residual + 1.0])


def test_nothing_waits_nothing_is_chosen():
    assert AlpaServe(HAND).choose(QueueView.of([]), NOW) is None
