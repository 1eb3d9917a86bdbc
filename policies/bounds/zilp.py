"""The SuperServe paper's offline optimum as an integer program: exact for small instances, an upper
bound on a time grid.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from policies.bounds.problem import TICKS_PER_SECOND, Problem, Workers, problem
from policies.types import Profile

MOST_VARIABLES = 200_000


@dataclass(frozen=True, slots=True)
class Zilp:
    """``bound``: no lawful schedule has more utility per query. ``value``: that of the best integer
    solution found, which with ``exact`` is a lawful schedule's; then the optimum lies between the
    two. They agree, to the solver's tolerance (about 1e-6 of a query), unless the time ran out.
    """

    bound: float
    value: float
    exact: bool


def zilp_bound(
    arrivals: npt.ArrayLike,
    deadlines: npt.ArrayLike,
    profile: Profile | Sequence[Profile],
    workers: Workers | Sequence[Workers] = 1,
    *,
    penalty: float = 100.0,
    step: float | None = None,
    time_limit: float = inf,
) -> Zilp:
    """SuperServe (NSDI'25), section 4.1: constraints 1a to 1f, solved by HiGHS.

    The paper has a 0/1 variable for each set of queries, subnet, worker and start. Here ``x[o,t]``
    is the number of batches with option o (subnet and size) that start at t, and ``y[q,o,t]`` says
    that query q is in one of them. Any such pair is a schedule of the paper's and the reverse:

    - 1a, a query is in at most one batch: ``sum_ot y[q,o,t] <= 1``.
    - 1b, a worker runs one batch at a time: at no time more batches than workers. Intervals of
      which never more than N overlap can be given to N workers, earliest start first.
    - 1c and 1e, a batch starts after the *latest* arrival in it (the paper says the earliest, with
      which no batch could run) and finishes by the earliest deadline: ``y[q,o,t]`` exists only for
      ``a_q <= t <= d_q - l_o``.
    - 1d, one subnet per batch, and its size: ``sum_q y[q,o,t] <= B_o x[o,t]``.
    - 1f: x is integer. For a given x the best y is a transport of queries to places, which has an
      integer solution, so y need not be declared integer.

    The objective is the paper's with ``penalty`` added to each accuracy, and taken off again.

    Without ``step`` the starts are all sums of an arrival (or the time at which a worker joins) and
    latencies. That is exact: a start that is no such sum can be moved earlier until another batch
    ends, a query of the batch arrives, or a worker joins. There are many of them; with ``step`` a
    start (seconds) is rounded down to a grid and the rest loosened so that each lawful schedule
    survives, which makes it an upper bound. Let one batch run from t to t + l, in cell
    ``s = floor(t / step)``. Then ``floor(a_q / step) <= s <= floor((d_q - l) / step)``, which is
    all that is asked of y. And it counts against the workers only in the cells s to
    ``s + floor(l / step) - 1``, just before whose ends it does run: the end of such a cell is later
    than t, and no later than ``(floor(t / step) + floor(l / step)) * step <= t + l``. With all
    times multiples of ``step`` it is exact again.

    Raises ``ValueError`` for an instance with more than ``MOST_VARIABLES`` variables.
    """
    given = problem(arrivals, deadlines, profile, workers, penalty)
    if step is not None and not step * TICKS_PER_SECOND >= 1:
        raise ValueError(f"the step must be a nanosecond or more, not {step}")
    cell = None if step is None else round(step * TICKS_PER_SECOND)
    found = _Program(given, cell).solve(time_limit)
    bound, value = (gain / len(given) - given.penalty for gain in found)
    return Zilp(bound, value, exact=step is None)


@dataclass(frozen=True, slots=True)
class _Column:
    """Batches with one option from one start: ``queries`` may be in them, ``busy`` are the rows of
    the device's checkpoints at which they occupy a worker.
    """

    option: int
    queries: Sequence[int]
    busy: range


class _Program:
    """The integer program; ``cell`` in ticks, None for exact starts."""

    def __init__(self, given: Problem, cell: int | None) -> None:
        self._given = given
        self._cell = cell
        self._arrivals, self._deadlines, self._latencies = given.ticks()
        self._columns: list[_Column] = []
        self._capacity: list[int] = []
        self._size = 0
        for device in range(len(given.pools)):
            if cell is None:
                self._add_exact(device)
            else:
                self._add_grid(device, cell)

    def solve(self, time_limit: float) -> tuple[float, float]:
        """An upper bound on the sum of accuracy + penalty over the queries served, and the best
        sum found.
        """
        if not self._columns:
            return 0.0, 0.0
        gains, matrix, limits = self._rows()
        integer = np.zeros(len(gains))
        integer[: len(self._columns)] = 1
        most = np.where(integer, len(self._given), 1.0)
        options = {"mip_rel_gap": 0.0} | ({"time_limit": time_limit} if time_limit < inf else {})
        result = milp(
            -gains,
            integrality=integer,
            bounds=Bounds(0, most),
            constraints=LinearConstraint(matrix, ub=limits),
            options=options,
        )
        best = [option.accuracy + self._given.penalty for option in self._given.options]
        trivial = len(self._given) * max(0.0, *best)
        found = 0.0 if result.x is None else -float(result.fun)
        # Stopped early, the solver may have no bound of its own yet.
        proven = trivial if result.mip_dual_bound is None else -float(result.mip_dual_bound)
        return max(min(proven, trivial), found), found

    def _rows(self) -> tuple[npt.NDArray[np.float64], csr_array, npt.NDArray[np.float64]]:
        queries, columns = len(self._given), len(self._columns)
        gains = [0.0] * columns
        entries: list[tuple[int, int, float]] = []
        for i, column in enumerate(self._columns):
            option = self._given.options[column.option]
            entries.append((queries + i, i, -option.batch))
            entries.extend((queries + columns + row, i, 1.0) for row in column.busy)
            for query in column.queries:
                place = len(gains)
                gains.append(option.accuracy + self._given.penalty)
                entries += [(query, place, 1.0), (queries + i, place, 1.0)]
        limits = [1.0] * queries + [0.0] * columns + [float(count) for count in self._capacity]
        rows, places, values = zip(*entries, strict=True)
        matrix = csr_array((values, (rows, places)), shape=(len(limits), len(gains)))
        return np.array(gains), matrix, np.array(limits)

    def _options(self, device: int) -> Iterator[tuple[int, int]]:
        for i, option in enumerate(self._given.options):
            if option.device == device:
                yield i, self._latencies[i]

    def _add(self, option: int, queries: Sequence[int], busy: range) -> None:
        if queries:
            self._columns.append(_Column(option, queries, busy))
            self._size += 1 + len(queries)
        if self._size > MOST_VARIABLES:
            raise ValueError(
                f"more than {MOST_VARIABLES} variables: give fewer queries, or a larger step"
            )

    def _add_exact(self, device: int) -> None:
        pool = self._given.pools[device]
        changes = [round(time * TICKS_PER_SECOND) for time in pool.times]
        starts = self._sums(device, changes)
        # Where the number in use can pass the number there is: at a start, and when workers leave.
        checks = sorted({*starts, *changes})
        first = len(self._capacity)
        for time in checks:
            step = bisect_right(changes, time) - 1
            self._capacity.append(pool.counts[step] if step >= 0 else 0)
        for option, latency in self._options(device):
            for start in starts:
                here, after = bisect_left(checks, start), bisect_left(checks, start + latency)
                self._add(
                    option,
                    [
                        query
                        for query, (a, d) in enumerate(
                            zip(self._arrivals, self._deadlines, strict=True)
                        )
                        if a <= start <= d - latency
                    ],
                    range(first + here, first + after),
                )

    def _sums(self, device: int, changes: list[int]) -> list[int]:
        """Every start that a schedule needs whose batches cannot be moved earlier."""
        latencies = {latency for _, latency in self._options(device)}
        last = max(self._deadlines) - min(latencies, default=0)
        newest = {time for time in (*self._arrivals, *changes) if time <= last}
        found = set(newest)
        for _ in range(len(self._given) - 1):
            newest = {time + by for time in newest for by in latencies if time + by <= last} - found
            found |= newest
            if len(found) > MOST_VARIABLES:
                raise ValueError(f"more than {MOST_VARIABLES} starts: give fewer queries or a step")
        return sorted(found)

    def _add_grid(self, device: int, cell: int) -> None:
        pool = self._given.pools[device]
        changes = [round(time * TICKS_PER_SECOND) for time in pool.times]
        origin = min(self._arrivals) // cell
        cells = max(self._deadlines) // cell - origin + 1
        first = len(self._capacity)
        if cells > MOST_VARIABLES:
            raise ValueError(f"more than {MOST_VARIABLES} cells: give a larger step")
        for i in range(cells):
            # Those that run just before the end of the cell.
            step = bisect_left(changes, (origin + i + 1) * cell) - 1
            self._capacity.append(pool.counts[step] if step >= 0 else 0)
        for option, latency in self._options(device):
            places: list[list[int]] = [[] for _ in range(cells)]
            for query, (a, d) in enumerate(zip(self._arrivals, self._deadlines, strict=True)):
                if a + latency <= d:
                    for start in range(a // cell - origin, (d - latency) // cell - origin + 1):
                        places[start].append(query)
            for start, queries in enumerate(places):
                end = min(start + latency // cell, cells)
                self._add(option, queries, range(first + start, first + end))
