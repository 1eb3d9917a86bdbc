"""The upper concave hull of (worker time per query, accuracy): what mixing subnets can buy."""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field

from policies.types import Profile


@dataclass(frozen=True, slots=True)
class Hull:
    """The most accuracy per query that ``tau`` worker-seconds per query buy, in the long run.

    ``subnets[i]`` needs ``taus[i]`` worker-seconds per query and has ``accuracies[i]`` percent; the
    three are the vertices of the hull, with both numbers ascending and the slopes between them
    descending. Between two vertices the best is to serve part of the queries with each. Below the
    first one there is not enough time for all (overload): the rest of the queries is given up, at
    ``-penalty`` each, which is the point (0, -penalty) of the hull. Beyond the last one more time
    buys nothing.

    This is the fluid limit: every batch full, no deadline missed for any other reason.
    """

    subnets: tuple[str, ...]
    taus: tuple[float, ...]
    accuracies: tuple[float, ...]
    penalty: float = 100.0
    _slopes: tuple[float, ...] = field(init=False, repr=False, compare=False, hash=False)

    def __post_init__(self) -> None:
        """Raises ``ValueError`` for what is no hull; `over` finds the hull of any points."""
        if not self.subnets or not len(self.subnets) == len(self.taus) == len(self.accuracies):
            raise ValueError("a hull needs a subnet, and one time and one accuracy for each")
        taus, values = (0.0, *self.taus), (-self.penalty, *self.accuracies)
        slopes: list[float] = []
        for i in range(len(self.taus)):
            if not (taus[i] < taus[i + 1] and values[i] < values[i + 1]):
                raise ValueError(f"time and accuracy must ascend from (0, {-self.penalty}): {self}")
            slopes.append((values[i + 1] - values[i]) / (taus[i + 1] - taus[i]))
        if slopes != sorted(slopes, reverse=True):
            raise ValueError(f"the slopes of a concave hull descend: {self}")
        object.__setattr__(self, "_slopes", (*slopes, 0.0))

    @classmethod
    def of(cls, profile: Profile, batch_size: int | None = None, penalty: float = 100.0) -> "Hull":
        """The hull of a profile's subnets, each in batches of ``batch_size`` (by default the
        largest). ``ValueError`` beyond the largest profiled batch.
        """
        size = profile.max_batch if batch_size is None else batch_size
        return cls.over(
            (
                (subnet, profile.latency(subnet, size) / size, accuracy)
                for subnet, accuracy in zip(profile.subnets, profile.accuracies, strict=True)
            ),
            penalty,
        )

    @classmethod
    def over(cls, points: Iterable[tuple[str, float, float]], penalty: float = 100.0) -> "Hull":
        """The hull of (subnet, worker-seconds per query, accuracy) points in any order.

        ``ValueError`` if none of them is worth more than a query given up.
        """
        kept = [("", 0.0, -penalty)]
        for point in sorted(points, key=lambda point: (point[1], -point[2])):
            if point[2] <= kept[-1][2]:
                continue
            while len(kept) > 1 and _slope(kept[-1], point) >= _slope(kept[-2], kept[-1]):
                kept.pop()
            kept.append(point)
        if len(kept) == 1:
            raise ValueError(f"no subnet is worth more than a miss, at {-penalty}")
        subnets, taus, accuracies = zip(*kept[1:], strict=True)
        return cls(subnets, taus, accuracies, penalty)

    def accuracy(self, tau: float) -> float:
        """f(tau), percent: the best mean over all queries, those given up included. O(log n)."""
        place = bisect_right(self.taus, tau)
        if place == len(self.taus):
            return self.accuracies[-1]
        if place == 0:
            return self._slopes[0] * max(tau, 0.0) - self.penalty
        return self.accuracies[place - 1] + self._slopes[place] * (tau - self.taus[place - 1])

    def slope(self, tau: float) -> float:
        """What one more worker-second is worth at ``tau``, in percent (of one query).

        At a vertex this is the lower of the two slopes; 0 from the last one on. O(log n).
        """
        return self._slopes[bisect_right(self.taus, tau)]

    def mix(self, tau: float) -> tuple[tuple[str, float], ...]:
        """(subnet, share of the queries) that attain `accuracy`: at most two, adjacent, ascending.

        What the shares lack to 1 is given up. O(log n).
        """
        place = bisect_right(self.taus, tau)
        if place == len(self.taus):
            return ((self.subnets[-1], 1.0),)
        below = self.taus[place - 1] if place else 0.0
        upper = max(tau - below, 0.0) / (self.taus[place] - below)
        shares = [(self.subnets[place], upper)]
        if place:
            shares.insert(0, (self.subnets[place - 1], 1.0 - upper))
        return tuple(share for share in shares if share[1] > 0.0)


def _slope(left: tuple[str, float, float], right: tuple[str, float, float]) -> float:
    return (right[2] - left[2]) / (right[1] - left[1])
