"""Selecting subnets: the front, its thinning, and standard errors that know about copies."""

from itertools import pairwise

import numpy as np
import pytest

from supernets.evaluation import paired_distance, standard_error
from supernets.pareto import Candidate, distinguishable, pareto_front
from supernets.space import Dimension, SearchSpace

SPACE = SearchSpace("points", [Dimension("i", 1, tuple(range(40)))])


def point(index, accuracy, cost):
    return Candidate(SPACE.subnet(i=index), accuracy, cost)


def test_the_front_holds_exactly_what_nothing_dominates():
    rng = np.random.default_rng(0)
    points = [point(i, float(a), float(c)) for i, (a, c) in enumerate(rng.integers(0, 9, (40, 2)))]
    front = pareto_front(points)

    def dominated(p):
        return any(
            q.accuracy >= p.accuracy
            and q.cost <= p.cost
            and (q.accuracy, q.cost) != (p.accuracy, p.cost)
            for q in points
        )

    assert {(p.accuracy, p.cost) for p in front} == {
        (p.accuracy, p.cost) for p in points if not dominated(p)
    }
    assert [p.cost for p in front] == sorted(p.cost for p in front)


def test_thinning_keeps_both_ends_and_distinguishable_neighbours():
    front = [point(i, a, i) for i, a in enumerate([80.0, 80.5, 85.0, 85.5, 86.0, 90.0])]
    kept = distinguishable(front, lambda a, b: a.accuracy - b.accuracy, 2.0)

    assert [c.accuracy for c in kept] == [80.0, 86.0, 90.0]
    assert kept[0] == front[0]
    assert kept[-1] == front[-1]
    assert all(b.accuracy - a.accuracy >= 2.0 for a, b in pairwise(kept))


def test_standard_error_of_independent_values():
    values = np.array([0.0, 1.0, 1.0, 0.0, 1.0])

    assert standard_error(values) == pytest.approx(np.std(values, ddof=1) / np.sqrt(5))


def test_copies_of_one_image_count_once():
    """Ten identical copies of each image carry no more evidence than one."""
    rng = np.random.default_rng(1)
    once = rng.random(300) < 0.8

    assert standard_error(np.tile(once, 10), 300) == pytest.approx(standard_error(once))


def test_paired_distance_uses_the_difference_per_image():
    """By hand: differences 1, 1, 0, 0 have mean 0.5 and standard error sqrt(1/3)/2."""
    a, b = np.array([True, True, True, False]), np.array([False, False, True, False])

    assert paired_distance(a, b) == pytest.approx(0.5 / (np.sqrt(1 / 3) / 2))
