"""RAMSIS: its decision process against policy iteration, a simulation and decisions by hand."""

from itertools import pairwise, product
from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, poisson

from loadtest.arrivals import poisson as poisson_arrivals
from loadtest.paper_profile import PAPER_PROFILE
from loadtest.simulate import simulate_arrays
from policies.ramsis import Ramsis, capacity, thinned
from policies.ramsis_mdp import Table, queue_levels, solve
from policies.types import Choice, Profile, QueueView, Waiting
from tests.policies.hand import HAND, NOW
from tests.policies.test_promises import profiles

MOST = 60  # arrivals during a batch, in the tests below


def newcomers(tau, slo, rate, table):
    """{(n, m): probability} for those who come within ``tau`` seconds, if anybody comes."""
    edges, last = table.edges, table.levels[-1]
    lower = np.array([-np.inf, *edges[1:]])
    bounds = np.clip((np.append(lower, np.inf) - (slo - tau)) / tau, 0.0, 1.0)
    after = {}
    for k in range(1, MOST):
        # The first of k is the least of k uniform times.
        chances = np.diff(beta.cdf(bounds, 1, k)) * poisson.pmf(k, rate * tau)
        for edge, chance in zip(edges, chances, strict=True):
            state = min(k, last), edge
            after[state] = after.get(state, 0.0) + chance
    return after


def outcomes(profile, slo, rate, table):
    """(n, m, subnet, size, reward, seconds, {(n, m): probability}) of every action in every state.

    Written down query by query from the docstring of `solve`, with other formulae.
    """
    edges, last, sizes = table.edges, table.levels[-1], profile.batch_sizes
    assert table.levels == tuple(range(1, last + 1))
    fresh = {tau: newcomers(tau, slo, rate, table) for row in profile.latencies for tau in row}
    for n in table.levels:
        for m in edges:
            due = [m + (slo - m) * i / n for i in range(n)]
            for subnet in profile.subnets:
                for size in sizes:
                    tau = profile.latency(subnet, size)
                    if tau > slo and subnet != profile.smallest:
                        continue
                    able = [slack for slack in due if slack >= tau - 1e-9]
                    if not able:
                        seconds, after = 1 / rate, {(1, edges[-1]): 1.0}
                    elif len(able) > size:
                        head = max([e for e in edges if e <= able[size] - tau + 1e-12], default=0.0)
                        seconds, after = tau, {}
                        for k in range(MOST):
                            state = min(len(able) - size + k, last), head
                            after[state] = after.get(state, 0.0) + poisson.pmf(k, rate * tau)
                    elif size == min(b for b in sizes if b >= len(able)):
                        nobody = poisson.pmf(0, rate * tau)
                        seconds, after = tau + nobody / rate, dict(fresh[tau])
                        after[1, edges[-1]] += nobody
                    else:
                        continue
                    reward = profile.accuracy(subnet) * min(len(able), size)
                    yield n, m, subnet, size, reward, seconds, after


def howard(profile, slo, rate, table):
    """The gain g of the table's policy, from its evaluation equations g tau + h(s) = r + E h(s'),
    and by how much any other action in any state would do better than h(s).
    """
    place = {(n, m): i for i, (n, m) in enumerate(product(table.levels, table.edges))}
    rows, rewards, followed = [], [], {}
    for n, m, subnet, size, reward, seconds, after in outcomes(profile, slo, rate, table):
        row = np.zeros(1 + len(place))
        row[0] = seconds
        row[1 + place[n, m]] += 1.0
        for state, chance in after.items():
            row[1 + place[state]] -= chance
        # A batch that is too large for the queue, and for which all are too late, looks the same.
        if table.at(n, m) == (subnet, min(size, n)) and reward >= followed.get((n, m), (0.0,))[0]:
            followed[n, m] = reward, len(rows)
        rows.append(row)
        rewards.append(reward)
    rows, rewards = np.array(rows), np.array(rewards)
    chosen = [followed[state][1] for state in place]
    free = np.delete(np.arange(rows.shape[1]), 1)  # h is 0 in one state
    solution = np.zeros(rows.shape[1])
    solution[free] = np.linalg.solve(rows[np.ix_(chosen, free)], rewards[chosen])
    return solution[0], (rewards - rows @ solution).max()


