"""Clipper's batch limit, step by step."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.clipper import Clipper
from policies.types import Choice, Profile, QueueView, Wait, WorkerView
from tests.policies.hand import HAND, NOW
from tests.policies.test_clockwork import check_lawful, view, views
from tests.policies.test_promises import profiles

# One second for each query, in batches of up to 16.
LINEAR = Profile.from_table([("only", 70.0, {size: float(size) for size in range(1, 17)})])


def steps(policy, count, residual=1.0):
    """The batch limit after each of ``count`` ticks, with one worker."""
    limits = []
    for _ in range(count):
        policy.on_tick(QueueView((), [WorkerView("w0", residual=residual)]), NOW)
        limits.append(policy.limit)
    return limits


def test_the_limit_grows_by_one_until_beyond_the_objective_and_then_shrinks_by_a_tenth():
    # 11 take 11 seconds, and nine tenths of 11, rounded down, are 9.
    assert steps(Clipper(LINEAR, slo=10.5), 15) == [*range(2, 12), 9, 10, 11, 9, 10]


def test_increase_and_backoff_are_options():
    # 13 take longer than 10 seconds, and so do 12.
    policy = Clipper(LINEAR, slo=10.0, increase=3, backoff=0.5)
    assert steps(policy, 7) == [4, 7, 10, 13, 6, 9, 12]


def test_the_limit_ends_at_the_largest_profiled_batch_and_at_one():
    assert steps(Clipper(LINEAR, slo=99.0), 20)[-4:] == [16] * 4
    assert steps(Clipper(LINEAR, slo=0.5), 4) == [1] * 4


def test_there_is_no_step_while_no_worker_is_busy():
    policy = Clipper(LINEAR, slo=10.0)
    assert steps(policy, 3, residual=0.0) == [1, 1, 1]
    assert steps(policy, 1) == [2]


def test_without_an_slo_the_objective_is_what_a_waiting_query_had_left_at_a_tick():
    policy = Clipper(LINEAR)
    assert steps(policy, 3) == [1, 1, 1]
    policy.on_tick(view(1.0, 3.5), NOW)
    assert steps(policy, 5) == [2, 3, 4, 3, 4]
    policy.on_tick(view(1.0), NOW)  # the most of all ticks counts
    assert steps(policy, 2) == [3, 4]


@pytest.mark.parametrize("slack", [-5.0, 0.1, 3.0, 99.0])
def test_the_batch_is_the_limit_whatever_the_deadlines(slack):
    policy = Clipper(LINEAR, slo=10.5)
    steps(policy, 6)
    assert policy.choose(view(*[slack] * 9), NOW) == Choice("only", 7)


def test_a_batch_that_is_not_full_waits_for_the_delay_of_its_first_query():
    policy = Clipper(LINEAR, slo=10.0, batch_delay=2.0)
    steps(policy, 3)
    # The first one came 1.5 ago: it is due in 8.5 of 10.
    assert policy.choose(view(8.5, 9.0, 9.5), NOW) == Wait(NOW + 0.5)
    assert policy.choose(view(8.5, 9.0, 9.5, 9.9), NOW) == Choice("only", 4)
    assert policy.choose(view(8.0, 9.0, 9.5), NOW) == Choice("only", 4)


def test_without_an_objective_nobody_waits():
    policy = Clipper(LINEAR, batch_delay=2.0)
    policy.limit = 4
    assert policy.choose(view(8.5), NOW) == Choice("only", 4)


@pytest.mark.parametrize(("increase", "backoff"), [(0, 0.9), (1, 1.0), (1, 0.0)])
def test_it_refuses_steps_that_do_not_grow_or_shrink(increase, backoff):
    with pytest.raises(ValueError, match="AIMD"):
        Clipper(HAND, increase=increase, backoff=backoff)


def test_the_subnet_is_the_most_accurate_unless_one_is_named():
    assert Clipper(HAND).choose(view(50.0), NOW).subnet == "large"
    assert Clipper(HAND, "mid").choose(view(50.0), NOW).subnet == "mid"


@given(profiles(), st.floats(0.01, 40.0))
def test_after_a_while_the_limit_is_within_one_step_of_the_largest_batch_in_time(profile, slo):
    policy = Clipper(profile, slo=slo)
    subnet = profile.largest
    steps(policy, 40)
    best = max(profile.largest_batch(subnet, slo), 1)
    for before, after in pairwise(steps(policy, 20)):
        late = profile.latency(subnet, before) > slo
        assert after <= before if late else after >= before
        assert 0.9 * best - 1 <= after <= best + 1


@given(profiles(), views(), st.floats(0.0, 9.0), st.integers(0, 40))
def test_it_is_lawful_whatever_waits(profile, seen, delay, ticks):
    policy = Clipper(profile, batch_delay=delay)
    for _ in range(ticks):
        policy.on_tick(seen, NOW)
    check_lawful(policy.choose(seen, NOW), profile, seen)


def test_nothing_waits_nothing_is_chosen():
    assert Clipper(HAND).choose(QueueView.of([]), NOW) is None
