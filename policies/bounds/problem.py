"""The offline problem that every bound here is about: all queries known, all workers known.

A query has an arrival and a deadline. A batch runs one subnet on one worker, starts no earlier than
the latest arrival in it, is never interrupted, and needs its worker from start to finish. A query
is worth the accuracy of its subnet if its batch finishes by its deadline, and ``-penalty``
otherwise: late, dropped or never begun. The utility is the mean over all queries. With
``penalty=0`` that is Eq. 2 of SuperServe (NSDI'25) per query, the effective accuracy.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from operator import index
from typing import cast

import numpy as np
import numpy.typing as npt

from policies.types import Profile

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Workers = int | Sequence[tuple[float, int]]

TOLERANCE = 1e-9  # seconds: what rounding may add up to in somebody's schedule
TICKS_PER_SECOND = 10**9
_NEAR = 0.05  # ticks: a time this close to a whole tick is that tick


@dataclass(frozen=True, slots=True)
class Option:
    """One thing that a worker of the type ``device`` can run: up to ``batch`` queries with
    ``subnet`` in ``latency`` seconds.
    """

    device: int
    subnet: str
    accuracy: float
    batch: int
    latency: float

    def beats(self, other: "Option") -> bool:
        """On the same device no less accurate, no smaller and no slower."""
        return (
            self.device == other.device
            and self.accuracy >= other.accuracy
            and self.batch >= other.batch
            and self.latency <= other.latency
        )


@dataclass(frozen=True, slots=True)
class Pool:
    """How many workers of one type there are: ``counts[i]`` from ``times[i]`` on, none before."""

    times: tuple[float, ...]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, workers: Workers, start: float) -> "Pool":
        steps = list(workers) if isinstance(workers, Sequence) else [(start, index(workers))]
        times, counts = tuple(time for time, _ in steps), tuple(count for _, count in steps)
        if not steps or list(times) != sorted(set(times)) or not all(map(isfinite, times)):
            raise ValueError(f"the times at which workers change must ascend, not {times}")
        if min(counts) < 0:
            raise ValueError(f"a number of workers cannot be negative: {counts}")
        return cls(times, counts)

    def seconds(self, edges: Floats) -> Floats:
        """Worker-seconds between neighbours of ``edges`` (ascending, [K+1]): [K]."""
        times, counts = np.array(self.times), np.array(self.counts, dtype=float)
        before = np.concatenate(([0.0], np.cumsum(counts[:-1] * np.diff(times))))
        step = np.searchsorted(times, edges, side="right") - 1
        total = np.where(step < 0, 0.0, before[step] + counts[step] * (edges - times[step]))
        return np.diff(total)


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """``arrivals`` and ``deadlines`` are [n], in seconds, in the caller's order.

    ``options`` leaves out what another option beats: a schedule that uses it has one that is worth
    no less. ``pools[d]`` are the workers of the device type ``d``.
    """

    arrivals: Floats
    deadlines: Floats
    options: tuple[Option, ...]
    pools: tuple[Pool, ...]
    penalty: float

    def __len__(self) -> int:
        return len(self.arrivals)

    @property
    def start(self) -> float:
        return float(self.arrivals.min())

    @property
    def end(self) -> float:
        """The last deadline; nothing that finishes later is worth anything."""
        return float(max(self.deadlines.max(), self.start))

    def ticks(self) -> tuple[list[int], list[int], list[int]]:
        """Arrivals, deadlines and the options' latencies in whole nanoseconds.

        Arrivals and latencies are rounded down and deadlines up, so every lawful schedule stays
        lawful: its batches start and finish no later than before. What was a whole number of
        nanoseconds stays what it was, so sums of latencies can be compared exactly.
        """
        latencies = np.array([option.latency for option in self.options])
        return (
            _floor(self.arrivals).tolist(),
            (-_floor(-self.deadlines)).tolist(),
            _floor(latencies).tolist(),
        )


def problem(
    arrivals: npt.ArrayLike,
    deadlines: npt.ArrayLike,
    profile: Profile | Sequence[Profile],
    workers: Workers | Sequence[Workers],
    penalty: float = 100.0,
) -> Problem:
    """Check and join what every bound takes.

    ``profile`` and ``workers`` are one of each, or for several device types a sequence of each.
    Workers are a number, or ``[(time, number), ...]``: so many from that time on, and none before
    the first. Where workers fail, what runs on them then is lost.

    Raises ``ValueError`` for no queries, for times that are not finite or not in pairs, for a
    negative penalty and for impossible workers.
    """
    a, d = np.array(arrivals, dtype=float), np.array(deadlines, dtype=float)
    if a.ndim != 1 or a.shape != d.shape or not len(a):
        raise ValueError(f"each query needs an arrival and a deadline: {a.shape} and {d.shape}")
    if not (np.isfinite(a).all() and np.isfinite(d).all()):
        raise ValueError("arrivals and deadlines must be finite")
    if not (isfinite(penalty) and penalty >= 0):
        raise ValueError(f"the penalty must be a number of 0 or more, not {penalty}")
    if isinstance(profile, Profile):
        profiles, each = [profile], [workers]
    else:
        profiles = list(profile)
        each = [*workers] if isinstance(workers, Sequence) else []
        if not profiles or len(profiles) != len(each):
            raise ValueError("several device types need one number of workers for each profile")
    pools = tuple(Pool.of(cast("Workers", of_type), float(a.min())) for of_type in each)
    options = [option for i, p in enumerate(profiles) for option in _options(i, p, len(a))]
    return Problem(a, d, tuple(_unbeaten(options)), pools, float(penalty))


def _options(device: int, profile: Profile, queries: int) -> Iterator[Option]:
    rows = zip(profile.subnets, profile.accuracies, profile.latencies, strict=True)
    for subnet, accuracy, latencies in rows:
        for batch, latency in zip(profile.batch_sizes, latencies, strict=True):
            yield Option(device, subnet, accuracy, min(batch, queries), latency)


def _unbeaten(options: list[Option]) -> Iterator[Option]:
    """Of several that beat each other, the first stays."""
    for i, option in enumerate(options):
        earlier, later = options[:i], options[i + 1 :]
        if not any(other.beats(option) for other in earlier) and not any(
            other.beats(option) and not option.beats(other) for other in later
        ):
            yield option


def _floor(seconds: Floats) -> Ints:
    return np.floor(seconds * TICKS_PER_SECOND + _NEAR).astype(np.int64)
