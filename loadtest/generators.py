"""Synthetic workloads: the paper's bursty and time-varying streams, on/off, and day shapes. Pure.

All of them come down to the time change of `loadtest.arrivals`; a seed repeats a stream exactly.
"""

from math import ceil, inf, pi
from statistics import NormalDist

import numpy as np

from loadtest.arrivals import (
    Times,
    Values,
    constant,
    from_counts,
    gamma,
    linear,
    phases,
)

BURSTY_BASE = 1500.0  # q/s; SuperServe §6.3.1
TIME_VARYING_CV2 = 8.0  # SuperServe §6.3.2
MAF_MEAN_RATE = 6400.0  # q/s; SuperServe's run of CNNs on Azure Functions (MAF) 2019
MAF_PEAK_RATE = 8750.0  # q/s, the spikes of that run
MAF_SECONDS = 120.0  # what its 24 hours are shrunk to
MAF_FUNCTIONS = 32_700  # function workloads in it
MAF_MINUTES = 1440
MAF_PEAK_MINUTES = 12  # of the day: one second of the 120
# The next three come from the published comparison of the 2019 trace with its paper ("Serverless in
# the Wild", USENIX ATC 2020): Azure/AzurePublicDataset, analysis of AzureFunctionsDataset2019, read
# off the pixels of its figures. Popularity of functions, figure 5b: the 0.01, 0.1, 1 and 10 % most
# popular make 31, 64, 92 and 99.5 % of the invocations. A log-normal law whose logarithm has this
# standard deviation makes 31, 62, 87 and 98.7 %.
MAF_POPULARITY_SIGMA = 3.6
# Invocations per hour relative to the day's mean, figure 4, released trace: the first harmonic is
# 0.10 and half the range 0.12, averaged over its days; they are highest in the afternoon.
MAF_DAILY_SWING = 0.12
MAF_BUSIEST_MINUTE = 15 * 60
# Nothing published tells the spikes of single minutes: these three are chosen.
_SPIKES_PER_FUNCTION = 1.0  # a day, on average
_SPIKE_MINUTES = 5.0  # on average
_SPIKE_TAIL = 1.5  # Pareto exponent of a spike's height: finite mean, infinite variance
_KNOTS_PER_PERIOD = 512  # of a sine; straight lines then stay within 2e-5 of its amplitude


def bursty(base: float, variant: float, seconds: float, cv2: float, seed: int = 0) -> Times:
    """A deterministic stream of ``base`` q/s and a gamma one of ``variant`` q/s, merged.

    SuperServe §6.3.1: base 1500, variant 2950, 4900 or 5550, ``cv2`` 2, 4 or 8. The base dilutes
    the clumps: the index of dispersion tends to ``cv2 * variant / (base + variant)``.
    """
    return np.sort(np.concatenate((constant(base, seconds), gamma(variant, seconds, cv2, seed))))


def time_varying(
    rate1: float,
    rate2: float,
    tau: float,
    seconds: float,
    cv2: float = TIME_VARYING_CV2,
    seed: int = 0,
    *,
    start: float | None = None,
) -> Times:
    """``rate1`` q/s, then a ramp of ``tau`` q/s per second, then ``rate2`` to the end.

    SuperServe §6.3.2: 2500 to 4800, 6800 or 7800 at 250, 500 or 5000 q/s², ``cv2`` 8; when the ramp
    begins is not said there. ``start`` is that time; by default the ramp lies in the middle of the
    run. ``cv2`` holds in operational time, so at every rate alike. Raises ``ValueError`` where the
    ramp does not fit into the run: a longer run or a steeper ramp is needed.
    """
    if not 0 < tau < inf:
        raise ValueError(f"tau must be positive, not {tau}; a falling rate has rate2 below rate1")
    ramp = abs(rate2 - rate1) / tau
    begin = (seconds - ramp) / 2 if start is None else start
    if not 0 <= begin <= begin + ramp <= seconds:
        raise ValueError(
            f"a ramp of {ramp:g} s from {begin:g} s does not fit into a run of {seconds:g} s"
        )
    knots = [(begin, rate1), (begin + ramp, rate2), (seconds, rate2)]
    return linear(knots, seed, cv2=cv2)


def diurnal(
    mean_rate: float,
    seconds: float,
    swing: float = 0.5,
    cv2: float = 1.0,
    seed: int = 0,
    *,
    period: float | None = None,
) -> Times:
    """A rate of ``mean_rate * (1 - swing * cos(2 pi t / period))``: night first, then day.

    ``swing`` is from 0 to 1; ``period`` (seconds) is by default the run, so one day. Over whole
    periods the mean is ``mean_rate``. Raises ``ValueError`` for a swing or period out of range.
    """
    length = seconds if period is None else period
    if not 0 <= swing <= 1:
        raise ValueError(f"swing must be from 0 to 1, not {swing}: a rate is not negative")
    if not (0 < length < inf and 0 <= seconds < inf):
        raise ValueError(f"seconds and period must be positive: {seconds}, {length}")
    times = np.linspace(0.0, seconds, ceil(_KNOTS_PER_PERIOD * seconds / length) + 1)
    rates = mean_rate * (1 - swing * np.cos(2 * pi * times / length))
    return linear(list(zip(times.tolist(), rates.tolist(), strict=True)), seed, cv2=cv2)


