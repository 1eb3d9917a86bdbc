"""Evolution finds the front of a toy space, and halving the best of many noisy candidates."""

import random
from itertools import pairwise
from math import inf

import numpy as np
import pytest

from supernets.evaluation import paired_distance, standard_error
from supernets.ofa_mobilenetv3 import MobileNetV3Definition
from supernets.searching.halving import AccuracyByHalving, HalvingOptions, halve, spent
from supernets.searching.pareto import Candidate, pareto_front
from supernets.searching.search import (
    EvolutionOptions,
    Point,
    best,
    crossover,
    crowding,
    diagonal,
    evolve,
    front,
    ranks,
    search,
    whole,
)
from supernets.space import Dimension, SearchSpace
from supernets.stitches.stitching import StitchSpace

TOY = SearchSpace("toy", [Dimension("w", 6, (1, 2, 3, 4)), Dimension("d", 1, (1, 2, 3, 4))])
LINE = SearchSpace("line", [Dimension("i", 1, tuple(range(100)))])


def toy_point(subnet):
    """Accuracy saturates in every setting, at different prices: the front bends through all."""
    width, depth = subnet["w"], subnet["d"]
    prices, gains = (3, 1, 2, 4, 1, 2), (9, 7, 5, 4, 3, 2)
    cost = sum(
        p * w * (1 + 0.25 * depth[0]) for i, (p, w) in enumerate(zip(prices, width, strict=True))
    )
    accuracy = 90 - sum(g / w for g, w in zip(gains, width, strict=True)) - 10 / depth[0]
    return Point(subnet, cost, accuracy)


def on_line(*points):
    return [
        Point(LINE.subnet(i=i), float(cost), float(accuracy))
        for i, (cost, accuracy) in enumerate(points)
    ]


def accuracy_within(points, cost):
    return max((p.accuracy for p in points if p.cost <= cost), default=-inf)


@pytest.fixture(name="exhaustive", scope="module")
def exhaustive_front():
    points = [toy_point(subnet) for subnet in TOY]
    assert len(points) == 4**7
    return front(points)


@pytest.mark.parametrize("seed", range(3))
def test_a_twentieth_of_the_evaluations_finds_the_front_within_a_tenth_of_a_point(exhaustive, seed):
    """Of the 30 that the front spans; as many random subnets miss it by more than half a point."""
    asked = []

    def evaluate(subnets):
        asked.extend(subnets)
        return [toy_point(subnet) for subnet in subnets]

    options = EvolutionOptions(population=40, generations=19)
    found = front(evolve(TOY, evaluate, options, random.Random(seed)))
    gaps = [p.accuracy - accuracy_within(found, p.cost) for p in exhaustive]
    rng = random.Random(seed)
    drawn = [toy_point(TOY.sample(rng)) for _ in range(len(asked))]
    random_gaps = [p.accuracy - accuracy_within(drawn, p.cost) for p in exhaustive[10:]]

    assert len(asked) == len(set(asked)) <= 4**7 / 20
    assert max(gaps) < 1.0
    assert sum(gaps) / len(gaps) < 0.1
    assert sum(random_gaps) / len(random_gaps) > 0.5
    assert len(found) > 0.7 * len(exhaustive)


def test_a_search_depends_on_nothing_but_its_seed():
    options = EvolutionOptions(population=20, generations=4)

    def run(seed):
        evaluate = lambda subnets: [toy_point(s) for s in subnets]  # noqa: E731
        return evolve(TOY, evaluate, options, random.Random(seed))

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_a_search_ends_when_the_space_has_no_more_subnets():
    space = SearchSpace("small", [Dimension("a", 2, (1, 2, 3))])
    points = evolve(
        space,
        lambda subnets: [Point(s, sum(s["a"]), s["a"][0]) for s in subnets],
        EvolutionOptions(population=4, generations=50),
        random.Random(0),
    )

    assert {p.subnet for p in points} == set(space)


def test_a_search_ends_when_nothing_more_may_be_spent():
    left = [2]

    def evaluate(subnets):
        left[0] -= 1
        return [toy_point(s) for s in subnets] if left[0] >= 0 else []

    options = EvolutionOptions(population=10, generations=50)
    assert len(evolve(TOY, evaluate, options, random.Random(0))) == 20


