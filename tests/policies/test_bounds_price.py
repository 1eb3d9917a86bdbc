"""The price bound: what given prices prove, by hand and by scanning; and instances whose optimum is
known at any size.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.bounds import Prices, fluid_bound, price_bound, problem
from policies.bounds.price import _fine
from policies.types import Profile
from tests.policies.hand import HAND


def prices(*rows, start=0.0, cell=1.0):
    return Prices(start, cell, np.array(rows, dtype=float))


@pytest.mark.parametrize(
    ("price", "expected", "why"),
    [
        (0, 80, "free: large, 180"),
        (2, 2 * 4 + (180 - 2 * 4) - 100, "large: 172, against 171 for mid and 168 for small"),
        (3, 3 * 4 + (175 - 3 * 2) - 100, "mid: 169, against 168 for large and 167 for small"),
        (6, 6 * 4 + (170 - 6 * 1) - 100, "small: 164, against 163 for mid"),
        (200, 200 * 4 + 0 - 100, "not worth it"),
    ],
)
def test_constant_prices_by_hand(price, expected, why):
    one = problem([0], [4], HAND, 1)
    assert prices([price], cell=4.0).utility_bound(one) == pytest.approx(expected), why
    assert prices([price] * 4).utility_bound(one) == pytest.approx(expected), why
    assert prices([price] * 40, cell=0.1).utility_bound(one) == pytest.approx(expected), why


def test_a_query_pays_its_share_of_a_full_batch():
    # At 4 per second small costs 4 * 2.5 / 4 each, mid 4 * 5.5 / 4, large (four: too long) 4 * 3.5.
    four = problem([0] * 4, [8] * 4, HAND, 1)
    gains = 175 - 4 * 5.5 / 4
    assert prices([4.0] * 8).utility_bound(four) == pytest.approx(4 * 8 / 4 + gains - 100)


def test_every_worker_is_paid_for_while_it_is_there():
    assert prices([2.0] * 4).utility_bound(problem([0], [4], HAND, 3)) == pytest.approx(
        3 * 8 + 172 - 100
    )
    leaving = problem([0], [4], HAND, [(0, 2), (1.5, 1), (3, 0)])
    assert prices([2.0] * 4).utility_bound(leaving) == pytest.approx(2 * (3 + 1.5) + 172 - 100)


def test_each_device_type_has_its_own_prices():
    # Large on the second type for 4 * 1, mid on the first for 2 * 5.
    two = problem([0], [4], [HAND, HAND], [1, 1])
    assert prices([5.0] * 4, [1.0] * 4).utility_bound(two) == pytest.approx(20 + 4 + 176 - 100)


@pytest.mark.parametrize(
    ("row", "least", "why"),
    [
        ([4, 0, 8], 2.0, "from 0.5, so that it ends with the free second"),
        ([8, 0, 4], 2.0, "from 1, with the free second"),
        ([4, 8, 0], 4.0, "from 1.5, as late as its deadline allows"),
        ([0, 8, 9], 6.0, "from 0.25, on its arrival"),
        ([3, 3, 3], 4.5, "from anywhere"),
    ],
)
def test_the_cheapest_start_is_found_wherever_it_is(row, least, why):
    # 1.5 s between 0.25 and 3.
    only = Profile.from_table([("only", 50.0, {1: 1.5})])
    bound = prices(row).utility_bound(problem([0.25], [3], only, 1))
    cost = sum(row) - 0.25 * row[0]  # the worker counts from the first arrival on
    assert bound == pytest.approx(cost + 150 - least - 100, abs=1e-6), why


def test_time_outside_the_cells_is_free():
    one = problem([0], [4], HAND, 1)
    # Mid from 2 to 4 would be free, large pays for the first two seconds.
    assert prices([9, 9]).utility_bound(one) == pytest.approx(18 + 175 - 100)
    # All of the window is after the last cell.
    assert prices([9, 9], start=-5.0).utility_bound(one) == pytest.approx(180 - 100)


@pytest.mark.parametrize(
    ("start", "cell", "values"),
    [
        (0.0, 0.0, [[1.0]]),
        (0.0, 1.0, [[-1.0]]),
        (0.0, 1.0, [[float("nan")]]),
        (0.0, 1.0, [1.0]),
        (0.0, 1.0, [[]]),
    ],
)
def test_what_are_no_prices_is_refused(start, cell, values):
    with pytest.raises(ValueError, match="prices"):
        Prices(start, cell, np.array(values))


def test_prices_need_a_row_for_each_device_type():
    with pytest.raises(ValueError, match="2 rows of prices, 1 device"):
        prices([1.0], [1.0]).utility_bound(problem([0], [4], HAND, 1))


def scanned(row, cell, arrivals, deadlines, profile, workers, step=1 / 512):
    """The bound with only the starts on a fine grid: never more than the true one, nearly as much.

    All times are multiples of the step, so that nothing is rounded.
    """
    before = np.concatenate(([0.0], np.cumsum(np.repeat(row, round(cell / step)) * step)))

    def integral(times):
        return before[np.clip(np.round(times / step).astype(int), 0, len(before) - 1)]

    first = min(arrivals)
    total = workers * (before[-1] - float(integral(np.array(first))))
    for a, d in zip(arrivals, deadlines, strict=True):
        best = 0.0
        for subnet, accuracy in zip(profile.subnets, profile.accuracies, strict=True):
            for size in profile.batch_sizes:
                latency = profile.latency(subnet, size)
                starts = np.arange(a, d - latency + step / 2, step)
                if len(starts):
                    paid = (integral(starts + latency) - integral(starts)).min()
                    best = max(best, accuracy + 100 - paid / min(size, len(arrivals)))
        total += best
    return total / len(arrivals) - 100


@settings(max_examples=60, deadline=None)
@given(
    row=st.lists(st.integers(0, 60), min_size=1, max_size=8),
    cell=st.sampled_from([0.5, 0.75, 2.0]),
    queries=st.lists(st.tuples(st.integers(0, 24), st.integers(1, 40)), min_size=1, max_size=4),
    workers=st.integers(0, 3),
    latencies=st.tuples(*[st.integers(1, 13)] * 4),
)
def test_prices_prove_what_a_scan_of_all_starts_says(row, cell, queries, workers, latencies):
    fast, slow, fast4, slow4 = (x / 4 for x in latencies)
    profile = Profile.from_table(
        [("fast", 70, {1: fast, 4: fast4}), ("slow", 80, {1: slow, 4: slow4})]
    )
    arrivals = [a / 4 for a, _ in queries]
    deadlines = [(a + w) / 4 for a, w in queries]

    bound = Prices(0.0, cell, np.array([row], dtype=float)).utility_bound(
        problem(arrivals, deadlines, profile, workers)
    )

    # A start is within a step of a scanned one, and P changes by no more than two prices times it.
    scan = scanned(row, cell, arrivals, deadlines, profile, workers)
    assert scan - 1e-6 <= bound <= scan + 1e-6 + 2 * 60 / 512


def periodic(groups, period, window=None, start=0.0, size=4):
    """``groups`` times ``size`` queries at once, one group every ``period`` seconds, due when the
    next one comes or after ``window``.
    """
    arrivals = start + period * np.repeat(np.arange(groups), size)
    return arrivals, arrivals + (period if window is None else window)


def test_the_bound_is_the_optimum_where_full_batches_of_the_smallest_just_fit():
    # Small takes 2.5 s for four: every query is served, no worker is ever idle, and any query on a
    # larger subnet would cost several others.
    arrivals, deadlines = periodic(500, 2.5)
    bound = price_bound(arrivals, deadlines, HAND, 1)
    assert bound.utility == pytest.approx(70, abs=1e-3)


def test_the_bound_is_the_optimum_of_two_subnets_in_turn():
    # A group every 2.5 + 5.5 s for small and for mid: all the time there is, and on the hull.
    first, due = periodic(300, 8.0, 2.5)
    second, due_second = periodic(300, 8.0, 5.5, start=2.5)
    bound = price_bound(np.concatenate((first, second)), np.concatenate((due, due_second)), HAND, 1)
    assert 72.5 <= bound.utility == pytest.approx(72.5, abs=1e-2)


def test_the_bound_is_the_optimum_while_half_of_the_workers_leave():
    # Two groups at a time on two workers, then one at a time on one.
    before, due = periodic(300, 5.5, size=8)
    after, due_after = periodic(300, 5.5, start=300 * 5.5)
    bound = price_bound(
        np.concatenate((before, after)),
        np.concatenate((due, due_after)),
        HAND,
        [(0, 2), (300 * 5.5, 1)],
    )
    assert 75 <= bound.utility == pytest.approx(75, abs=1e-3)


def test_prices_that_vary_prove_the_optimum_of_a_busy_and_a_quiet_time():
    # Small in full batches without a pause, then large at leisure. The fluid bound would lend the
    # quiet time to the busy one.
    busy, due = periodic(100, 2.5)
    quiet, due_quiet = periodic(20, 13.0, start=270.0)
    arrivals, deadlines = np.concatenate((busy, quiet)), np.concatenate((due, due_quiet))
    optimum = (100 * 70 + 20 * 80) / 120

    fluid = fluid_bound(arrivals, deadlines, HAND, 1)
    bound = price_bound(arrivals, deadlines, HAND, 1, cell=0.5)

    assert fluid.utility > optimum + 0.45
    assert optimum <= bound.utility + 1e-6
    assert bound.utility <= optimum + 0.05
    assert bound.source == "refined"


def test_a_burst_beyond_capacity_is_charged_to_those_in_the_burst():
    # 40 at once with 10 s to go: the worker serves 16 with small in full batches (no other choice
    # serves as many), the rest are lost. 200 s later one query has all the time in the world.
    arrivals, deadlines = np.array([0.0] * 40 + [200.0]), np.array([10.0] * 40 + [204.0])
    optimum = (16 * 70 - 24 * 100 + 80) / 41

    bound = price_bound(arrivals, deadlines, HAND, 1)

    assert optimum <= bound.utility + 1e-6
    assert bound.utility <= optimum + 0.5


def test_the_bound_comes_with_the_prices_that_prove_it():
    rng = np.random.default_rng(1)
    arrivals = np.sort(rng.uniform(0, 60, 80))
    bound = price_bound(arrivals, arrivals + 6, HAND, 1, iterations=40)
    assert bound.prices.utility_bound(problem(arrivals, arrivals + 6, HAND, 1)) == pytest.approx(
        bound.utility, abs=1e-6
    )


def test_when_nobody_can_be_served_the_bound_is_the_penalty():
    assert price_bound([0, 5], [0.5, 5.5], HAND, 2).utility == -100


def test_cells_are_a_ninth_of_the_windows_that_can_be_used():
    # Small needs 1 s: the windows of 0 and 0.5 s do not count. Very long ones make the cells
    # longer, so that no window has more than a hundred of them.
    assert _fine(problem([0] * 5, [0, 0.5, 0.5, 9, 9], HAND, 1)) == pytest.approx(1)
    assert _fine(problem([0] * 5, [0, 0.5, 9, 9, 500], HAND, 1)) == pytest.approx(5)


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="cell"):
        price_bound([0], [4], HAND, 1, cell=0.0)
    with pytest.raises(ValueError, match="iterations"):
        price_bound([0], [4], HAND, 1, iterations=-1)
