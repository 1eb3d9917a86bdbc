"""The best schedule of a handful of queries, found by trying them all: what the other bounds are
tested against.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter

import numpy.typing as npt

from policies.bounds.problem import TICKS_PER_SECOND, Problem, Workers, problem
from policies.types import Profile

MOST_QUERIES = 8

Free = tuple[tuple[int, ...], ...]  # per device type, when its workers are free, ascending
Run = tuple[float, int, int]  # accuracy + penalty, option, latency in ticks


@dataclass(frozen=True, slots=True)
class Batch:
    """``queries`` (indices) run together on one worker of the type ``device``; seconds."""

    device: int
    subnet: str
    start: float
    finish: float
    queries: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Optimum:
    """``utility`` per query, and a schedule that reaches it: its batches by start."""

    utility: float
    batches: tuple[Batch, ...]


def exhaustive_optimum(
    arrivals: npt.ArrayLike,
    deadlines: npt.ArrayLike,
    profile: Profile | Sequence[Profile],
    workers: Workers | Sequence[Workers] = 1,
    *,
    penalty: float = 100.0,
) -> Optimum:
    """The optimum of the offline problem (`policies.bounds.problem`), by branch and bound.

    It is enough to place batches one after the other, each on the worker of its type that is free
    first, at the time when that worker is free and the last query of the batch has arrived:

    - *Starts and workers.* Take a best schedule and place its batches so, in the order of their
      starts there. By induction none finishes later here than there. For let the next one start
      at s there. The batches of its type placed so far that finish after s there are fewer than the
      workers of the type, because each holds one at s and the next batch finds one more. Here those
      that finish after s are among them, so a worker is free by s: the batch starts by s and
      finishes no later. So no deadline is missed that was met, and the utility is the same.
    - *Queries.* A query that would be late is left out of its batch, which is no slower without it.

    Which queries go together is not restricted. With one worker and equal slack an exchange makes
    batches contiguous in EDF order, but not in general: a query with an early deadline may arrive
    too late for the batch that those around it fill, and on several workers an earlier start is no
    earlier finish. So all subsets are tried, and with batches and subnets the cost is exponential
    in the queries.

    A batch may be padded to any profiled size that holds it; where more takes longer, as it should,
    that is the next size. Times are whole nanoseconds, rounded as in `Problem.ticks`.

    Raises ``ValueError`` for more than ``MOST_QUERIES`` queries and for workers that come or go.
    """
    given = problem(arrivals, deadlines, profile, workers, penalty)
    if len(given) > MOST_QUERIES:
        raise ValueError(f"{len(given)} queries are too many to try all; {MOST_QUERIES} at most")
    if any(len(pool.times) > 1 or pool.times[0] > given.start for pool in given.pools):
        raise ValueError("the exhaustive optimum needs workers that neither come nor go")
    search = _Search(given)
    free = tuple((search.first,) * pool.counts[0] for pool in given.pools)
    gain, _ = search.best((1 << len(given)) - 1, free)
    return Optimum(gain / len(given) - given.penalty, tuple(search.schedule(free)))


class _Search:
    """Gains are counted from a schedule that serves nobody: ``accuracy + penalty`` per query."""

    def __init__(self, given: Problem) -> None:
        self._given = given
        self._arrivals, self._deadlines, self._latencies = given.ticks()
        self.first = min(self._arrivals)
        everyone = range(1, 1 << len(given))
        # By set of queries, as bits.
        self._members = {s: [q for q in range(len(given)) if s >> q & 1] for s in everyone}
        self._arrived = {s: max(self._arrivals[q] for q in m) for s, m in self._members.items()}
        self._due = {s: min(self._deadlines[q] for q in m) for s, m in self._members.items()}
        self._runs = {size: self._runs_of(size) for size in range(1, len(given) + 1)}
        # No query gains more than alone on an idle worker.
        self._most = [
            max((run[0] for run in self._runs[1] if a + run[2] <= d), default=0.0)
            for a, d in zip(self._arrivals, self._deadlines, strict=True)
        ]
        self._known: dict[tuple[int, Free], tuple[float, tuple[int, Run] | None]] = {}

    def _runs_of(self, size: int) -> list[Run]:
        """The ways to run ``size`` queries, the most accurate first."""
        quickest: dict[tuple[int, str], Run] = {}
        for i, option in enumerate(self._given.options):
            key, latency = (option.device, option.subnet), self._latencies[i]
            if option.batch >= size and (key not in quickest or latency < quickest[key][2]):
                quickest[key] = (option.accuracy + self._given.penalty, i, latency)
        return sorted(quickest.values(), key=itemgetter(0), reverse=True)

    def best(self, left: int, free: Free) -> tuple[float, tuple[int, Run] | None]:
        """The most that the queries in ``left`` can gain, and the batch to start with."""
        if not left:
            return 0.0, None
        known = self._known.get((left, free))
        if known is not None:
            return known
        bound = self._bound(left)
        found: tuple[float, tuple[int, Run] | None] = (0.0, None)
        for chosen in _subsets(left):
            rest = left & ~chosen
            size, beyond = len(self._members[chosen]), self._bound(rest)
            for run in self._runs[size]:
                if found[0] >= min(bound, size * run[0] + beyond):
                    break
                after = self._after(free, chosen, run)
                if after is not None:
                    gain = size * run[0] + self.best(rest, after)[0]
                    if gain > found[0]:
                        found = (gain, (chosen, run))
        self._known[left, free] = found
        return found

    def schedule(self, free: Free) -> Iterator[Batch]:
        """The batches of the best schedule, by start."""
        left = (1 << len(self._given)) - 1
        batches = []
        while (step := self.best(left, free)[1]) is not None:
            chosen, run = step
            option = self._given.options[run[1]]
            start = max(free[option.device][0], self._arrived[chosen])
            batches.append(
                Batch(
                    option.device,
                    option.subnet,
                    start / TICKS_PER_SECOND,
                    (start + run[2]) / TICKS_PER_SECOND,
                    tuple(self._members[chosen]),
                )
            )
            after = self._after(free, chosen, run)
            assert after is not None
            left, free = left & ~chosen, after
        yield from sorted(batches, key=lambda batch: batch.start)

    def _bound(self, left: int) -> float:
        return sum(self._most[q] for q in self._members[left]) if left else 0.0

    def _after(self, free: Free, chosen: int, run: Run) -> Free | None:
        """When the workers are free after this batch; None where it would be late."""
        device = self._given.options[run[1]].device
        if not free[device]:
            return None
        finish = max(free[device][0], self._arrived[chosen]) + run[2]
        if finish > self._due[chosen]:
            return None
        later = tuple(sorted((*free[device][1:], finish)))
        return (*free[:device], later, *free[device + 1 :])


def _subsets(of: int) -> Iterator[int]:
    """The non-empty ones, the largest number first."""
    subset = of
    while subset:
        yield subset
        subset = (subset - 1) & of
