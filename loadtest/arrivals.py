"""When queries arrive: absolute times, ascending, reproducible from a seed. Pure.

Every stream is one time change: a renewal stream of rate 1, with gamma gaps of squared coefficient
of variation ``cv2``, is laid on the axis of expected arrivals and carried back to time through the
inverse of the cumulative rate. Nothing is thinned, so the burstiness asked for is the burstiness
got at every rate; and parts of different rate share one stream, so there is no seam between them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, inf, nan, sqrt

import numpy as np
import numpy.typing as npt

Times = npt.NDArray[np.float64]  # [N], seconds from the start of the run
Values = npt.NDArray[np.float64]


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

    A rate of 0 is silence. Raises ``ValueError`` for an argument that is negative or not finite.
    """
    lengths, rates = np.array(steps, dtype=float).reshape(-1, 2).T
    return _carry(lengths, rates, rates, seed, cv2)


def linear(knots: Sequence[tuple[float, float]], seed: int = 0, *, cv2: float = 1.0) -> Times:
    """The rate runs straight between the ``(time, rate)`` knots, from time 0 to the last knot.

    Before the first knot the rate is the first knot's. Raises ``ValueError`` for knots that do not
    ascend in time, and for anything negative or not finite.
    """
    times, rates = np.array(knots, dtype=float).reshape(-1, 2).T
    if not np.all(np.diff(times) >= 0):
        raise ValueError("the knots of a rate must ascend in time")
    lengths = np.diff(times, prepend=0.0)
    return _carry(lengths, np.concatenate((rates[:1], rates[:-1])), rates, seed, cv2)


def from_counts(
    counts: npt.ArrayLike,
    bin_seconds: float,
    *,
    mean_rate: float | None = None,
    seconds: float | None = None,
    cv2: float = 1.0,
    seed: int = 0,
) -> Times:
    """Arrivals in the shape of ``counts`` per bin, shrunk or stretched to ``seconds``.

    The shape-preserving shrink that SuperServe's evaluation names: with 1440 minutes, 120 seconds
    and 6400 q/s, each minute of the day becomes 83 ms. Kept: the share of the arrivals that each
    bin expects, so every ratio of rates between bins, the peak to the mean included. Chosen, as
    counts cannot tell it: the order inside a bin, a gamma renewal of ``cv2`` in operational time.
    ``mean_rate`` is q/s over the whole run, in expectation; without it the bins keep their own rate
    (not their number of arrivals), and without ``seconds`` their own length.

    Raises ``ValueError`` for anything negative or not finite, and for a ``mean_rate`` where there
    is no arrival to scale.
    """
    bins = checked(counts, "counts")
    _require(0 < bin_seconds < inf, f"bin_seconds must be positive, not {bin_seconds}")
    total, span = float(bins.sum()), len(bins) * bin_seconds
    run = span if seconds is None else seconds
    if total == 0:
        _require(not mean_rate, f"counts without any arrival cannot be scaled to {mean_rate} q/s")
        return np.empty(0)
    rate = total / span if mean_rate is None else mean_rate
    rates = bins * (rate * len(bins) / total)
    return _carry(np.full(len(bins), run / len(bins)), rates, rates, seed, cv2)


def shrink(
    times: npt.ArrayLike,
    seconds: float | None = None,
    mean_rate: float | None = None,
    *,
    span: float | None = None,
    bin_seconds: float | None = None,
    cv2: float = 1.0,
    seed: int = 0,
) -> Times:
    """Recorded arrivals at another length and rate: an affine change of time, then resampling.

    The recording's cumulative count, straight between two arrivals, is the cumulative rate of the
    new stream, so a recorded arrival stands for k = ``mean_rate * seconds / len(times)`` new ones:
    some are left out, or others follow each before the next recorded one. Kept: the rate profile
    down to the single gap, hence bursts and lulls longer than a gap; the counting noise of the
    recording is kept too, so an index of dispersion I over long windows becomes ``k * I + cv2``.
    ``cv2`` shapes the order within a gap; at 0, with neither ``seconds`` nor ``mean_rate``, the
    recording comes back as it was. With ``bin_seconds`` (of the recording) only the counts per bin
    are kept, as in `from_counts`.

    ``span`` is how long was recorded, from time 0; by default one mean gap past the last arrival.
    ``seconds`` and ``mean_rate`` default to the recording's own. Raises ``ValueError`` for times
    that do not ascend from 0 or more, that lie beyond ``span``, or that are too few to scale.
    """
    recorded = checked(times, "times")
    _require(bool(np.all(np.diff(recorded) >= 0)), "times must ascend")
    n = len(recorded)
    if n == 0:
        _require(not mean_rate, f"no arrivals at all cannot be scaled to {mean_rate} q/s")
        return np.empty(0)
    length = recording_span(recorded) if span is None else span
    _require(0 < length < inf, f"span must be positive, not {length}; one arrival alone needs one")
    _require(float(recorded[-1]) <= length, f"times go beyond the span of {length} seconds")
    run = length if seconds is None else seconds
    if bin_seconds is not None:
        _require(0 < bin_seconds < inf, f"bin_seconds must be positive, not {bin_seconds}")
        whole = ceil(length / bin_seconds)
        index = np.minimum((recorded / bin_seconds).astype(int), whole - 1)
        counts = np.bincount(index, minlength=whole)
        rate = n / length if mean_rate is None else mean_rate
        return from_counts(counts, bin_seconds, mean_rate=rate, seconds=run, cv2=cv2, seed=seed)
    each = run / length if mean_rate is None else mean_rate * run / n  # new ones per recorded one
    _check_stream(cv2, run, each)
    if each == 0:
        return np.empty(0)
    unit = _unit_rate(n * each, cv2, np.random.default_rng(seed))
    knots = np.append(recorded, length) * (run / length)
    carried: Times = np.interp(unit / each, np.arange(n + 1, dtype=float), knots)
    return _inside(carried, run)


