"""INFaaS: the cheapest variant that is accurate enough, and how it changes with the load."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.infaas import INFaaS
from policies.types import Choice, Profile, QueueView, WorkerView
from tests.policies.hand import HAND, NOW, choose
from tests.policies.test_clockwork import check_lawful, views
from tests.policies.test_promises import profiles


@pytest.mark.parametrize(
    ("floor", "subnet"),
    [(0.0, "small"), (70.0, "small"), (70.1, "mid"), (75.0, "mid"), (79.9, "large")],
)
def test_the_cheapest_variant_that_is_accurate_enough_serves(floor, subnet):
    assert choose(INFaaS(HAND, floor), 1, 50.0) == Choice(subnet, 1)


def test_a_requirement_that_no_subnet_meets_is_refused():
    with pytest.raises(ValueError, match=r"no subnet reaches 80.1 percent; the best has 80"):
        INFaaS(HAND, 80.1)


def test_a_variant_that_another_one_beats_is_not_the_cheapest():
    profile = Profile.from_table([("bad", 60.0, {1: 9.0}), ("good", 70.0, {1: 1.0})])
    assert choose(INFaaS(profile), 1, 50.0).subnet == "good"


# small takes 1.0, 1.5 and 2.5 seconds for 1, 2 and 4. Deadlines 1 second apart.
@pytest.mark.parametrize(
    ("drop", "queue", "slack", "expected", "why"),
    [
        ("early", 4, 2.5, ("small", 4, 0), "four fit"),
        ("early", 4, 2.4, ("small", 2, 1), "three are left, which fill two: 1.5 of 3.4"),
        ("none", 4, 2.4, ("small", 2, 0), "two fit"),
        ("none", 4, 0.5, ("small", 1, 0), "nothing fits"),
    ],
)
def test_the_batch_follows_the_slack(drop, queue, slack, expected, why):
    assert choose(INFaaS(HAND, drop=drop), queue, slack) == Choice(*expected), why


def tick(policy, load, workers=2):
    present = [WorkerView(f"w{i}") for i in range(workers)]
    policy.on_tick(QueueView((), present, load, capacity=float(workers)), NOW)
    return choose(policy, 1, 50.0).subnet


# Two workers with batches of 4 do 3.2, 1.4545 and 0.6154 queries per second with small, mid and
# large. Up to 95 % of that is fine: 3.04, 1.3818, 0.5846. To change for the more accurate, the
# load must be within 95 % of 40 % of it: 1.216, 0.5527, 0.2338.
@pytest.mark.parametrize(
    ("before", "load", "after", "why"),
    [
        ("small", 0.23, "large", "ample even for large"),
        ("small", 0.24, "mid", "ample for mid only"),
        ("small", 0.56, "small", "mid would do, but is not ample"),
        ("small", 9.0, "small", "too much for any: the most capacity"),
        ("large", 0.58, "large", "not ample, but enough"),
        ("large", 0.59, "mid", "too much for large, enough for mid"),
        ("large", 1.39, "small", "too much for mid"),
        ("large", 9.0, "small", "too much for any"),
        ("mid", 1.38, "mid", "enough"),
        ("mid", 0.24, "mid", "ample for mid itself only"),
        ("mid", 0.23, "large", "ample for large"),
    ],
)
def test_the_variant_changes_when_the_load_leaves_its_band(before, load, after, why):
    policy = INFaaS(HAND, autoscale=True)
    tick(policy, 0.0)
    assert tick(policy, {"small": 2.0, "mid": 0.3, "large": 0.1}[before]) == before
    assert tick(policy, load) == after, why


def test_capacity_is_that_of_batches_within_half_the_slo():
    # Half of 6 seconds: 4 with small, 1 with mid and none with large, so that two workers do 3.2,
    # 1.0 and nothing. 0.38 of 1.0 is ample for mid.
    policy = INFaaS(HAND, autoscale=True, slo=6.0)
    tick(policy, 0.0)
    assert tick(policy, 0.39) == "small"
    assert tick(policy, 0.37) == "mid"
    assert tick(policy, 0.001) == "mid"


def test_a_slower_worker_counts_for_less():
    # 1.5 such workers do 1.0909 with mid, of which 0.4145 are ample and 1.0364 enough.
    policy = INFaaS(HAND, autoscale=True)
    workers = [WorkerView("fast"), WorkerView("slow", "old")]
    after = []
    for load in (0.0, 0.41, 1.03, 1.04):
        policy.on_tick(QueueView((), workers, load, capacity=1.5), NOW)
        after.append(choose(policy, 1, 50.0).subnet)
    assert after == ["small", "mid", "mid", "small"]


def test_the_slacks_are_options():
    policy = INFaaS(HAND, autoscale=True, slack=0.5, downscale_slack=0.0)
    tick(policy, 0.0)
    # Half of 0.6154 is 0.3077 and there is no band between.
    assert tick(policy, 0.31) == "mid"
    assert tick(policy, 0.30) == "large"
    assert tick(policy, 0.31) == "mid"


def test_what_is_too_inaccurate_is_not_changed_to():
    policy = INFaaS(HAND, 75.0, autoscale=True)
    tick(policy, 0.0)
    assert tick(policy, 0.1) == "large"
    assert tick(policy, 9.0) == "mid"


def test_the_first_tick_and_one_without_workers_change_nothing():
    policy = INFaaS(HAND, autoscale=True)
    assert tick(policy, 0.01) == "small"
    assert tick(policy, 0.01, workers=0) == "small"
    assert tick(policy, 0.01) == "large"
    assert tick(policy, 9.0, workers=0) == "large"


def test_without_autoscaling_the_variant_stays():
    policy = INFaaS(HAND)
    assert [tick(policy, load) for load in (0.0, 0.01, 9.0)] == ["small"] * 3


@pytest.mark.parametrize("slacks", [(-0.1, 0.6), (1.0, 0.6), (0.05, 1.0)])
def test_slacks_are_shares(slacks):
    slack, downscale = slacks
    with pytest.raises(ValueError, match="shares below 1"):
        INFaaS(HAND, slack=slack, downscale_slack=downscale)


@given(profiles(), views(), st.lists(st.floats(0.0, 99.0), max_size=5), st.floats(50.0, 55.0))
def test_it_is_lawful_and_accurate_enough_whatever_comes(profile, seen, loads, floor):
    floor = min(floor, profile.accuracies[-1])
    policy = INFaaS(profile, floor, autoscale=True)
    for load in loads:
        policy.on_tick(QueueView((), seen.workers, load), NOW)
    answer = policy.choose(seen, NOW)
    check_lawful(answer, profile, seen)
    assert profile.accuracy(answer.subnet) >= floor


def test_nothing_waits_nothing_is_chosen():
    assert INFaaS(HAND).choose(QueueView.of([]), NOW) is None
