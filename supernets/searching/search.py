"""Searching a space for its Pareto front by evolution, or whole where it is small. Pure.

What is measured comes in through functions, randomness through a generator; so every decision can
be repeated and tested without a network. `supernets.searching.halving` saves images on the way.
"""

from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass
from itertools import islice
from math import inf, prod

from supernets.space import Random, SearchSpace, Subnet, Value

_TRIABLE = 1_000_000
_TRIES = 50  # to breed a subnet that was not seen yet, before giving up on one child


@dataclass(frozen=True, slots=True)
class Point:
    """What is known of one subnet.

    ``accuracy`` and ``standard_error`` are in percent (no error where it was predicted), ``cost``
    is in any unit. A point that is not ``complete`` was given up before all images were shown.
    """

    subnet: Subnet
    cost: float
    accuracy: float
    standard_error: float | None = None
    images: int = 0
    complete: bool = True


# Points of these subnets, in their order; none at all once nothing more may be spent.
Evaluate = Callable[[Sequence[Subnet]], Sequence[Point]]


@dataclass(frozen=True, slots=True)
class EvolutionOptions:
    """The evolutionary search of the Once-for-All code (`EvolutionFinder`), with its defaults.

    ``generations`` is less than its 500: every generation here may cost measurements.
    """

    population: int = 100
    generations: int = 30
    parent_ratio: float = 0.25
    mutation_ratio: float = 0.5  # the other children are crossovers
    mutation_probability: float = 0.1

    def __post_init__(self) -> None:
        if self.population < 2 or self.generations < 0:
            raise ValueError("a population needs two subnets, and generations cannot be negative")
        for name in ("parent_ratio", "mutation_ratio", "mutation_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1, not {getattr(self, name)}")

    @property
    def parents(self) -> int:
        return max(2, round(self.parent_ratio * self.population))


def ranks(points: Sequence[Point]) -> list[int]:
    """The front each point is on: 0 where none is as cheap and as accurate, 1 without those...

    Nondominated sorting (Deb et al., NSGA-II, 2002, section III-A), for two aims O(n log n). Of
    points alike in both, the first counts as the better one.
    """
    order = sorted(range(len(points)), key=lambda i: (points[i].cost, -points[i].accuracy))
    tops: list[float] = []  # the best accuracy on each front so far; it never ascends
    found = [0] * len(points)
    for i in order:
        low, high = 0, len(tops)
        while low < high:
            middle = (low + high) // 2
            if tops[middle] < points[i].accuracy:
                high = middle
            else:
                low = middle + 1
        found[i] = low
        tops[low : low + 1] = [points[i].accuracy]
    return found


def crowding(points: Sequence[Point]) -> list[float]:
    """How much room each point of one front has to itself; infinite for the two ends.

    The crowding distance of NSGA-II (section III-B): in each aim the gap between both neighbours,
    as a share of the front's extent.
    """
    room = [0.0] * len(points)
    aims: tuple[Callable[[Point], float], ...] = (lambda p: p.cost, lambda p: p.accuracy)
    for aim in aims:
        order = sorted(range(len(points)), key=lambda i: aim(points[i]))
        extent = aim(points[order[-1]]) - aim(points[order[0]])
        room[order[0]] = room[order[-1]] = inf
        for before, here, after in zip(order, order[1:], order[2:], strict=False):
            if extent > 0:
                room[here] += (aim(points[after]) - aim(points[before])) / extent
    return room


def best(points: Sequence[Point], count: int) -> list[Point]:
    """The ``count`` best: by front, and the last front thinned where it is crowded."""
    fronts: dict[int, list[Point]] = {}
    for point, rank in zip(points, ranks(points), strict=True):
        fronts.setdefault(rank, []).append(point)
    chosen: list[Point] = []
    for rank in sorted(fronts):
        room = crowding(fronts[rank])
        order = sorted(range(len(room)), key=lambda i: -room[i])
        chosen += [fronts[rank][i] for i in order]
        if len(chosen) >= count:
            break
    return chosen[:count]


def front(points: Sequence[Point]) -> list[Point]:
    """The complete points that no other complete one beats in both respects, by ascending cost."""
    complete = [point for point in points if point.complete]
    rank = ranks(complete)
    return sorted((p for p, r in zip(complete, rank, strict=True) if r == 0), key=lambda p: p.cost)


def crossover(space: SearchSpace, a: Subnet, b: Subnet, rng: Random) -> Subnet:
    """Each setting from either parent, evenly; ``ValueError`` where the space has no such child."""
    config: dict[str, Sequence[Value]] = {
        d.name: [x if rng.random() < 0.5 else y for x, y in zip(a[d.name], b[d.name], strict=True)]
        for d in space.dimensions
    }
    return space.subnet(**config)