def recording_span(times: Times) -> float:
    """Seconds that a recording from time 0 covers: to one mean gap past its last arrival."""
    gap = float(times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 0.0
    return float(times[-1]) + gap if len(times) else 0.0


@dataclass(frozen=True, slots=True)
class TraceStatistics:
    """How heavy and how bursty a stream is. Not a number where there is too little to tell.

    The index of dispersion (IDC) is variance over mean of the counts per window: 1 for Poisson at
    every window, ``cv2`` for a gamma renewal at long ones, growing with the window where the rate
    itself changes.
    """

    count: int
    seconds: float
    mean_rate: float  # q/s
    peak_rate: float  # q/s, the highest over any window of ``peak_window``, wherever it starts
    peak_window: float  # seconds
    cv2: float  # squared coefficient of variation of the gaps between neighbours
    idc_36ms: float
    idc_100ms: float
    idc_1s: float


def trace_statistics(
    times: npt.ArrayLike, seconds: float | None = None, *, peak_window: float = 0.1
) -> TraceStatistics:
    """Statistics of ascending ``times`` on ``0 <= t < seconds`` (default: to the last arrival).

    36 ms is the SLO of SuperServe's bursty traces, so the scale on which a burst hurts.
    """
    found = checked(times, "times")
    _require(bool(np.all(np.diff(found) >= 0)), "times must ascend")
    _require(0 < peak_window < inf, f"peak_window must be positive, not {peak_window}")
    last = float(found[-1]) if len(found) else 0.0
    length = last if seconds is None else float(seconds)
    _require(last <= length < inf, f"times go beyond {length} seconds")
    gaps = np.diff(found)
    mean_gap = float(gaps.mean()) if len(gaps) else 0.0
    within = np.searchsorted(found, found + peak_window, side="left") - np.arange(len(found))
    return TraceStatistics(
        count=len(found),
        seconds=length,
        mean_rate=len(found) / length if length else nan,
        peak_rate=float(within.max()) / peak_window if len(found) else 0.0,
        peak_window=peak_window,
        cv2=float(gaps.var()) / mean_gap**2 if mean_gap else nan,
        idc_36ms=_dispersion(found, length, 0.036),
        idc_100ms=_dispersion(found, length, 0.1),
        idc_1s=_dispersion(found, length, 1.0),
    )


def _dispersion(times: Times, seconds: float, window: float) -> float:
    windows = int(seconds / window + 1e-9)  # whole ones; the rest of the run is left out
    if windows < 2:
        return nan
    counts = np.bincount((times / window).astype(int), minlength=windows)[:windows]
    mean = float(counts.mean())
    return float(counts.var(ddof=1)) / mean if mean else nan


def _carry(lengths: Values, first: Values, last: Values, seed: int, cv2: float) -> Times:
    """The unit stream through the inverse of the cumulative rate, straight in each segment."""
    _check_stream(cv2, lengths, first, last)
    ends = np.cumsum(lengths)
    expected = np.cumsum(lengths * (first + last) / 2)
    if not len(lengths) or expected[-1] == 0:
        return np.empty(0)
    unit = _unit_rate(float(expected[-1]), cv2, np.random.default_rng(seed))
    # "right" passes over silent segments: they end at the same expected count as they begin.
    segment = np.searchsorted(expected[:-1], unit, side="right")
    into = unit - np.concatenate(([0.0], expected[:-1]))[segment]
    slope = np.divide(last - first, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    begin = first[segment]
    # t of  into = begin * t + slope * t**2 / 2,  in the form that needs no division by the slope.
    root = np.sqrt(np.maximum(begin * begin + 2 * slope[segment] * into, 0.0))
    inner = np.divide(2 * into, begin + root, out=np.zeros_like(into), where=into > 0)
    start = np.concatenate(([0.0], ends[:-1]))[segment]
    carried = np.minimum(start + inner, ends[segment])
    return _inside(carried, float(ends[-1]))


def _inside(times: Times, seconds: float) -> Times:
    """In order and before the end, which rounding can take from neighbours that nearly coincide."""
    ordered: Times = np.maximum.accumulate(times)
    return ordered[ordered < seconds]


def _unit_rate(length: float, cv2: float, rng: np.random.Generator) -> Times:
    """A renewal stream of rate 1 on ``0 <= t < length``."""
    if cv2 == 0:
        # A length that is a sum of parts can exceed the whole number it stands for by rounding.
        return np.arange(ceil(length * (1 - 1e-12)), dtype=float)
    # Six standard deviations above the mean count: a second draw is hardly ever needed.
    draw = ceil(length + 6 * sqrt(cv2 * length) + 10 * max(cv2, 1.0))
    times = np.cumsum(rng.gamma(1 / cv2, cv2, draw))
    while times[-1] < length:
        times = np.append(times, times[-1] + np.cumsum(rng.gamma(1 / cv2, cv2, draw)))
    return times[times < length]


def checked(values: npt.ArrayLike, what: str) -> Values:
    """One axis of finite numbers from 0; ``ValueError`` names ``what`` is none."""
    array = np.asarray(values, dtype=float)
    _require(array.ndim == 1, f"{what} must be one sequence of numbers, not {array.ndim} axes")
    _require(bool(np.all((array >= 0) & (array < inf))), f"{what} must be finite, not negative")
    return array


def _check_stream(cv2: float, *seconds_and_rates: npt.ArrayLike) -> None:
    for values in (cv2, *seconds_and_rates):
        array = np.asarray(values, dtype=float)
        if not np.all((array >= 0) & (array < inf)):
            raise ValueError("seconds, rates and cv2 must be finite and not negative")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)