TWO = Profile.from_table([("s", 70.0, {1: 1.0, 2: 1.5}), ("l", 80.0, {1: 2.0, 2: 3.5})])


@pytest.mark.parametrize(
    ("profile", "slo", "load"),
    [
        (TWO, 4.0, 0.3),
        (TWO, 4.0, 0.8),
        (TWO, 4.0, 1.2),
        (TWO, 1.2, 0.5),  # large is always late, and so are batches of two
        (HAND, 10.0, 0.7),
    ],
)
def test_no_action_would_do_better_than_that_of_the_table(profile, slo, load):
    """By the criterion of policy iteration, which holds for the best policy and for no other."""
    rate = load * capacity(profile, slo)
    table = solve(profile, slo, rate, tolerance=1e-9, slack_steps=3)
    gain, improvement = howard(profile, slo, rate, table)
    assert table.gain == pytest.approx(gain, rel=1e-7)
    assert improvement < 1e-6


class Tabled:
    """One worker that follows one table."""

    def __init__(self, table):
        self.table = table

    def choose(self, view, now):
        if not view.waiting:
            return None
        return Choice(*self.table.at(len(view), view.head.deadline - now))


LONG = Profile.from_table(  # its queue lengths are not all told apart
    (f"s{i}", 70.0 + 3 * i, {b: (1 + 0.6 * i) * (1 + 0.4 * b) / 1e3 for b in (1, 8, 64)})
    for i in range(4)
)


@pytest.mark.parametrize(
    ("profile", "slo", "rate", "off"),
    [
        (PAPER_PROFILE, 0.036, 400.0, 0.05),
        (PAPER_PROFILE, 0.036, 800.0, 0.05),
        (PAPER_PROFILE, 0.036, 1200.0, 0.05),
        (LONG, 0.1, 1400.0, 0.3),
    ],
)
def test_the_gain_is_what_a_simulated_worker_earns(profile, slo, rate, off):
    table = solve(profile, slo, rate)
    arrivals = poisson_arrivals(rate, 20_000 / rate, seed=1)
    found = simulate_arrays(arrivals, slo, profile, Tabled(table), workers=1)
    assert found.effective_accuracy == pytest.approx(table.gain / rate, abs=off)


@settings(max_examples=25, deadline=None)
@given(profiles(), st.floats(0.5, 20.0), st.floats(0.1, 1.2), st.integers(0, 5))
def test_a_more_accurate_subnet_never_earns_less(profile, slo, load, row):
    """Nor more than the accuracy that was added, for each query."""
    rate = load * capacity(profile, slo)
    row %= len(profile.subnets)
    better = Profile(
        profile.subnets,
        tuple(a + 0.5 * (i == row) for i, a in enumerate(profile.accuracies)),
        profile.batch_sizes,
        profile.latencies,
    )
    before, after = (solve(p, slo, rate).gain / rate for p in (profile, better))
    allowance = 0.15  # the gain is within 5e-4 of an accuracy per decision
    assert before - allowance <= after <= before + 0.5 + allowance


@settings(max_examples=25, deadline=None)
@given(profiles(), st.floats(0.5, 20.0), st.floats(0.1, 1.2))
def test_no_policy_earns_more_than_the_best_accuracy_for_each_query(profile, slo, load):
    rate = load * capacity(profile, slo)
    assert -0.1 <= solve(profile, slo, rate).gain / rate <= profile.accuracies[-1] + 0.1


@pytest.mark.parametrize("rate", [400.0, 1200.0])
def test_more_slack_is_never_worth_less(rate):
    table = solve(PAPER_PROFILE, 0.036, rate, tolerance=1e-7)
    for row in table.values:
        for less, more in pairwise(row):
            assert less <= more + 1e-3


def test_with_all_the_time_in_the_world_the_most_accurate_serves_all():
    table = solve(HAND, 100.0, 1e-4)
    assert {table.at(n, 100.0)[0] for n in range(1, 9)} == {"large"}


