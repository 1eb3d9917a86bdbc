"""The bounds against each other, and against schedules that are lawful by construction."""

import heapq
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.bounds import (
    Prices,
    exhaustive_optimum,
    fluid_bound,
    price_bound,
    problem,
    zilp_bound,
)
from policies.types import Profile

SOLVER = 1e-4  # points of utility that the integer solver's tolerance may cost


@st.composite
def profiles(draw):
    """Two subnets at batch 1 and 3, all times multiples of a quarter; larger is not quicker."""
    rows = []
    for name, accuracy in (("fast", 70.0), ("slow", 78.5)):
        one = draw(st.integers(1, 8))
        rows.append((name, accuracy, {1: one / 4, 3: (one + draw(st.integers(0, 8))) / 4}))
    return Profile.from_table(rows)


@st.composite
def instances(draw, most=5):
    """Arrivals, deadlines, profile, workers, penalty."""
    queries = draw(
        st.lists(st.tuples(st.integers(0, 16), st.integers(0, 24)), min_size=1, max_size=most)
    )
    return (
        [a / 4 for a, _ in queries],
        [(a + window) / 4 for a, window in queries],
        draw(profiles()),
        draw(st.integers(1, 2)),
        draw(st.sampled_from([0.0, 10.0, 100.0])),
    )


def utility_of(batches, arrivals, deadlines, profiles, workers, penalty):
    """What a schedule is worth, if it is lawful."""
    served = [query for batch in batches for query in batch.queries]
    assert len(served) == len(set(served))
    for batch in batches:
        latency = profiles[batch.device].latency(batch.subnet, len(batch.queries))
        assert batch.finish == pytest.approx(batch.start + latency)
        assert batch.start >= max(arrivals[query] for query in batch.queries)
        assert batch.finish <= min(deadlines[query] for query in batch.queries)
        running = [b for b in batches if b.device == batch.device]
        running = [b for b in running if b.start <= batch.start < b.finish]
        assert len(running) <= workers[batch.device]
    gained = sum(
        profiles[b.device].accuracy(b.subnet) * len(b.queries) for b in batches if b.queries
    )
    return (gained - penalty * (len(arrivals) - len(served))) / len(arrivals)


@settings(max_examples=40, deadline=None)
@given(instances())
def test_search_and_integer_program_agree(instance):
    arrivals, deadlines, profile, workers, penalty = instance
    optimum = exhaustive_optimum(arrivals, deadlines, profile, workers, penalty=penalty)

    exact = zilp_bound(arrivals, deadlines, profile, workers, penalty=penalty)
    grid = zilp_bound(arrivals, deadlines, profile, workers, penalty=penalty, step=0.25)

    assert exact.bound == pytest.approx(optimum.utility, abs=SOLVER)
    assert exact.value == pytest.approx(optimum.utility, abs=SOLVER)
    # All times are multiples of the step.
    assert grid.bound == pytest.approx(optimum.utility, abs=SOLVER)


@settings(max_examples=40, deadline=None)
@given(instances(), st.sampled_from([0.1, 0.3, 0.7, 1.9]))
def test_no_grid_makes_the_integer_program_less_than_the_optimum(instance, step):
    arrivals, deadlines, profile, workers, penalty = instance
    optimum = exhaustive_optimum(arrivals, deadlines, profile, workers, penalty=penalty).utility
    grid = zilp_bound(arrivals, deadlines, profile, workers, penalty=penalty, step=step)
    assert grid.bound >= optimum - SOLVER


@settings(max_examples=100, deadline=None)
@given(instances())
def test_the_optimal_schedule_is_lawful_and_worth_what_it_says(instance):
    arrivals, deadlines, profile, workers, penalty = instance
    found = exhaustive_optimum(arrivals, deadlines, profile, workers, penalty=penalty)
    worth = utility_of(found.batches, arrivals, deadlines, [profile], [workers], penalty)
    assert found.utility == pytest.approx(worth)