def test_small_spaces_are_looked_at_whole_and_large_ones_are_not():
    depths = [(2, 2, 2, 2), (3, 4, 6, 3)]
    stitched = StitchSpace("stitched", ["resnet18", "resnet50"], depths)
    asked = []

    def evaluate(subnets):
        asked.append(list(subnets))
        return [Point(s, 1.0 + i, 1.0) for i, s in enumerate(subnets)]

    points = search(stitched, evaluate, EvolutionOptions(8, 5), random.Random(0))

    assert asked == [list(stitched)]
    assert len(points) == len(stitched)
    assert whole(stitched, len(stitched) - 1) is None
    # Seven thousand to the fifth power: counted, not tried out.
    assert whole(MobileNetV3Definition().space(), 10**6) is None


def test_stitches_that_cannot_be_crossed_are_mutated():
    """Settings of a stitched net exclude each other, so most crossovers do not exist."""
    stitched = StitchSpace(
        "s", ["resnet18", "resnet34", "resnet50"], [(2, 2, 2, 2), (3, 4, 6, 3), (3, 4, 6, 3)]
    )
    points = evolve(
        stitched,
        lambda subnets: [Point(s, hash(s) % 97, hash(s) % 89) for s in subnets],
        EvolutionOptions(population=10, generations=2),
        random.Random(0),
    )

    assert len({p.subnet for p in points}) == len(points) == min(30, len(stitched))


def test_crossover_takes_every_setting_from_either_parent():
    a, b = TOY.smallest, TOY.largest
    rng = random.Random(0)
    children = [crossover(TOY, a, b, rng) for _ in range(50)]

    assert {value for child in children for value in child["w"] + child["d"]} == {1, 4}
    assert len(set(children)) > 40


def test_the_diagonal_climbs_from_the_smallest_to_the_largest():
    space = MobileNetV3Definition().space()
    levels = diagonal(space, 3)

    assert levels == [space.smallest, space.subnet(ks=5, e=4, d=3), space.largest]


def dominates(a, b):
    return (
        a.cost <= b.cost
        and a.accuracy >= b.accuracy
        and (a.cost, a.accuracy)
        != (
            b.cost,
            b.accuracy,
        )
    )


def test_ranks_are_those_of_the_definition():
    """Peel off what nothing dominates, again and again (NSGA-II, section III-A)."""
    rng = random.Random(3)
    points = on_line(*((rng.randrange(12), rng.randrange(12)) for _ in range(90)))
    distinct = list({(p.cost, p.accuracy): p for p in points}.values())
    expected, left, rank = {}, set(distinct), 0
    while left:
        peel = {p for p in left if not any(dominates(q, p) for q in left)}
        expected |= dict.fromkeys(peel, rank)
        left -= peel
        rank += 1

    assert ranks(distinct) == [expected[p] for p in distinct]
    assert max(ranks(distinct)) > 3


def test_the_front_is_the_pareto_front_of_what_is_complete():
    rng = random.Random(4)
    points = on_line(*((rng.random(), rng.random()) for _ in range(80)))
    bait = Point(LINE.subnet(i=99), 0.0, 2.0, complete=False)
    expected = pareto_front([Candidate(p.subnet, p.accuracy, p.cost) for p in points])

    assert [p.subnet for p in front([bait, *points])] == [c.subnet for c in expected]


def test_crowding_is_the_gap_between_both_neighbours():
    """Worked by hand: costs 0, 1, 4, 10 and accuracies 0, 4, 6, 8."""
    room = crowding(on_line((0, 0), (1, 4), (4, 6), (10, 8)))

    assert room[0] == room[3] == inf
    assert room[1] == pytest.approx(4 / 10 + 6 / 8)
    assert room[2] == pytest.approx(9 / 10 + 4 / 8)


def test_the_best_are_taken_by_front_and_then_by_room():
    points = on_line((0, 0), (1, 4), (1.1, 4.1), (10, 8), (5, 1), (20, 3))

    assert [p.cost for p in best(points, 3)] == [0, 10, 1.1]
    assert len(best(points, 5)) == 5
    assert best(points, 5)[-1].cost in {5, 20}


# Successive halving