# At 1.5 per second (small serves 1.6) whoever takes longer than it must loses a query by that.
def test_at_full_load_a_long_queue_is_served_by_the_fastest_in_full_batches():
    table = solve(HAND, 10.0, 1.5)
    assert table.at(8, 10.0) == ("small", 4)


@pytest.mark.parametrize(
    ("sizes", "expected", "why"),
    [
        ((1,), (1, 2), "twice the largest batch"),
        ((1, 2, 4), tuple(range(1, 9)), "twice the largest batch"),
        ((1, 16), tuple(range(1, 33)), "all up to 32"),
        ((1, 32), tuple(range(1, 33)), "twice the largest batch is too many"),
    ],
)
def test_short_queues_are_told_apart_by_each_query(sizes, expected, why):
    assert queue_levels(sizes) == expected, why


def test_long_queues_are_told_apart_by_about_equal_ratios():
    levels = queue_levels((1, 8, 100))
    assert levels[:4] == (1, 2, 3, 4)
    assert levels[-1] == 100
    assert {8, 100} <= set(levels)
    assert len(levels) <= 34
    assert max(b / a for a, b in pairwise(levels[8:])) < 1.35


STUB = Table(
    levels=(1, 2, 4),
    edges=(0.0, 2.0, 5.0),
    actions=(
        (("small", 1), ("mid", 1), ("large", 1)),
        (("small", 2), ("mid", 2), ("mid", 1)),
        (("small", 4), ("small", 2), ("mid", 4)),
    ),
    values=((0.0,) * 3,) * 3,
    gain=0.0,
)


@pytest.mark.parametrize(
    ("n", "slack", "expected", "why"),
    [
        (1, 2.0, ("mid", 1), "an edge counts as itself"),
        (1, 4.9, ("mid", 1), "a slack counts as the next edge down"),
        (1, 99.0, ("large", 1), "the last edge is the SLO"),
        (1, -1.0, ("small", 1), "there is nothing below the first"),
        (2, 5.0, ("mid", 1), "the second level"),
        (3, 5.0, ("mid", 3), "three count as four, but no more than three wait"),
        (9, 2.0, ("small", 2), "the last level stands for all above"),
    ],
)
def test_looking_up_a_state(n, slack, expected, why):
    assert STUB.at(n, slack) == expected, why


def follows(table, share="even"):
    policy = Ramsis(HAND, share=share)
    policy._table = table
    return policy


def view(queue, slack, capacity=1.0, rate=0.0, slo=0.0):
    """Deadlines one second apart."""
    waiting = tuple(Waiting(NOW + slack + place) for place in range(queue))
    return QueueView(waiting, arrival_rate=rate, capacity=capacity, slo=slo)


# small takes 1, 1.5 and 2.5 s for 1, 2 and 4; mid 2, 3.2 and 5.5.
@pytest.mark.parametrize(
    ("queue", "workers", "slack", "share", "expected", "why"),
    [
        (1, 1, 5.0, "even", ("large", 1, 0), "one for one worker"),
        (2, 1, 2.0, "even", ("mid", 2, 2), "mid takes 3.2: the head at 2 and the next at 3"),
        (4, 4, 5.0, "even", ("large", 1, 0), "one of four parts"),
        (5, 4, 5.0, "even", ("mid", 1, 0), "a part and a bit are two"),
        (5, 4, 5.0, "staggered", ("mid", 1, 0), "5 / 2.5 are two"),
        (6, 4, 5.0, "staggered", ("mid", 3, 1), "6 / 2.5 are three; mid takes 5.5 and 5 is late"),
        (6, 4, 5.0, "even", ("mid", 1, 0), "6 / 4 are two"),
        (4, 1, 1.0, "even", ("small", 4, 2), "small takes 2.5: late for those at 1 and 2"),
    ],
)
def test_the_worker_looks_at_its_part_of_the_queue(queue, workers, slack, share, expected, why):
    policy = follows(STUB, share)
    assert policy.choose(view(queue, slack, float(workers)), NOW) == Choice(*expected), why


def test_before_the_load_is_known_it_is_maxbatch_that_looks_at_the_queue():
    assert Ramsis(HAND).choose(view(1, 5.5), NOW) == Choice("large", 1)


