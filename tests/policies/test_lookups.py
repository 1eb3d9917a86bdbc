"""What DualFit looks up, against a search of the whole profile."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.lookups import PriceList, Within
from policies.types import Profile
from tests.policies.test_promises import profiles

# Full batches need 0.5, 1 and 2 s per query: slopes 170 / 0.5 = 340, 10 / 0.5 = 20 and 5 / 1 = 5.
LINEAR = Profile.from_table(
    [
        ("small", 70.0, {1: 0.6, 4: 2.0}),
        ("mid", 80.0, {1: 1.1, 4: 4.0}),
        ("large", 85.0, {1: 2.1, 4: 8.0}),
    ]
)
UNORDERED = Profile.from_table(
    [
        ("small", 70.0, {1: 0.6, 4: 0.5}),
        ("mid", 80.0, {1: 0.5, 4: 4.0}),
        ("large", 85.0, {1: 2.1, 4: 4.0}),
    ]
)


def fitting(profile, column, slack):
    rows = range(len(profile.subnets))
    return max((row for row in rows if profile.latencies[row][column] <= slack), default=-1)


def assert_all_that_fits_is_found(profile, slack):
    columns = range(len(profile.batch_sizes))
    expected = tuple(fitting(profile, column, slack) for column in columns)
    assert Within(profile).rows(slack) == expected


@given(profiles(), st.floats(-1.0, 60.0), st.data())
def test_the_most_accurate_that_fits_is_found_for_every_batch_size(profile, slack, data):
    assert_all_that_fits_is_found(profile, slack)
    exact = data.draw(st.sampled_from(sorted({t for row in profile.latencies for t in row})))
    assert_all_that_fits_is_found(profile, exact)


@pytest.mark.parametrize("slack", [0.4, 0.5, 0.6, 2.1, 4.0])
def test_latencies_need_not_ascend_with_the_accuracy(slack):
    assert_all_that_fits_is_found(UNORDERED, slack)


@pytest.mark.parametrize(
    ("tau", "price", "why"),
    [
        (0.1, 340.0, "left of the first middle, 0.25"),
        (0.75, 20.0, "the middle between small and mid"),
        (1.125, 12.5, "half way between two middles"),
        (1.5, 5.0, "the middle between mid and large"),
        (2.0, 2.5, "half way to where time is worth nothing"),
        (2.5, 0.0, "beyond the last vertex by half its segment"),
        (99.0, 0.0, "further beyond it"),
    ],
)
def test_the_price_is_interpolated_between_the_middles_of_the_segments(tau, price, why):
    assert PriceList(LINEAR, 100.0).at(tau)[0] == pytest.approx(price), why


@given(profiles(), st.floats(0.0, 20.0), st.floats(0.0, 20.0))
def test_the_more_can_be_spent_on_a_query_the_less_a_second_is_worth(profile, one, other):
    prices = PriceList(profile, 100.0)
    few, many = sorted((one, other))
    assert prices.at(many)[0] <= prices.at(few)[0] * (1 + 1e-12)


@given(profiles(), st.floats(0.0, 20.0), st.sampled_from([0.0, 100.0]))
def test_a_query_is_worth_what_its_best_subnet_leaves_or_a_miss(profile, tau, penalty):
    price, value, _ = PriceList(profile, penalty).at(tau)
    left = best_left(profile, -1, price)
    assert value == pytest.approx(max(-penalty, left), abs=1e-6)


@given(profiles(), st.floats(0.0, 20.0))
def test_no_subnet_is_better_at_its_price_than_the_one_wanted(profile, tau):
    price, _, wanted = PriceList(profile, 100.0).at(tau)
    for column, row in enumerate(wanted):
        best = best_left(profile, column, price)
        assert left_of(profile, row, column, price) == pytest.approx(best, abs=1e-6)


def test_as_the_price_falls_more_accurate_subnets_are_wanted():
    prices = PriceList(LINEAR, 100.0)
    wanted = [prices.at(tau / 10)[2] for tau in range(1, 30)]
    assert all(
        one <= other
        for few, many in pairwise(wanted)
        for one, other in zip(few, many, strict=True)
    )  # fmt: skip
    assert (wanted[0], wanted[-1]) == ((0, 0), (2, 2))


def left_of(profile, row, column, price):
    size = profile.batch_sizes[column]
    return profile.accuracies[row] - price * profile.latencies[row][column] / size


def best_left(profile, column, price):
    return max(left_of(profile, row, column, price) for row in range(len(profile.subnets)))
