"""Proteus: plans worked out by hand, and against all plans that there are."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.hull import Hull
from policies.proteus import Proteus, assigned, largest_batches, planned
from policies.types import Choice, Profile, QueueView, Wait, Waiting, WorkerView
from tests.policies.hand import HAND, NOW, choose
from tests.policies.test_promises import profiles

# Queries per second of a worker with batches of 4: small 1.6, mid 0.727.., large 0.307..
RATES = {"small": 4 / 2.5, "mid": 4 / 5.5, "large": 4 / 13.0}
W = ("w0", "w1", "w2", "w3")


def view(rate=0.0, workers=W, deadlines=(), asking="", slo=0.0):
    waiting = tuple(Waiting(deadline) for deadline in deadlines)
    found = tuple(WorkerView(name) for name in workers)
    return QueueView(waiting, found, rate, 1.0, asking, float(max(1, len(workers))), slo)


def run(policy, rate, begin, seconds, **options):
    """Tick as the scheduler would; when it ends."""
    for step in range(round(seconds / policy.tick_period)):
        policy.on_tick(view(rate, **options), begin + step * policy.tick_period)
    return begin + seconds


def subnets(policy, workers=W):
    """What each worker would serve with, by what it does with one query and all the time."""
    found = {}
    for name in workers:
        seen = view(workers=workers, deadlines=[NOW + 1e6], asking=name)
        found[name] = policy.choose(seen, NOW).subnet
    return [found[name] for name in workers]


# Whole workers, by hand, with beta = 1 and four of them.
@pytest.mark.parametrize(
    ("demand", "expected", "why"),
    [
        (0.0, {"large": 4}, "nothing to do: the most accurate"),
        (1.0, {"large": 4}, "four of the most accurate serve 1.23"),
        (1.5, {"large": 3, "mid": 1}, "three large 0.923, and mid 0.727 serves the rest 0.577"),
        (1.7, {"large": 2, "mid": 2}, "three large leave 0.777, more than mid serves alone"),
        (2.9, {"mid": 4}, "four mid serve 2.909"),
        (3.0, {"mid": 3, "small": 1}, "three mid 2.18, small 1.6"),
        (6.4, {"small": 4}, "what four of the fastest serve"),
    ],
)
def test_the_plan_by_hand(demand, expected, why):
    assert planned(HAND, RATES, 4, demand, beta=1.0) == expected, why


@pytest.mark.parametrize(
    ("demand", "beta", "expected", "why"),
    [
        (1.2, 1.05, {"large": 3, "mid": 1}, "1.26 is more than four large serve"),
        (6.4, 1.05, {"small": 4}, "beta falls to 1.0"),
        (6.5, 1.05, {"small": 4}, "beta falls to 0.95: 6.175, and with one mid they serve 5.53"),
        (99.0, 1.05, {"small": 4}, "not even 0.2 of it"),
    ],
)
def test_beta_is_lowered_until_the_workers_can_serve_that_much(demand, beta, expected, why):
    assert planned(HAND, RATES, 4, demand, beta) == expected, why


def test_the_plan_leaves_out_what_has_no_batch_in_half_the_slo():
    # Half of 8 s: small serves 4 (2.5 s), mid 2 (3.2 s), large none, as one takes 4 s exactly.
    assert largest_batches(HAND, 8.0) == {"small": 4, "mid": 2}
    assert largest_batches(HAND, 8.001) == {"small": 4, "mid": 2, "large": 1}


def test_without_any_batch_in_half_the_slo_there_is_still_a_plan():
    assert largest_batches(HAND, 2.0) == {"small": 1}


def mean_accuracy(profile, rates, counts, demand):
    """The most accurate workers are filled first; None if the demand is not served."""
    left = demand
    total = 0.0
    for subnet in reversed(profile.subnets):
        served = min(left, counts.get(subnet, 0) * rates.get(subnet, 0.0))
        total += served * profile.accuracy(subnet)
        left -= served
    return total / demand if left <= 1e-6 * demand else None


@settings(deadline=None)
@given(profiles(), st.integers(1, 4), st.floats(0.05, 1.0))
def test_a_plan_serves_the_demand_and_is_near_the_best_of_all_plans(profile, workers, load):
    profile = profile.pareto()
    sizes = largest_batches(profile, 1e9)
    rates = {s: b / profile.latency(s, b) for s, b in sizes.items()}
    demand = load * workers * max(rates.values())
    found = planned(profile, rates, workers, demand, beta=1.0)
    got = mean_accuracy(profile, rates, found, demand)
    plans = (
        dict(zip(profile.subnets, counts, strict=True))
        for counts in product(range(workers + 1), repeat=len(profile.subnets))
        if sum(counts) == workers
    )
    values = [mean_accuracy(profile, rates, plan, demand) for plan in plans]
    best = max(value for value in values if value is not None)
    relaxed = Hull.over([(s, 1 / rates[s], profile.accuracy(s)) for s in rates], 1e6)
    # Rounding down is what any plan does at worst that follows the relaxed one.
    mix = relaxed.mix(workers / demand)
    whole = int(demand * mix[-1][1] / rates[mix[-1][0]] + 1e-6)
    rounded = {mix[-1][0]: whole}
    rounded[mix[0][0]] = rounded.get(mix[0][0], 0) + workers - whole

    assert sum(found.values()) == workers
    assert got is not None
    assert got <= best + 1e-6
    assert best <= relaxed.accuracy(workers / demand) + 1e-3
    assert got >= mean_accuracy(profile, rates, rounded, demand) - 1e-6


@pytest.mark.parametrize(
    ("before", "counts", "expected", "why"),
    [
        ({}, {"large": 1, "small": 3}, "large small small small", "the first gets the best"),
        (
            {"w0": "small", "w1": "small", "w2": "large", "w3": "mid"},
            {"large": 1, "mid": 1, "small": 2},
            "small small large mid",
            "nothing changes",
        ),
        (
            {"w0": "small", "w1": "small", "w2": "large", "w3": "mid"},
            {"large": 2, "mid": 1, "small": 1},
            "small large large mid",
            "one more large: of those with small the second",
        ),
        ({"w9": "large"}, {"mid": 4}, "mid mid mid mid", "a worker that has left plays no part"),
    ],
)
def test_workers_keep_their_subnet_where_the_plan_allows_it(before, counts, expected, why):
    names = dict(zip(W, expected.split(), strict=True))
    assert assigned(W, counts, before) == names, why


def test_the_first_plan_comes_when_arrivals_are_seen_and_the_second_after_a_whole_window():
    policy = Proteus(HAND, period=10.0, beta=1.0, batching="greedy")
    policy.on_tick(view(0.0), 0.0)
    policy.on_tick(view(6.4), 0.05)
    assert subnets(policy) == ["small"] * 4
    policy.on_tick(view(1.0), 0.1)
    assert subnets(policy) == ["large"] * 4
    # A window later 3.0 counts with the weight 1 and the first look, 1.0, with 1.6 / 2.6: 2.24 in
    # all. One large and three mid serve 2.49, two large and two mid 2.07.
    run(policy, 3.0, 0.15, 1.05)
    assert sorted(subnets(policy)) == ["large", "mid", "mid", "mid"]


def test_between_two_plans_no_demand_changes_anything():
    policy = Proteus(HAND, period=10.0, beta=1.0, batching="greedy")
    now = run(policy, 1.0, 0.0, 3.0)
    assert subnets(policy) == ["large"] * 4
    now = run(policy, 6.4, now, 7.0)
    assert subnets(policy) == ["large"] * 4
    run(policy, 6.4, now, 2.0)
    assert subnets(policy) == ["small"] * 4


def test_a_shorter_period_follows_sooner():
    policy = Proteus(HAND, period=1.0, beta=1.0, batching="greedy")
    now = run(policy, 1.0, 0.0, 3.0)
    run(policy, 6.4, now, 4.0)
    assert subnets(policy) == ["mid"] + ["small"] * 3


@pytest.mark.parametrize(
    ("slo", "expected", "why"),
    [
        (None, "large", "no SLO was seen: batches of 4 for all, and four large serve 1.23"),
        (9.0, "large", "half of 9 s: one by one, four large serve 1.0"),
        (8.0, "mid", "large has no batch in less than 4 s; four mid serve 2.5"),
        (4.0, "small", "mid has none in less than 2 s"),
    ],
)
def test_what_the_slo_leaves_no_time_for_is_not_planned(slo, expected, why):
    policy = Proteus(HAND, slo=slo, beta=1.0, batching="greedy")
    run(policy, 0.9, 0.0, 2.0)
    assert subnets(policy) == [expected] * 4, why


def test_the_slo_is_that_of_what_arrives_unless_it_is_given():
    policy = Proteus(HAND, beta=1.0, batching="greedy")
    run(policy, 0.9, 0.0, 2.0, slo=8.0)
    assert subnets(policy) == ["mid"] * 4


def test_a_worker_that_the_plan_does_not_know_does_as_most_do():
    policy = Proteus(HAND, beta=1.0, batching="greedy")
    run(policy, 1.5, 0.0, 2.0)
    assert sorted(subnets(policy)) == ["large", "large", "large", "mid"]
    assert subnets(policy, ("new", "")) == ["large", "large"]


def test_without_workers_there_is_a_plan_for_the_first_that_joins():
    policy = Proteus(HAND, beta=1.0, batching="greedy")
    run(policy, 0.7, 0.0, 2.0, workers=())
    assert subnets(policy, ("new",)) == ["mid"]


def planned_for_large(batching, slo=None):
    policy = Proteus(HAND, slo=slo, batching=batching)
    run(policy, 0.1, 0.0, 2.0)
    return policy


# large takes 4, 7 and 13 seconds for 1, 2 and 4 queries.
@pytest.mark.parametrize(
    ("slack", "expected", "why"),
    [
        (3.0, ("large", 1, 1), "too late for the head; the next has 4"),
        (6.9, ("large", 1, 1), "two need 7, and the early drop keeps batches full"),
        (7.0, ("large", 2, 0), "two are in time, and nothing is waited for"),
    ],
)
def test_greedy_batches_wait_for_nothing(slack, expected, why):
    assert choose(planned_for_large("greedy"), 2, slack) == Choice(*expected), why


def test_batches_wait_for_more_queries_by_default():
    # Two fill a batch of 2, which may start 7 s before the head is due, at 20 - 7 = 13 from now.
    decision = choose(planned_for_large("accscale"), 2, 20.0)
    assert isinstance(decision, Wait)
    assert NOW + 12.9 < decision.until <= NOW + 13.0


def test_the_largest_batch_is_not_waited_beyond():
    # Half of 15 s: large serves 2 in 7 s.
    assert choose(planned_for_large("accscale", slo=15.0), 2, 20.0) == Choice("large", 2)


def test_before_the_first_plan_the_smallest_subnet_serves_at_once():
    assert choose(Proteus(HAND), 2, 20.0) == Choice("small", 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"period": 0.0}, "period must be positive"),
        ({"slo": 0.0}, "slo must be positive"),
        ({"beta": 0.0}, "beta must be positive"),
        ({"batching": "nexus"}, "accscale or greedy"),
    ],
)
def test_proteus_refuses_options_without_a_meaning(options, message):
    with pytest.raises(ValueError, match=message):
        Proteus(HAND, **options)


@settings(deadline=None)
@given(
    profiles(),
    st.sampled_from(["accscale", "greedy"]),
    st.floats(0.0, 100.0),
    st.floats(0.0, 20.0),
    st.integers(0, 40),
    st.floats(0.0, 60.0),
    st.sampled_from(["", "w0", "w3", "new"]),
)
def test_whatever_happens_there_is_a_lawful_answer(
    profile, batching, rate, slo, queue, slack, asking
):
    policy = Proteus(profile, period=0.1, batching=batching)
    for step in range(8):
        policy.on_tick(view(rate, slo=slo), NOW - 1.0 + 0.05 * step)
        deadlines = [NOW + slack + place / 4 for place in range(queue)]
        decision = policy.choose(view(rate, deadlines=deadlines, asking=asking), NOW)
        if isinstance(decision, Choice):
            profile.latency(decision.subnet, decision.batch_size)  # it is profiled
            assert queue
            assert decision.shed <= queue
        elif isinstance(decision, Wait):
            assert queue
            assert decision.until > NOW
        else:
            assert decision is None
            assert not queue


def test_a_profile_of_one_subnet_is_served_by_it():
    policy = Proteus(Profile.from_table([("only", 0.0, {1: 1.0})]))
    run(policy, 5.0, 0.0, 2.0)
    assert subnets(policy) == ["only"] * 4
