"""When queries arrive: absolute times, ascending, reproducible from a seed. Pure."""

from collections.abc import Sequence
from math import ceil, sqrt

import numpy as np
import numpy.typing as npt

Times = npt.NDArray[np.float64]  # [N], seconds from the start of the run


def constant(rate: float, seconds: float) -> Times:
    """Evenly spaced: a query at 0, then one every ``1 / rate`` seconds."""
    return phases([(seconds, rate)], cv2=0.0)


def poisson(rate: float, seconds: float, seed: int = 0) -> Times:
    """Independent arrivals with ``rate`` queries per second on average."""
    return phases([(seconds, rate)], seed)


def gamma(rate: float, seconds: float, cv2: float, seed: int = 0) -> Times:
    """Gaps from a gamma distribution with squared coefficient of variation ``cv2``.

    Shape ``1 / cv2`` and scale ``cv2 / rate``, the form of the bursty traces in SuperServe §6.3.1.
    0 is the constant stream, 1 the Poisson stream, above 1 it comes in clumps.
    """
    return phases([(seconds, rate)], seed, cv2=cv2)


def phases(steps: Sequence[tuple[float, float]], seed: int = 0, *, cv2: float = 1.0) -> Times:
    """One phase of ``(seconds, rate)`` after another; a Poisson stream unless ``cv2`` says else.

    A stream of rate 1 is laid on the axis of expected arrivals and carried back to time through
    the inverse of the cumulative rate. So the phases share one stream: no seam at their borders,
    and a rate of 0 is simply silence. Raises ``ValueError`` for a negative argument.
    """
    if cv2 < 0 or any(seconds < 0 or rate < 0 for seconds, rate in steps):
        raise ValueError(f"seconds, rates and cv2 must not be negative: {steps}, cv2={cv2}")
    lengths, rates = np.array(steps, dtype=float).reshape(-1, 2).T
    ends = np.cumsum(lengths)
    expected = np.cumsum(lengths * rates)
    if not len(steps) or expected[-1] == 0:
        return np.empty(0)
    unit = _unit_rate(float(expected[-1]), cv2, np.random.default_rng(seed))
    # "right" passes over silent phases: they end at the same expected count as they begin.
    phase = np.searchsorted(expected[:-1], unit, side="right")
    times = ends[phase] - (expected[phase] - unit) / rates[phase]
    inside: Times = times[times < ends[-1]]  # a last arrival may be rounded onto the end
    return inside


def _unit_rate(length: float, cv2: float, rng: np.random.Generator) -> Times:
    """A renewal stream of rate 1 on ``0 <= t < length``."""
    if cv2 == 0:
        return np.arange(ceil(length), dtype=float)
    # Six standard deviations above the mean count: a second draw is hardly ever needed.
    draw = ceil(length + 6 * sqrt(cv2 * length) + 10 * max(cv2, 1.0))
    times = np.cumsum(rng.gamma(1 / cv2, cv2, draw))
    while times[-1] < length:
        times = np.append(times, times[-1] + np.cumsum(rng.gamma(1 / cv2, cv2, draw)))
    return times[times < length]
