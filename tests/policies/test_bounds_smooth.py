"""The smooth stand-in for the price bound: what it stands in for, and its gradient."""

import numpy as np
import pytest

from policies.bounds import Prices, problem, smooth
from policies.bounds.smooth import SmoothBound
from tests.policies.hand import HAND

EDGES = 0.7 * np.arange(91)


def several(seed=0):
    rng = np.random.default_rng(seed)
    arrivals = np.sort(rng.uniform(0, 40, 60))
    windows = rng.choice([3.0, 8.0, 20.0], 60)
    given = problem(arrivals, arrivals + windows, [HAND, HAND], [1, 2])
    return given, rng.uniform(0, 20, (2, len(EDGES) - 1)), rng


@pytest.mark.parametrize("seed", range(8))
def test_without_smoothing_it_is_the_bound_where_each_group_is_one_query(seed):
    rng = np.random.default_rng(seed)
    arrival, window = rng.uniform(0, 10), rng.uniform(1, 15)
    one = problem([arrival], [arrival + window], HAND, 2)
    values = rng.uniform(0, 30, (1, len(EDGES) - 1))

    found, _ = SmoothBound(one, EDGES)(values, 1e-4)

    assert found == pytest.approx(Prices(0.0, 0.7, values).utility_bound(one), abs=1e-2)


def test_smoothing_only_raises_it():
    given, values, _ = several()
    bound = SmoothBound(given, EDGES)
    totals = [bound(values, smoothing)[0] for smoothing in (1e-3, 0.1, 1.0, 3.0)]
    assert totals == sorted(totals)
    # By no more than the logarithm of the number of places: 18 options and 63 cells at most.
    assert totals[-1] <= totals[0] + 3.0 * np.log(1 + 2 * 18 * 63)


@pytest.mark.parametrize("little", [smooth.LITTLE_WORK, 0])
def test_its_gradient_is_that_of_finite_differences(little, monkeypatch):
    monkeypatch.setattr(smooth, "LITTLE_WORK", little)
    given, values, rng = several()
    bound = SmoothBound(given, EDGES)
    bound.focus(values, 0.7)
    for _ in range(4):
        way = rng.normal(size=values.shape)
        ahead, behind = bound(values + 1e-5 * way, 0.7)[0], bound(values - 1e-5 * way, 0.7)[0]
        slope = float((bound(values, 0.7)[1] * way).sum())
        assert slope == pytest.approx((ahead - behind) / 2e-5, rel=1e-4, abs=1e-6)


def test_leaving_out_what_nobody_takes_hardly_changes_it(monkeypatch):
    given, values, _ = several()
    bound = SmoothBound(given, EDGES)
    before = bound(values, 0.1)[0]
    work = sum(block.work for block in bound._blocks)

    monkeypatch.setattr(smooth, "LITTLE_WORK", 0)
    bound.focus(values, 0.1)

    assert bound(values, 0.1)[0] == pytest.approx(before, abs=1e-3)
    assert sum(block.work for block in bound._blocks) < work
    # At other prices, what was left out is back.
    bound.focus(values[:, ::-1], 0.1)
    fresh = SmoothBound(given, EDGES)
    assert bound(values[:, ::-1], 0.1)[0] == pytest.approx(fresh(values[:, ::-1], 0.1)[0], abs=1e-3)
