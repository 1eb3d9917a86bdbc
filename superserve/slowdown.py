"""How much longer than planned batches take, as observed lately."""

from bisect import bisect_left, insort
from collections import deque
from math import ceil

MEMORY = 64  # batches: 95 % of them is then a rank that single hiccups do not reach
HIGH = 0.95
# Before anything was seen a profile is not believed to the letter. These weigh nothing in the mean,
# and leave as batches come.
PRIOR_RATIO, PRIOR_COUNT = 1.25, 8


class Slowdown:
    """The real time of the last batches over the planned one: what a plan must reckon with.

    Profiles age: a neighbour takes the cache, a clock falls, a worker's process waits for its turn.
    Throughput follows the mean and a deadline the high end, so both are kept. One batch in twenty
    may be worse than the high end: planning for the worst one ever seen would let a single hiccup
    cost accuracy for long.
    """

    __slots__ = ("_actual", "_batches", "_planned", "_ratios", "high", "mean")

    def __init__(self) -> None:
        prior = (0.0, 0.0, PRIOR_RATIO)
        self._batches: deque[tuple[float, float, float]] = deque([prior] * PRIOR_COUNT)
        self._ratios = [PRIOR_RATIO] * PRIOR_COUNT  # of the same batches, sorted
        self._planned = self._actual = 0.0
        self.mean = 1.0  # all real time over all planned time
        self.high = PRIOR_RATIO  # 95 % of the batches took no more than that; at least 1

    def __repr__(self) -> str:
        return f"<Slowdown mean {self.mean:.3g}, high {self.high:.3g}>"

    def record(self, planned: float, actual: float) -> None:
        """A batch that was planned to take ``planned`` seconds took ``actual``."""
        batches, ratios = self._batches, self._ratios
        if len(batches) == MEMORY:
            old_planned, old_actual, old = batches.popleft()
            del ratios[bisect_left(ratios, old)]
            self._planned -= old_planned
            self._actual -= old_actual
        # Six digits: the rounding of added times must not look like a slowdown.
        ratio = round(actual / planned, 6)
        batches.append((planned, actual, ratio))
        insort(ratios, ratio)
        self._planned += planned
        self._actual += actual
        self.mean = round(self._actual / self._planned, 6)
        self.high = max(1.0, ratios[ceil(HIGH * len(ratios)) - 1])
