"""The fluid bound against the hull of HAND, worked out by hand.

Worker-seconds per query and accuracy at the largest batch: small 0.625, 70; mid 1.375, 75; large
3.25, 80. With large at batch 2 (7 s): 3.5. At batch 1 (4 s): 4.
"""

import numpy as np
import pytest

from policies.bounds import fluid_bound
from policies.types import Profile
from tests.policies.hand import HAND

PAIRS = Profile.from_table([("other", 90.0, {1: 3.0, 2: 3.0})])


@pytest.mark.parametrize(
    ("queries", "window", "workers", "expected", "why"),
    [
        (8, 8, 1, 70 + 5 * (1 - 0.625) / 0.75, "1 s each: between small and mid"),
        (8, 11, 1, 75, "1.375 s each: mid"),
        (8, 20, 1, 75 + 5 * (2.5 - 1.375) / 1.875, "2.5 s each: between mid and large"),
        (8, 12, 2, 75 + 5 * (3 - 1.375) / 2.125, "3 s each, but large for four takes 13"),
        (8, 20, 4, 80, "10 s each: more than large needs"),
        (8, 5, 1, 70, "0.625 s each: small in full batches"),
        (2, 4, 1, 75 + 5 * (2 - 1.6) / 2.4, "two queries never fill a batch of four"),
        (8, 10, [(0, 2), (5, 1)], 75 + 5 * (1.875 - 1.375) / 2.125, "15 worker-seconds"),
        (8, 10, [(-5, 2), (5, 0)], 70 + 5 * (1.25 - 0.625) / 0.75, "10 since the first arrival"),
    ],
)
def test_accuracy_and_utility_are_on_the_hull(queries, window, workers, expected, why):
    found = fluid_bound([0] * queries, [window] * queries, HAND, workers)
    assert (found.accuracy, found.utility) == pytest.approx((expected, expected), abs=1e-5), why


def test_in_overload_full_batches_of_the_smallest_serve_a_share():
    # 0.5 of the 0.625 s that each would need.
    found = fluid_bound([0] * 8, [4] * 8, HAND, 1)
    assert found.utility == pytest.approx(-100 + 170 * 0.5 / 0.625, abs=1e-5)
    assert found.accuracy is None


def test_the_prices_are_the_slope_of_the_hull():
    # One more worker-second lifts 1 / 0.75 queries from small to mid.
    assert fluid_bound([0] * 8, [8] * 8, HAND, 1).prices == pytest.approx((5 / 0.75,))
    assert fluid_bound([0] * 8, [4] * 8, HAND, 1).prices == pytest.approx((170 / 0.625,))
    assert fluid_bound([0] * 8, [20] * 8, HAND, 4).prices == pytest.approx((0,))


def test_a_miss_that_costs_nothing_changes_the_utility_but_not_the_accuracy():
    # From (0, 0) the hull goes to small with slope 112, and on as before.
    free = fluid_bound([0] * 8, [4] * 8, HAND, 1, penalty=0)
    assert free.utility == pytest.approx(70 * 0.5 / 0.625, abs=1e-5)
    assert fluid_bound([0] * 8, [8] * 8, HAND, 1, penalty=0).accuracy == pytest.approx(72.5)


def test_a_query_that_nothing_can_serve_costs_its_penalty():
    found = fluid_bound([0] * 9, [20] * 8 + [0.5], HAND, 1)
    assert found.utility == pytest.approx((8 * 78 - 100) / 9, abs=1e-5)
    assert found.accuracy is None


def test_without_workers_nobody_is_served():
    found = fluid_bound([0, 0], [9, 9], HAND, 0)
    assert (found.utility, found.accuracy) == (pytest.approx(-100), None)


def test_when_nobody_can_be_served_the_utility_is_the_penalty():
    assert fluid_bound([0, 0], [0.5, 0.5], HAND, 3).utility == -100


def test_device_types_add_up():
    # In 6 s the other device serves four of the eight at 90, HAND the rest with 1.5 s each; large
    # is out but for batch 1, since it takes 7 s for two.
    found = fluid_bound([0] * 8, [6] * 8, [HAND, PAIRS], [1, 1])
    assert found.accuracy == pytest.approx((90 + 75 + 5 * 0.125 / 2.625) / 2, abs=1e-5)


def test_arrays_and_any_order_are_taken():
    arrivals = np.array([3.0, 0.0, 1.0, 2.0])
    found = fluid_bound(arrivals, arrivals + 13, HAND, np.int64(1))
    assert found.accuracy == pytest.approx(80)  # 4 s each, from 0 to 16


@pytest.mark.parametrize(
    ("arrivals", "deadlines", "profile", "workers", "penalty", "message"),
    [
        ([], [], HAND, 1, 100, "needs an arrival"),
        ([0, 1], [2], HAND, 1, 100, "needs an arrival"),
        ([[0]], [[2]], HAND, 1, 100, "needs an arrival"),
        ([0], [float("inf")], HAND, 1, 100, "finite"),
        ([0], [2], HAND, 1, -1, "penalty"),
        ([0], [2], HAND, 1, float("nan"), "penalty"),
        ([0], [2], HAND, -1, 100, "negative"),
        ([0], [2], HAND, [], 100, "ascend"),
        ([0], [2], HAND, [(1, 2), (1, 3)], 100, "ascend"),
        ([0], [2], HAND, [(float("nan"), 2)], 100, "ascend"),
        ([0], [2], [HAND, HAND], [1], 100, "one number of workers for each"),
        ([0], [2], [HAND], 1, 100, "one number of workers for each"),
        ([0], [2], [], [], 100, "one number of workers for each"),
    ],
)
def test_what_makes_no_sense_is_refused(arrivals, deadlines, profile, workers, penalty, message):
    with pytest.raises(ValueError, match=message):
        fluid_bound(arrivals, deadlines, profile, workers, penalty=penalty)