def mmpp(
    rate_on: float,
    rate_off: float,
    on_seconds: float,
    off_seconds: float,
    seconds: float,
    seed: int = 0,
) -> Times:
    """A Markov-modulated Poisson process of two states, in its stationary state from the start.

    ``on_seconds`` and ``off_seconds`` are the mean stays (exponential). A renewal stream forgets at
    every arrival; this one has bursts that last, so its dispersion grows with the window, to
    ``1 + 2 (r1 - r2)² (on off)² / ((on + off)² (r1 on + r2 off))`` (Fischer and Meier-Hellstern,
    "The Markov-modulated Poisson process (MMPP) cookbook", 1993).
    """
    if not (0 < on_seconds < inf and 0 < off_seconds < inf):
        raise ValueError(f"mean stays must be positive: {on_seconds}, {off_seconds}")
    if not 0 <= seconds < inf:
        raise ValueError(f"seconds must be finite and not negative, not {seconds}")
    stays, arrivals = np.random.SeedSequence(seed).spawn(2)
    rng = np.random.default_rng(stays)
    on = bool(rng.random() < on_seconds / (on_seconds + off_seconds))
    steps: list[tuple[float, float]] = []
    left = seconds
    while left > 0:
        stay = min(rng.exponential(on_seconds if on else off_seconds), left)
        steps.append((stay, rate_on if on else rate_off))
        left -= stay
        on = not on
    return phases(steps, int(arrivals.generate_state(1)[0]))


def maf_like(
    seconds: float = MAF_SECONDS,
    mean_rate: float = MAF_MEAN_RATE,
    cv2: float = 1.0,
    seed: int = 0,
    *,
    day: int = 0,
    functions: int = MAF_FUNCTIONS,
    peak_to_mean: float = MAF_PEAK_RATE / MAF_MEAN_RATE,
) -> Times:
    """A day that resembles Azure Functions 2019, shrunk as SuperServe shrinks the real one.

    ``day`` is the seed of the day's profile (`maf_profile`), ``seed`` that of the arrivals in it:
    several seeds repeat one trace, as several runs of the paper do.
    """
    profile = maf_profile(day, functions=functions, peak_to_mean=peak_to_mean)
    return from_counts(profile, 60.0, mean_rate=mean_rate, seconds=seconds, cv2=cv2, seed=seed)


def maf_profile(
    day: int = 0,
    *,
    functions: int = MAF_FUNCTIONS,
    peak_to_mean: float = MAF_PEAK_RATE / MAF_MEAN_RATE,
) -> Values:
    """Relative rates of the 1440 minutes of a synthetic day, with mean 1: not the real trace.

    Imitated, with the sources named at the constants above: how unequal functions are, the daily
    swing of the whole, and the paper's peak. Each function has spikes of some minutes: Poisson in
    number, exponential in length, Pareto in height, in proportion to its volume. As few functions
    make most of the load, few spikes show. All are scaled by one factor, such that the busiest
    twelve minutes (one second after the shrink to 120 s) lie at ``peak_to_mean``, 8750/6400, times
    the day's mean; over which window the paper's peak was counted is not said. A single minute,
    83 ms then, may stand well above that: 1.5 to 2.2 times the mean on the first six days.

    Raises ``ValueError`` for a ``peak_to_mean`` that the daily swing alone exceeds.
    """
    rng = np.random.default_rng(day)
    volumes = maf_popularity(functions)
    number = rng.poisson(_SPIKES_PER_FUNCTION, functions)
    heights = np.repeat(volumes, number) * (1 + rng.pareto(_SPIKE_TAIL, int(number.sum())))
    begins = rng.integers(0, MAF_MINUTES, len(heights))
    lengths = np.ceil(rng.exponential(_SPIKE_MINUTES, len(heights))).astype(int)
    edges = np.zeros(MAF_MINUTES + 1)
    np.add.at(edges, begins, heights)
    np.add.at(edges, np.minimum(begins + lengths, MAF_MINUTES), -heights)
    spikes = np.maximum(np.cumsum(edges)[:-1], 0.0)
    minutes = np.arange(MAF_MINUTES)
    base = 1 + MAF_DAILY_SWING * np.cos(2 * pi * (minutes - MAF_BUSIEST_MINUTE) / MAF_MINUTES)
    window = np.ones(MAF_PEAK_MINUTES) / MAF_PEAK_MINUTES
    base_peaks, spike_peaks = (np.convolve(part, window, "valid") for part in (base, spikes))
    # Solve  base_peaks + scale * spike_peaks = peak_to_mean * (mean base + scale * mean spikes)
    # for each window; the smallest scale is where the first of them gets there.
    room = peak_to_mean * base.mean() - base_peaks
    gain = spike_peaks - peak_to_mean * spikes.mean()
    if room.min() <= 0 or not np.any(gain > 0):
        raise ValueError(f"no spikes bring the peak to {peak_to_mean:g} times the mean")
    profile = base + np.min(room[gain > 0] / gain[gain > 0]) * spikes
    found: Values = profile / profile.mean()
    return found


def maf_popularity(functions: int = MAF_FUNCTIONS) -> Values:
    """Share of the invocations of each function, most popular first: log-normal quantiles."""
    if functions < 1:
        raise ValueError(f"a day needs at least one function, not {functions}")
    normal = NormalDist(sigma=MAF_POPULARITY_SIGMA)
    ranks = (functions - np.arange(functions) - 0.5) / functions
    volumes = np.exp([normal.inv_cdf(rank) for rank in ranks.tolist()])
    shares: Values = volumes / volumes.sum()
    return shares