class Noisy:
    """Candidates with known chances, each shown the same images: hits are correlated as in life."""

    def __init__(self, chances, seed):
        rng = np.random.default_rng(seed)
        difficulty, luck = rng.random(4000), rng.random((len(chances), 4000))
        # One half of the randomness is the image's, the other the candidate's own.
        ease = np.sort(0.5 * difficulty + 0.5 * luck, axis=None)
        self.hits = {
            LINE.subnet(i=i): 0.5 * difficulty + 0.5 * luck[i] < np.quantile(ease, chance)
            for i, chance in enumerate(chances)
        }
        self.shown = 0

    def __call__(self, subnets, first, last):
        self.shown += len(subnets) * (last - first)
        return {subnet: self.hits[subnet][first:last] for subnet in subnets}


def distance(a, b):
    n = min(len(a), len(b))
    return paired_distance(a[:n], b[:n])


CHANCES = [0.55 + 0.008 * i for i in range(26)] + [0.80]  # the best is 4.2 points ahead
PLAIN = HalvingOptions(first=100, last=2700, eta=3, separation=0.0)
# 27 see 100 images, 9 see 200 more, 3 see 600 more, 1 sees 1800 more: 2700 + 3 · 1800.
BOUND = 8100


def test_rungs_multiply_up_to_the_last():
    assert PLAIN.rungs == (100, 300, 900, 2700)
    assert HalvingOptions(first=64, last=1000, eta=4).rungs == (64, 256, 1000)
    assert HalvingOptions(first=50, last=50).rungs == (50,)


def test_plain_halving_spends_what_was_worked_out_and_finds_the_winner_in_19_of_20_problems():
    """All 27 on all images would be 72,900; the bound is a ninth of that."""
    right = 0
    for seed in range(40):
        noisy = Noisy(CHANCES, seed)
        costs = dict.fromkeys(noisy.hits, 1.0)
        seen = halve(costs, noisy, distance, PLAIN)
        finished = [s for s, hits in seen.items() if len(hits) == 2700]
        full = max(noisy.hits, key=lambda s: noisy.hits[s][:2700].mean())
        right += finished == [full]

        assert noisy.shown == spent(seen.values(), PLAIN) == BOUND
    assert right >= 38


def test_careful_halving_keeps_the_winner_and_spends_a_fifth():
    """At 2.5 standard errors hardly one of 26 rivals throws the best out."""
    options = HalvingOptions(first=100, last=2700, eta=3, separation=2.5)
    lost, shown = 0, 0
    for seed in range(40):
        noisy = Noisy(CHANCES, seed)
        seen = halve(dict.fromkeys(noisy.hits, 1.0), noisy, distance, options)
        finished = {s for s, hits in seen.items() if len(hits) == 2700}
        lost += max(noisy.hits, key=lambda s: noisy.hits[s][:2700].mean()) not in finished
        shown += noisy.shown

    assert lost <= 1
    assert shown / 40 < 0.2 * 72_900


def test_only_what_is_dominated_beyond_the_separation_is_dropped():
    """A is 40 of 100 and B 30, on the same images: 10 more of nothing lost is 3.3 errors."""
    a = np.arange(200) % 100 < 40
    b = np.arange(200) % 100 < 30
    subnets = [LINE.subnet(i=i) for i in range(2)]
    answers = {subnets[0]: a, subnets[1]: b}
    gap = paired_distance(a[:100], b[:100])

    def run(separation, costs):
        options = HalvingOptions(first=100, last=200, eta=2, separation=separation)
        seen = halve(
            dict(zip(subnets, costs, strict=True)),
            lambda asked, first, last: {s: answers[s][first:last] for s in asked},
            distance,
            options,
        )
        return [len(seen[s]) for s in subnets]

    assert gap == pytest.approx(3.32, abs=0.01)
    assert run(gap - 0.1, (1.0, 1.0)) == [200, 100]
    assert run(gap + 0.1, (1.0, 1.0)) == [200, 200]
    assert run(gap - 0.1, (1.1, 1.0)) == [200, 200], "a cheaper one is not dominated"


def test_a_rival_from_before_drops_candidates_at_once():
    better, worse = np.ones(300, np.bool_), np.arange(300) % 2 == 0
    subnet = LINE.subnet(i=0)
    options = HalvingOptions(first=20, last=300, eta=4, separation=2.5)

    def run(rivals):
        answers = lambda asked, a, b: dict.fromkeys(asked, worse[a:b])  # noqa: E731
        return len(halve({subnet: 1.0}, answers, distance, options, rivals)[subnet])

    assert run([(1.0, better)]) == 20
    assert run([(1.1, better)]) == 300
    assert run([]) == 300