@settings(max_examples=40, deadline=None)
@given(instances(most=6))
def test_price_and_fluid_bounds_are_no_less_than_the_optimum(instance):
    arrivals, deadlines, profile, workers, penalty = instance
    optimum = exhaustive_optimum(arrivals, deadlines, profile, workers, penalty=penalty).utility

    price = price_bound(arrivals, deadlines, profile, workers, penalty=penalty, iterations=40)
    fluid = fluid_bound(arrivals, deadlines, profile, workers, penalty=penalty)

    assert optimum <= price.utility + 1e-6
    assert price.utility <= fluid.utility + 1e-9


@settings(max_examples=150, deadline=None)
@given(
    instances(most=5),
    st.lists(st.floats(0, 500), min_size=1, max_size=12),
    st.floats(0.05, 3),
    st.floats(-2, 2),
)
def test_any_prices_at_all_prove_a_bound(instance, row, cell, start):
    arrivals, deadlines, profile, workers, penalty = instance
    optimum = exhaustive_optimum(arrivals, deadlines, profile, workers, penalty=penalty).utility
    whole = problem(arrivals, deadlines, profile, workers, penalty)
    assert Prices(start, cell, np.array([row])).utility_bound(whole) >= optimum - 1e-6


@settings(max_examples=40, deadline=None)
@given(instances(most=5))
def test_the_fluid_accuracy_is_no_less_than_that_of_a_schedule_that_serves_all(instance):
    arrivals, deadlines, profile, workers, _ = instance
    # A miss costs more than all accuracies together: the optimum serves all if that can be done.
    found = exhaustive_optimum(arrivals, deadlines, profile, workers, penalty=1e4)
    accuracy = fluid_bound(arrivals, deadlines, profile, workers).accuracy
    if sum(len(batch.queries) for batch in found.batches) == len(arrivals):
        assert accuracy is not None
        assert found.utility <= accuracy + 1e-6


@settings(max_examples=12, deadline=None)
@given(instances(most=3), profiles(), st.integers(0, 1))
def test_the_bounds_agree_on_two_device_types(instance, other, others):
    arrivals, deadlines, profile, workers, penalty = instance
    types, counts = [profile, other], [workers, others]
    found = exhaustive_optimum(arrivals, deadlines, types, counts, penalty=penalty)
    worth = utility_of(found.batches, arrivals, deadlines, types, counts, penalty)

    zilp = zilp_bound(arrivals, deadlines, types, counts, penalty=penalty)
    price = price_bound(arrivals, deadlines, types, counts, penalty=penalty, iterations=20)
    fluid = fluid_bound(arrivals, deadlines, types, counts, penalty=penalty)

    assert found.utility == pytest.approx(worth)
    assert zilp.bound == pytest.approx(found.utility, abs=SOLVER)
    assert found.utility <= price.utility + 1e-6 <= fluid.utility + 2e-6


@settings(max_examples=25, deadline=None)
@given(instances(most=4), st.lists(st.integers(0, 2), min_size=1, max_size=4), st.integers(1, 6))
def test_the_bounds_agree_while_workers_come_and_go(instance, counts, every):
    arrivals, deadlines, profile, _, penalty = instance
    workers = [(i * every / 4, count) for i, count in enumerate(counts)]

    exact = zilp_bound(arrivals, deadlines, profile, workers, penalty=penalty)
    grid = zilp_bound(arrivals, deadlines, profile, workers, penalty=penalty, step=0.25)
    coarse = zilp_bound(arrivals, deadlines, profile, workers, penalty=penalty, step=0.4)
    price = price_bound(arrivals, deadlines, profile, workers, penalty=penalty, iterations=20)

    assert grid.bound == pytest.approx(exact.bound, abs=SOLVER)
    assert coarse.bound >= exact.value - SOLVER
    assert price.utility >= exact.value - SOLVER


PAPER_LIKE = Profile.from_table(
    [
        ("small", 73.82, {1: 1.41e-3, 4: 2.6e-3, 16: 7.35e-3}),
        ("mid", 77.64, {1: 2.04e-3, 4: 3.92e-3, 16: 11.45e-3}),
        ("large", 80.16, {1: 4.64e-3, 4: 9.85e-3, 16: 30.7e-3}),
    ]
)


