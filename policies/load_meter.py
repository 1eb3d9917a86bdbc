"""The meter of the load, for policies that plan at ticks."""

from math import inf

from policies.types import QueueView

# Twice the memory of the scheduler's own rate: each query then weighs about the same, whenever it
# came between two looks.
SAMPLE = 0.05  # seconds


class LoadMeter:
    """The load as it can be seen at ticks: means of the arrival rate over windows.

    The rate that the view shows forgets within some 25 ms, so it is looked at in each tick, every
    ``period`` seconds, and averaged; the mean is without bias. After idle time there is no waiting
    for a window to be over: the second look in a row that sees arrivals is the first estimate.
    """

    __slots__ = (
        "_begin",
        "_budgets",
        "_count",
        "_last",
        "_sum",
        "_window",
        "period",
        "rate",
        "slo",
    )

    def __init__(self, window: float) -> None:
        """``window`` in seconds."""
        if not 0 < window < inf:
            raise ValueError(f"a window needs a positive number of seconds, not {window}")
        self.period = min(SAMPLE, window)  # seconds between ticks
        self.rate = 0.0  # queries per second, in the last window; 0 before the first
        self.slo = 0.0  # seconds from arrival to deadline, mean over a window; 0 while unknown
        self._window = window
        self._begin: float | None = None
        self._last = 0.0  # what the look before saw
        self._sum = self._budgets = 0.0
        self._count = 0

    def sample(self, view: QueueView, now: float) -> bool:
        """Look; whether there is a new estimate. Nothing else changes the meter."""
        rate = view.arrival_rate
        early = not self.rate and self._last > 0 and rate > 0
        if self._begin is None:
            self._begin = now
        if early:
            self._sum, self._budgets, self._count = 0.0, 0.0, 0
        self._sum += rate
        self._budgets += rate * view.slo
        self._count += 1
        self._last = rate
        # Ticks come a little late each; half a period early is near enough.
        if not early and now - self._begin < self._window - self.period / 2:
            return False
        self.rate = self._sum / self._count
        slo = self._budgets / self._sum if self._sum else 0.0
        # What is calculated for an SLO should not be calculated anew for each draw of a mixture.
        if 0 < slo < inf and abs(slo - self.slo) > 0.1 * self.slo:
            self.slo = slo
        self._begin, self._sum, self._budgets, self._count = now, 0.0, 0.0, 0
        return True