def test_nothing_waits_nothing_is_chosen():
    assert follows(STUB).choose(view(0, 0.0), NOW) is None


def ticked(policy, rate, seconds=1.2, **options):
    for step in range(round(seconds / 0.05)):
        policy.on_tick(view(0, 0.0, rate=rate, **options), 0.05 * step)
    return policy


# One worker serves 4 in 2.5 s, 1.6 per second, so that ten levels are 0.16 apart.
@pytest.mark.parametrize(
    ("rate", "workers", "level"),
    [(0.01, 1, 1), (0.17, 1, 2), (1.59, 1, 10), (9.0, 1, 10), (0.34, 2, 2)],
)
def test_the_load_of_each_worker_counts_as_the_next_level_up(rate, workers, level):
    policy = ticked(Ramsis(HAND), rate, capacity=float(workers), slo=10.0)
    assert policy._table == solve(HAND, 10.0, 0.16 * level)


def test_all_tables_are_solved_beforehand_if_the_slo_is_given():
    policy = Ramsis(HAND, slo=10.0, levels=3)
    assert sorted(policy._tables) == [1, 2, 3]
    assert policy._table is None


def test_without_an_slo_there_is_no_table():
    assert ticked(Ramsis(HAND), 1.0)._table is None


def test_another_slo_makes_other_tables():
    policy = ticked(Ramsis(HAND), 1.0, slo=10.0)
    for step in range(30):
        policy.on_tick(view(0, 0.0, rate=1.0, slo=20.0), 2.0 + 0.05 * step)
    assert policy._table == solve(HAND, 20.0, 0.16 * 7)


def test_the_capacity_is_that_of_batches_within_the_slo():
    # Per second: small 1, 1.33 and 1.6.
    assert capacity(HAND, 2.5) == pytest.approx(1.6)
    assert capacity(HAND, 2.4) == pytest.approx(2 / 1.5)
    assert capacity(HAND, 0.5) == pytest.approx(1.6)


def test_a_large_profile_is_thinned_to_the_ends_and_what_is_on_the_hull():
    # The even ones are on a curve, the odd ones above it.
    rows = [(f"s{i}", 60.0 + i, {1: 1.0 + 0.01 * i * i + 0.3 * (i % 2)}) for i in range(40)]
    profile = Profile.from_table(rows)
    found = thinned(profile, 8)
    assert len(found.subnets) == 8
    assert (found.smallest, found.largest) == (profile.smallest, profile.largest)
    assert {int(name[1:]) % 2 for name in found.subnets[:-1]} == {0}
    assert found.latency("s0", 1) == profile.latency("s0", 1)


def test_a_small_profile_is_not_thinned():
    assert thinned(HAND, 9) is HAND
    assert thinned(HAND, 8).subnets == ("small", "large")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0.0}, "positive number of seconds"),
        ({"slo": 0.0}, "slo must be positive"),
        ({"slo": inf}, "slo must be positive"),
        ({"levels": 0}, "levels must be 1 or more"),
        ({"share": "fair"}, "even or staggered"),
    ],
)
def test_ramsis_refuses_options_without_a_meaning(options, message):
    with pytest.raises(ValueError, match=message):
        Ramsis(HAND, **options)


@settings(max_examples=25, deadline=None)
@given(
    profiles(),
    st.floats(0.0, 100.0),
    st.floats(0.1, 20.0),
    st.floats(0.0, 9.0),
    st.integers(1, 40),
    st.floats(0.0, 60.0),
    st.sampled_from(["even", "staggered"]),
)
def test_whatever_happens_there_is_a_lawful_answer(
    profile, rate, slo, workers, queue, slack, share
):
    policy = ticked(Ramsis(profile, share=share), rate, 0.2, capacity=workers, slo=slo)
    seen = view(queue, slack, workers)
    decision = policy.choose(seen, NOW)
    latency = profile.latency(decision.subnet, decision.batch_size)
    assert decision.shed <= queue
    if policy._table is not None and decision.shed < queue:
        assert latency <= seen.waiting[decision.shed].deadline - NOW
