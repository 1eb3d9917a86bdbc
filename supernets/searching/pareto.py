"""Which subnets are worth serving: the front, thinned to what can be told apart."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from supernets.space import Subnet


@dataclass(frozen=True, slots=True)
class Candidate:
    """One subnet with its measured accuracy (percent) and cost (seconds, or any other unit)."""

    subnet: Subnet
    accuracy: float
    cost: float


def pareto_front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that no other beats in both respects, by ascending cost; of equals, the first."""
    front: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda c: (c.cost, -c.accuracy)):
        if not front or candidate.accuracy > front[-1].accuracy:
            front.append(candidate)
    return front


def distinguishable(
    front: Sequence[Candidate], distance: Callable[[Candidate, Candidate], float], at_least: float
) -> list[Candidate]:
    """Thin a front until neighbours differ, from the most accurate downwards.

    ``distance`` is in standard errors of the paired difference. Both ends stay: the cheapest is
    what a burst falls back to, so what is too close to it goes instead.
    """
    if len(front) < 2:
        return list(front)
    kept = [front[-1]]
    for candidate in reversed(front[1:-1]):
        if distance(kept[-1], candidate) >= at_least:
            kept.append(candidate)
    while len(kept) > 1 and distance(kept[-1], front[0]) < at_least:
        kept.pop()
    kept.append(front[0])
    return kept[::-1]