@pytest.mark.parametrize("budget", [0, 99, 100, 1500, 5000, 9999])
def test_a_budget_is_never_exceeded_and_calibration_counts(budget):
    noisy = Noisy(CHANCES, 0)
    options = HalvingOptions(first=50, last=450, eta=3, separation=2.0, overhead=50)
    judge = AccuracyByHalving(noisy, distance, standard_error, options, budget)
    points = judge(dict.fromkeys(noisy.hits, 1.0))
    again = judge(dict.fromkeys(noisy.hits, 2.0))

    assert judge.spent <= budget
    assert judge.spent == noisy.shown + 50 * (len(points) + len(again))
    if budget >= 5000:
        assert any(point.complete for point in points)


def test_the_best_go_on_when_the_budget_is_short():
    """27 on the first rung leave images for two more of them: the two most accurate."""
    noisy = Noisy(CHANCES, 1)
    options = HalvingOptions(first=100, last=500, eta=5, separation=99.0)
    seen = halve(dict.fromkeys(noisy.hits, 1.0), noisy, distance, options, budget=2700 + 900)
    finished = {s for s, hits in seen.items() if len(hits) == 500}
    first = sorted(noisy.hits, key=lambda s: -noisy.hits[s][:100].mean())

    assert len(finished) == 2
    assert min(noisy.hits[s][:100].mean() for s in finished) >= noisy.hits[first[1]][:100].mean()


def test_measured_points_carry_accuracy_error_and_completeness():
    hits = np.arange(100) < 80
    subnet, options = LINE.subnet(i=5), HalvingOptions(first=10, last=100, eta=10)
    judge = AccuracyByHalving(
        lambda asked, a, b: dict.fromkeys(asked, hits[a:b]), distance, standard_error, options
    )
    (point,) = judge({subnet: 7.0})

    assert (point.subnet, point.cost, point.images, point.complete) == (subnet, 7.0, 100, True)
    assert point.accuracy == pytest.approx(80.0)
    assert point.standard_error == pytest.approx(100 * np.sqrt(0.8 * 0.2 / 99))


def test_bad_options_are_refused():
    for options in ({"eta": 1}, {"first": 0}, {"first": 10, "last": 5}, {"separation": -1.0}):
        with pytest.raises(ValueError, match="halving needs"):
            HalvingOptions(**options)
    with pytest.raises(ValueError, match="parent_ratio"):
        EvolutionOptions(parent_ratio=1.5)
    with pytest.raises(ValueError, match="population"):
        EvolutionOptions(population=1)


def test_measured_search_of_the_toy_space_agrees_with_full_measurement():
    """Evolution and halving together, against all 256 subnets measured on all images."""
    space = SearchSpace("toy", [Dimension("w", 4, (1, 2, 3, 4))])
    rng = np.random.default_rng(0)
    difficulty = rng.random(1200)
    chance = {s: 0.95 - 0.12 * sum(1 / (w * (i + 1)) for i, w in enumerate(s["w"])) for s in space}
    luck = {s: rng.random(1200) for s in space}
    hits = {s: 0.8 * difficulty + 0.2 * luck[s] < chance[s] for s in space}
    costs = {s: float(sum(w * (4 - i) for i, w in enumerate(s["w"]))) for s in space}
    shown = [0]

    def answers(subnets, first, last):
        shown[0] += len(subnets) * (last - first)
        return {s: hits[s][first:last] for s in subnets}

    judge = AccuracyByHalving(
        answers, distance, standard_error, HalvingOptions(first=75, last=1200, eta=4)
    )
    points = search(
        space,
        lambda subnets: judge({s: costs[s] for s in subnets}),
        EvolutionOptions(population=16, generations=7),
        random.Random(0),
    )
    found = front(points)
    full = pareto_front([Candidate(s, 100.0 * h.mean(), costs[s]) for s, h in hits.items()])
    gaps = [c.accuracy - accuracy_within(found, c.cost) for c in full]

    assert all(a.cost < b.cost and a.accuracy < b.accuracy for a, b in pairwise(found))
    assert max(gaps) < 3.0
    assert sum(gaps) / len(gaps) < 0.7
    assert shown[0] < 0.45 * 256 * 1200
