"""A step function of the slack: the shape that every greedy rule over a profile takes."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from math import inf
from typing import Generic, TypeVar

T = TypeVar("T")


class Steps(Generic[T]):
    """Values that hold from a slack (seconds) on, each until the next one takes over."""

    __slots__ = ("_limits", "_values")

    def __init__(self, steps: Iterable[tuple[float, T]]) -> None:
        """``steps`` are (slack from which the value holds, value) pairs in any order."""
        ordered = sorted(steps, key=lambda step: step[0])
        self._limits = [limit for limit, _ in ordered]
        self._values = [value for _, value in ordered]

    @classmethod
    def best(cls, costs: Sequence[float], values: Sequence[T]) -> "Steps[T]":
        """The last of ``values`` (they ascend in worth) among those whose cost is within the slack.

        A value that costs no less than a worthier one is never the answer.
        """
        steps: list[tuple[float, T]] = []
        cheapest = inf
        for cost, value in zip(reversed(costs), reversed(values), strict=True):
            if cost < cheapest:
                cheapest = cost
                steps.append((cost, value))
        return cls(steps)

    def __len__(self) -> int:
        return len(self._limits)

    def at(self, slack: float) -> T | None:
        """The value at this slack; None below the first step. O(log steps)."""
        place = bisect_right(self._limits, slack)
        return self._values[place - 1] if place else None