def lawful_run(rng, arrivals, deadlines, workers, profile, greed):
    """The utility of a schedule that no policy's author would be proud of, or not ashamed of.

    Whenever a worker is free it takes the queries that are due first, after shedding those that are
    lost; ``greed`` is how often it takes the best option for a queue of this length instead of any
    that is in time. Workers are idle at times.
    """
    free = [(0.0, i) for i in range(workers)]
    heapq.heapify(free)
    order = sorted(range(len(arrivals)), key=lambda q: arrivals[q])
    waiting, place, total = [], 0, 0.0
    while place < len(order) or waiting:
        now, worker = heapq.heappop(free)
        if not waiting:
            now = max(now, arrivals[order[place]])
        while place < len(order) and arrivals[order[place]] <= now:
            heapq.heappush(waiting, (deadlines[order[place]], order[place]))
            place += 1
        fitting = [
            (accuracy, size, profile.latency(subnet, size))
            for subnet, accuracy in zip(profile.subnets, profile.accuracies, strict=True)
            for size in profile.batch_sizes
            if waiting and now + profile.latency(subnet, size) <= waiting[0][0]
        ]
        if waiting and not fitting:
            heapq.heappop(waiting)
            total -= 100
            heapq.heappush(free, (now, worker))
            continue
        filled = min(len(waiting), 16)
        if rng.random() < greed:
            accuracy, size, latency = max(fitting, key=lambda o: (min(o[1], filled), o[0]))
        else:
            accuracy, size, latency = rng.choice(fitting)
        total += accuracy * len([heapq.heappop(waiting) for _ in range(min(size, len(waiting)))])
        pause = rng.choice([0, 0, 0, 1e-3]) if greed < 1 else 0
        heapq.heappush(free, (now + latency + pause, worker))
    return total / len(arrivals)


@pytest.mark.parametrize("greed", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("load", [0.3, 0.8, 1.0, 1.5])
def test_no_lawful_schedule_exceeds_a_bound(load, greed):
    rng = random.Random(round(100 * load + greed))
    workers = 3
    rate = load * workers * 16 / 7.35e-3
    gaps = np.array([rng.gammavariate(0.25, 4 / rate) for _ in range(3000)])
    arrivals = np.cumsum(gaps)
    windows = np.array([rng.choice([0.018, 0.036, 0.1]) for _ in arrivals])
    deadlines = arrivals + windows

    reached = lawful_run(rng, arrivals, deadlines, workers, PAPER_LIKE, greed)
    price = price_bound(arrivals, deadlines, PAPER_LIKE, workers, iterations=30)
    fluid = fluid_bound(arrivals, deadlines, PAPER_LIKE, workers)

    assert reached <= price.utility
    assert price.utility <= fluid.utility + 1e-9


def test_the_price_bound_charges_each_phase_its_own_price_while_workers_fail():
    # A constant price for each phase is a price function too, and 36 ms at the borders are all that
    # the phases have in common: the mean of the phases' fluid bounds is nearly a bound.
    rng = np.random.default_rng(5)
    arrivals = np.cumsum(rng.gamma(0.5, 2 / 5000.0, 9000))
    first, second = arrivals[3000], arrivals[6000]
    phases = [(arrivals[:3000], 8), (arrivals[3000:6000], 5), (arrivals[6000:], 3)]
    alone = [fluid_bound(a, a + 0.036, PAPER_LIKE, workers).utility for a, workers in phases]
    workers = [(0, 8), (first, 5), (second, 3)]

    bound = price_bound(arrivals, arrivals + 0.036, PAPER_LIKE, workers)
    fluid = fluid_bound(arrivals, arrivals + 0.036, PAPER_LIKE, workers)

    assert bound.utility <= np.mean(alone) + 0.05
    assert fluid.utility >= np.mean(alone) + 0.15


def test_the_price_bound_is_near_a_schedule_of_evenly_spaced_queries():
    # Three workers in turn, a full batch of mid every 11.45 ms each. A batch fills in 3.8 ms, runs
    # for 11.45 and is done well before 36. The bound has the first and last 36 ms more.
    queries, workers = 24_000, 3
    arrivals = np.arange(queries) * (11.45e-3 / 16 / workers)
    bound = price_bound(arrivals, arrivals + 0.036, PAPER_LIKE, workers, iterations=0)
    assert 77.64 <= bound.utility <= 77.64 + 0.03
