"""How fast and how unevenly queries arrive for one model, in constant time and memory."""

from math import exp, floor

# From the reference simulations of look-ahead policies: the rate must follow a burst within one
# SLO (tens of milliseconds), the dispersion needs some hundred windows to mean anything.
RATE_MEMORY = 0.025  # seconds
WINDOW = 0.005  # seconds
DISPERSION_MEMORY = 1.0  # seconds


class LoadStatistics:
    """Exponentially forgetting arrival rate and index of dispersion of counts (IDC).

    Rate: each arrival adds ``1 / RATE_MEMORY`` to a sum that decays with that time constant, which
    is unbiased for a steady stream. Dispersion: variance over mean of the counts in windows of
    ``WINDOW`` seconds, forgotten over ``DISPERSION_MEMORY``; 1 for a Poisson stream, 0 for an even
    one, and 1 as long as nothing is known. Both are noisy below some hundred queries per second.
    """

    __slots__ = ("_at", "_count", "_mean", "_rate", "_slo", "_square", "_weight", "_window")

    def __init__(self) -> None:
        self._at = 0.0  # when `_rate` was last brought up to date
        self._rate = 0.0
        self._slo = 0.0  # the same kind of sum as `_rate`, of the arrivals' budgets
        self._window: int | None = None  # the open window
        self._count = 0  # arrivals in it
        self._mean = 0.0  # forgetting sums over closed windows: of counts, of their squares,
        self._square = 0.0
        self._weight = 0.0  # and of one: it takes out the bias of having started from nothing

    def arrive(self, now: float, slo: float = 0.0) -> None:
        self._close_windows(now)
        self._count += 1
        # A clock that stands still or steps back must not make the sum grow.
        kept = self.rate(now)
        self._slo = slo / RATE_MEMORY + (self._slo * kept / self._rate if self._rate else 0.0)
        self._rate = kept + 1.0 / RATE_MEMORY
        self._at = max(self._at, now)

    def rate(self, now: float) -> float:
        """Queries per second, as of ``now``."""
        if not self._rate or now <= self._at:
            return self._rate
        return self._rate * exp((self._at - now) / RATE_MEMORY)

    @property
    def slo(self) -> float:
        """Mean budget (deadline less arrival, seconds) of the latest arrivals; 0 before any."""
        return self._slo / self._rate if self._rate else 0.0

    def dispersion(self, now: float) -> float:
        """Variance over mean of the counts per window, over the windows closed by ``now``."""
        self._close_windows(now)
        # Below this, about what one arrival weighs after ten memories, the ratio is rounding.
        if self._mean < 1e-9:
            return 1.0
        return max(0.0, self._square / self._mean - self._mean / self._weight)

    def _close_windows(self, now: float) -> None:
        window = floor(now / WINDOW)
        if self._window is None:
            self._window = window
        if window <= self._window:
            return
        keep = 1.0 - WINDOW / DISPERSION_MEMORY
        gain = 1.0 - keep
        self._mean = self._mean * keep + gain * self._count
        self._square = self._square * keep + gain * self._count * self._count
        self._weight = self._weight * keep + gain
        empty = keep ** (window - self._window - 1)
        self._mean *= empty
        self._square *= empty
        self._weight = 1.0 - (1.0 - self._weight) * empty
        self._window = window
        self._count = 0
