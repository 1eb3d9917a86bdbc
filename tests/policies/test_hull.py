"""The concave hull against hand-worked points and against a linear program over all subnets."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from policies.hull import Hull
from policies.types import Profile
from tests.policies.hand import HAND

# Seconds per query at a batch of 4: small 0.625, mid 1.375, large 3.25.
# Slopes: 170 / 0.625 = 272, 5 / 0.75 = 6.67, 5 / 1.875 = 2.67.
BY_HAND = Hull.of(HAND)


def test_the_hull_of_a_profile_is_taken_at_its_largest_batch():
    assert Hull(("small", "mid", "large"), (0.625, 1.375, 3.25), (70.0, 75.0, 80.0)) == BY_HAND


def test_the_hull_can_be_taken_at_another_batch_size():
    assert Hull.of(HAND, batch_size=1).taus == (1.0, 2.0, 4.0)


@pytest.mark.parametrize(
    ("tau", "accuracy", "slope", "mix", "why"),
    [
        (-1.0, -100.0, 272.0, (), "no time at all: everything is given up"),
        (0.0, -100.0, 272.0, (), "the same"),
        (0.3125, -15.0, 272.0, (("small", 0.5),), "half of the queries, the other half given up"),
        (0.625, 70.0, 5 / 0.75, (("small", 1.0),), "just enough for all on the smallest"),
        (1.0, 72.5, 5 / 0.75, (("small", 0.5), ("mid", 0.5)), "half way"),
        (1.375, 75.0, 5 / 1.875, (("mid", 1.0),), "a vertex: the price of the segment ahead"),
        (1.75, 76.0, 5 / 1.875, (("mid", 0.8), ("large", 0.2)), "a fifth of the way"),
        (3.25, 80.0, 0.0, (("large", 1.0),), "more time would buy nothing"),
        (99.0, 80.0, 0.0, (("large", 1.0),), "to the right of the last vertex"),
    ],
)
def test_the_hull_by_hand(tau, accuracy, slope, mix, why):
    assert BY_HAND.accuracy(tau) == pytest.approx(accuracy), why
    assert BY_HAND.slope(tau) == pytest.approx(slope), why
    found = BY_HAND.mix(tau)
    assert [subnet for subnet, _ in found] == [subnet for subnet, _ in mix], why
    assert [share for _, share in found] == pytest.approx([share for _, share in mix]), why


def test_a_subnet_below_a_mix_of_two_others_is_no_vertex():
    # Half a, half c cost 2 and are worth 75, which b is not.
    hull = Hull.over([("a", 1.0, 70.0), ("b", 2.0, 74.0), ("c", 3.0, 80.0)])
    assert hull.subnets == ("a", "c")


def test_a_subnet_that_costs_more_and_is_worth_less_is_no_vertex():
    hull = Hull.over([("slow", 5.0, 70.0), ("a", 1.0, 70.0), ("worse", 1.0, 60.0)])
    assert hull.subnets == ("a",)


def test_giving_up_some_queries_may_beat_the_cheapest_subnet():
    # Without a penalty: b for half of the queries is worth 15 at 1, a for all only 10.
    points = [("a", 1.0, 10.0), ("b", 2.0, 30.0)]
    assert Hull.over(points, penalty=0.0).mix(1.0) == (("b", 0.5),)
    assert Hull.over(points, penalty=100.0).mix(1.0) == (("a", 1.0),)


def test_the_penalty_is_what_a_query_given_up_costs():
    assert Hull.of(HAND, penalty=30.0).accuracy(0.3125) == pytest.approx(20.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((), (), ()), "needs a subnet"),
        ((("a",), (1.0, 2.0), (1.0,)), "one time and one accuracy"),
        ((("a",), (0.0,), (1.0,)), "must ascend"),
        ((("a", "b"), (1.0, 2.0), (2.0, 2.0)), "must ascend"),
        ((("a", "b", "c"), (1.0, 2.0, 3.0), (1.0, 2.0, 4.0)), "slopes"),
    ],
)
def test_what_is_no_hull_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Hull(*arguments)


def test_points_that_are_all_worth_a_miss_have_no_hull():
    with pytest.raises(ValueError, match="no subnet is worth more"):
        Hull.over([("a", 1.0, 0.0)], penalty=0.0)


points = st.lists(
    st.tuples(st.floats(0.01, 10.0), st.floats(0.0, 100.0)), min_size=1, max_size=8
).map(lambda found: [(f"s{i}", cost, accuracy) for i, (cost, accuracy) in enumerate(found)])
penalties = st.sampled_from([1.0, 100.0, 1000.0])
times = st.floats(0.0, 12.0)


@settings(deadline=None)
@given(points, penalties, times)
def test_the_hull_is_the_optimum_of_the_linear_program_over_all_subnets(found, penalty, tau):
    """Shares x of the queries: max sum (a + M) x - M with sum cost x <= tau, sum x <= 1."""
    costs = [cost for _, cost, _ in found]
    worth = [accuracy + penalty for _, _, accuracy in found]
    solved = linprog(
        -np.array(worth),
        A_ub=[costs, [1.0] * len(costs)],
        b_ub=[tau, 1.0],
        method="highs",
    )
    expected = -solved.fun - penalty
    assert Hull.over(found, penalty).accuracy(tau) == pytest.approx(expected, rel=1e-6, abs=1e-6)


@given(points, penalties, times)
def test_the_mix_costs_no_more_than_there_is_and_attains_the_accuracy(found, penalty, tau):
    hull = Hull.over(found, penalty)
    mix = hull.mix(tau)
    by_name = {name: (cost, accuracy) for name, cost, accuracy in found}
    served = sum(share for _, share in mix)
    spent = sum(share * by_name[name][0] for name, share in mix)
    value = sum(share * by_name[name][1] for name, share in mix) - (1.0 - served) * penalty
    assert all(share > 0.0 for _, share in mix)
    assert served <= 1.0 + 1e-9
    assert spent <= tau + 1e-9
    assert value == pytest.approx(hull.accuracy(tau), abs=1e-6)


@given(points, penalties, st.lists(times, min_size=2, max_size=4))
def test_the_slope_is_a_price_that_supports_the_hull(found, penalty, taus):
    """Concave: no point of the hull is above the tangent at another one."""
    hull = Hull.over(found, penalty)
    for here, there in pairwise(taus):
        tangent = hull.accuracy(here) + hull.slope(here) * (there - here)
        assert hull.accuracy(there) <= tangent + 1e-6 * (1.0 + abs(hull.slope(here)))


@given(points, penalties, times, times)
def test_more_time_is_never_worth_less_and_never_dearer(found, penalty, one, other):
    less, more = sorted((one, other))
    hull = Hull.over(found, penalty)
    assert hull.accuracy(less) <= hull.accuracy(more) + 1e-9
    assert hull.slope(less) >= hull.slope(more) >= 0.0


def test_one_subnet_is_hull_enough():
    hull = Hull.of(Profile.from_table([("only", 50.0, {1: 2.0})]))
    assert hull.mix(1.0) == (("only", 0.5),)
    assert hull.mix(2.0) == (("only", 1.0),)