def diagonal(space: SearchSpace, levels: int = 5) -> list[Subnet]:
    """From the smallest to the largest, every setting at the same share of its options."""
    found = [space.smallest]
    for level in range(1, levels - 1):
        share = level / (levels - 1)
        config = {d.name: d.options[round(share * (len(d.options) - 1))] for d in space.dimensions}
        try:
            found.append(space.subnet(**config))
        except ValueError:
            continue  # a space may forbid combinations; both its ends it always has
    return list(dict.fromkeys([*found, space.largest]))


def first_generation(space: SearchSpace, count: int, rng: Random) -> list[Subnet]:
    """The diagonal, which spans the costs, and random subnets, which crowd in their middle."""
    subnets = dict.fromkeys(diagonal(space)[:count])
    for _ in range(_TRIES * count):
        if len(subnets) >= count:
            break
        subnets[space.sample(rng)] = None
    return list(subnets)


def offspring(
    space: SearchSpace,
    parents: Sequence[Subnet],
    seen: Mapping[Subnet, object],
    options: EvolutionOptions,
    rng: Random,
) -> list[Subnet]:
    """A generation of subnets not seen yet; fewer, or none, where the space has no more.

    ``parents`` are best first, and the better of two random ones is taken: the binary tournament
    of NSGA-II.
    """
    children: dict[Subnet, None] = {}
    mutations = round(options.mutation_ratio * options.population)
    for index in range(options.population):
        for attempt in range(_TRIES):
            a, b = _pick(parents, rng), _pick(parents, rng)
            try:
                if attempt >= _TRIES * 3 // 4:  # what is close to the parents is known by now
                    child = space.sample(rng)
                elif index < mutations or attempt >= _TRIES // 2:
                    child = space.mutate(a, rng, options.mutation_probability)
                else:
                    child = crossover(space, a, b, rng)
            except ValueError:
                continue
            if child not in seen and child not in children:
                children[child] = None
                break
    return list(children)


def _pick(parents: Sequence[Subnet], rng: Random) -> Subnet:
    return parents[int(min(rng.random(), rng.random()) * len(parents))]


def evolve(
    space: SearchSpace,
    evaluate: Evaluate,
    options: EvolutionOptions,
    rng: Random,
    progress: Callable[[int, Sequence[Point]], None] | None = None,
) -> list[Point]:
    """Every point evaluated, in order; its `front` is what was searched for.

    The loop of Once-for-All (parents, their mutations and their crossovers), with NSGA-II's order
    in place of "the most accurate under one constraint", so that one run gives the whole front; all
    that is on the front so far are parents, even if they are more than ``parent_ratio`` says.
    ``progress`` is told each generation done and the points so far. Ends early where the space has
    no more subnets, or ``evaluate`` gives no more points.
    """
    seen: dict[Subnet, Point] = {}
    children = first_generation(space, options.population, rng)
    for generation in range(options.generations + 1):
        found = list(evaluate(children)) if children else []
        if not found:
            break
        seen.update((point.subnet, point) for point in found)
        points = list(seen.values())
        if progress is not None:
            progress(generation, points)
        count = max(options.parents, ranks(points).count(0))
        parents = [point.subnet for point in best(points, count)]
        children = offspring(space, parents, seen, options, rng)
    return list(seen.values())


def size(space: SearchSpace) -> int:
    """How many subnets there are at most; exact where the space can tell."""
    known = getattr(space, "size", None)
    if known is None and isinstance(space, Sized):
        known = len(space)
    return _combinations(space) if known is None else int(known)


def _combinations(space: SearchSpace) -> int:
    """Of all settings, with or without effect."""
    return prod(len(d.options) ** d.length for d in space.dimensions)


def whole(space: SearchSpace, limit: int) -> list[Subnet] | None:
    """All subnets of a space of at most ``limit``; nothing for a larger one.

    Nor for one that would have to try millions of combinations to find its few subnets.
    """
    slow = type(space).__iter__ is SearchSpace.__iter__ and _combinations(space) > _TRIABLE
    if size(space) > limit or slow:
        return None
    return list(islice(iter(space), limit))


def search(
    space: SearchSpace,
    evaluate: Evaluate,
    options: EvolutionOptions,
    rng: Random,
    progress: Callable[[int, Sequence[Point]], None] | None = None,
) -> list[Point]:
    """Every point evaluated: all of a space no larger than an evolution would look at, else those.

    A small space is evaluated as one generation.
    """
    subnets = whole(space, options.population * (options.generations + 1))
    if subnets is None:
        return evolve(space, evaluate, options, rng, progress)
    points = list(evaluate(subnets))
    if progress is not None:
        progress(options.generations, points)
    return points
