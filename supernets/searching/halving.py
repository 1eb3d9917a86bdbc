"""Successive halving: many images for subnets that may be on the front, few for others. Pure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
import numpy.typing as npt

from supernets.searching.search import Point, best, front
from supernets.space import Subnet

Hits = npt.NDArray[np.bool_]  # [images]: whether the top answer was right

# Show these subnets the images from the first number to before the second.
Answers = Callable[[Sequence[Subnet], int, int], Mapping[Subnet, Hits]]
# By how many standard errors the first beats the second on the images that both have seen.
Distance = Callable[[Hits, Hits], float]
# The standard error of an accuracy, as a share; not a number where it cannot be told.
Error = Callable[[Hits], float]


@dataclass(frozen=True, slots=True)
class HalvingOptions:
    """Successive halving (Jamieson & Talwalkar, AISTATS 2016), made safe against noise.

    Rung r shows each survivor ``first · eta^r`` images in all, up to ``last``. After a rung the
    best 1 / ``eta`` stay, and of the others all but those that another dominates by at least
    ``separation`` standard errors of the difference. With zero, among subnets of one cost, this is
    the plain algorithm. ``overhead`` is what each candidate costs before its first answer, in
    images: its calibration.
    """

    first: int = 64
    last: int = 1024
    eta: int = 4
    separation: float = 2.5
    overhead: int = 0

    def __post_init__(self) -> None:
        if self.eta < 2 or not 0 < self.first <= self.last or self.separation < 0:
            raise ValueError("halving needs eta >= 2, 0 < first <= last and separation >= 0")

    @property
    def rungs(self) -> tuple[int, ...]:
        """Images shown to a subnet by the end of each rung, ascending to ``last``."""
        images, rungs = self.first, []
        while images < self.last:
            rungs.append(images)
            images *= self.eta
        return (*rungs, self.last)


def spent(seen: Iterable[Hits], options: HalvingOptions) -> int:
    """Images that these answers cost, calibration included."""
    return sum(len(hits) + options.overhead for hits in seen)


def halve(
    costs: Mapping[Subnet, float],
    answers: Answers,
    distance: Distance,
    options: HalvingOptions,
    rivals: Iterable[tuple[float, Hits]] = (),
    budget: int | None = None,
) -> dict[Subnet, Hits]:
    """What each candidate answered, as far as it got; only survivors have seen ``last`` images.

    ``rivals`` are (cost, answers) of subnets measured before: a candidate that one of them
    dominates beyond the separation goes at once. ``budget`` bounds what may be `spent`: the best
    candidates then go on while it lasts, and those that saw no image are left out.
    """
    known = list(rivals)
    alive, shown = list(costs), 0
    seen: dict[Subnet, Hits] = {}
    for images in options.rungs:
        if budget is not None:
            price = images - shown + (0 if shown else options.overhead)
            affordable = max(0, budget - spent(seen.values(), options)) // price
            if affordable < len(alive):
                alive = _by_merit(alive, costs, seen)[:affordable]
        if not alive:
            break
        for subnet, hits in answers(alive, shown, images).items():
            seen[subnet] = np.concatenate([seen[subnet], hits]) if subnet in seen else hits
        shown = images
        if images < options.last:
            alive = _survivors(alive, costs, seen, known, distance, options)
    return seen


class AccuracyByHalving:
    """Generation by generation, the points of a search whose accuracy is measured.

    Candidates compete with each other and with the front so far. ``budget`` bounds what may be
    spent in all; once it is, there are no more points.
    """

    def __init__(
        self,
        answers: Answers,
        distance: Distance,
        error: Error,
        options: HalvingOptions,
        budget: int | None = None,
    ) -> None:
        self._answers, self._distance, self._error = answers, distance, error
        self._options, self._left = options, budget
        self._rivals: dict[Subnet, tuple[Point, Hits]] = {}
        self.spent = 0  # images so far, calibration included

    def __call__(self, costs: Mapping[Subnet, float]) -> list[Point]:
        rivals = [(point.cost, hits) for point, hits in self._rivals.values()]
        seen = halve(costs, self._answers, self._distance, self._options, rivals, self._left)
        price = spent(seen.values(), self._options)
        self.spent += price
        if self._left is not None:
            self._left -= price
        found = {subnet: self._point(subnet, costs[subnet], hits) for subnet, hits in seen.items()}
        known = {**self._rivals, **{s: (p, seen[s]) for s, p in found.items() if p.complete}}
        ahead = front([point for point, _ in known.values()])
        self._rivals = {point.subnet: known[point.subnet] for point in ahead}
        return list(found.values())

    def _point(self, subnet: Subnet, cost: float, hits: Hits) -> Point:
        error = self._error(hits)
        return Point(
            subnet,
            cost,
            100.0 * float(hits.mean()),
            None if np.isnan(error) else 100.0 * error,
            len(hits),
            len(hits) >= self._options.last,
        )


def _survivors(
    alive: Sequence[Subnet],
    costs: Mapping[Subnet, float],
    seen: Mapping[Subnet, Hits],
    rivals: Sequence[tuple[float, Hits]],
    distance: Distance,
    options: HalvingOptions,
) -> list[Subnet]:
    def beaten(subnet: Subnet, others: Iterable[tuple[float, Hits]]) -> bool:
        own = seen[subnet]
        return any(
            hits is not own and cost <= costs[subnet] and distance(hits, own) >= options.separation
            for cost, hits in others
        )

    rest = [subnet for subnet in alive if not beaten(subnet, rivals)]
    kept = set(_by_merit(rest, costs, seen)[: ceil(len(rest) / options.eta)])
    peers = [(costs[subnet], seen[subnet]) for subnet in rest]
    return [subnet for subnet in rest if subnet in kept or not beaten(subnet, peers)]


def _by_merit(
    subnets: Sequence[Subnet], costs: Mapping[Subnet, float], seen: Mapping[Subnet, Hits]
) -> list[Subnet]:
    """Best first; in the given order where nothing is known yet."""
    if not all(subnet in seen for subnet in subnets):
        return list(subnets)
    points = [Point(s, costs[s], float(seen[s].mean())) for s in subnets]
    return [point.subnet for point in best(points, len(points))]
