"""A smooth stand-in for the price bound, whose minimum is near prices that prove a good bound.

Nothing here need be exact: whatever prices come out, `policies.bounds.prices` says what they prove.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from policies.bounds.problem import Floats, Option, Problem

MOST_WINDOWS = 6  # different lengths of window that are told apart
MOST_SIZES = 5  # batch sizes per subnet that are tried
MOST_SUBNETS = 12  # per batch size and device type
LITTLE_WORK = 300_000  # places times cells that are quick enough as they are
_BLOCK = 1024  # cells at a time: what is computed for one block stays in the processor's cache
_NEGLIGIBLE = 1e-5  # share of a group's queries below which a place is not looked at again


@dataclass(frozen=True, slots=True)
class _Shift:
    """Interpolates what is given at edges at a place that is the same in all cells."""

    cells: int
    share: float

    @classmethod
    def of(cls, place: float) -> "_Shift":
        """``place`` is in cells after the edge at which a cell begins."""
        cells = int(np.floor(place))
        return cls(cells, place - cells)

    def at(self, values: Floats, low: int, high: int) -> Floats:
        first, last = low + self.cells, high + self.cells
        return (1 - self.share) * values[first:last] + self.share * values[first + 1 : last + 1]

    def spread(self, onto: Floats, what: Floats, low: int, high: int) -> None:
        """The transpose of `at`."""
        first, last = low + self.cells, high + self.cells
        onto[first:last] += (1 - self.share) * what
        onto[first + 1 : last + 1] += self.share * what


@dataclass(frozen=True, slots=True)
class _Run:
    """Places where a group can be served: with one option, at ``count`` starts a cell apart; the
    ``start`` and ``finish`` of the first.
    """

    option: Option
    start: _Shift
    finish: _Shift
    count: int

    @classmethod
    def of(cls, option: Option, start: float, latency: float, count: int) -> "_Run":
        """``start`` and ``latency`` in cells."""
        return cls(option, _Shift.of(start), _Shift.of(start + latency), count)

    def part(self, first: int, last: int) -> "_Run":
        start, finish = self.start, self.finish
        return _Run(
            self.option,
            _Shift(start.cells + first, start.share),
            _Shift(finish.cells + first, finish.share),
            last - first + 1,
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Block:
    """The groups with one length of window that arrive in the cells from ``low`` to ``high``, at
    ``offset`` (in cells) after the edge at which their cell begins.
    """

    low: int
    high: int
    offset: float
    counts: Floats
    all_runs: Sequence[_Run]
    runs: Sequence[_Run]

    @property
    def work(self) -> int:
        return sum(run.count for run in self.runs) * len(self.counts)


class SmoothBound:
    """The price bound with two changes that make it a smooth function of the prices, and quick.

    Queries are grouped by the cell in which they arrive and the length of their window, and a group
    arrives where the queries of a stretch of cells arrive in theirs on average. And what a group
    gains, the largest of the gains at its places and 0, becomes ``s * log(sum exp(gain / s))``, s
    the ``smoothing`` (in accuracy points): no less, and more by at most s times the logarithm of
    the number of places.
    """

    def __init__(self, given: Problem, edges: Floats) -> None:
        """``edges`` [cells + 1] must be evenly spaced and hold all arrivals and deadlines."""
        self._cell = float(edges[1] - edges[0])
        self._cells = len(edges) - 1
        self._penalty = given.penalty
        self._queries = len(given)
        self._capacity = np.array([pool.seconds(edges) for pool in given.pools])
        self._blocks: list[_Block] = []
        options = list(_thinned(given.options))
        longest = 0.0
        for window, arrivals in _by_window(given, min(o.latency for o in options)):
            places = (arrivals - edges[0]) / self._cell
            cells = np.minimum(places.astype(np.int64), self._cells - 1)
            counts = np.bincount(cells, minlength=self._cells)
            offsets = np.bincount(cells, places - cells, minlength=self._cells)
            for low in range(0, self._cells, _BLOCK):
                block = counts[low : low + _BLOCK].astype(float)
                if block.any():
                    offset = float(offsets[low : low + _BLOCK].sum() / block.sum())
                    runs = [run for o in options for run in self._runs(o, window, offset)]
                    self._blocks.append(_Block(low, low + len(block), offset, block, runs, runs))
            longest = max(longest, window)
        self._beyond = int(np.ceil(longest / self._cell)) + 2

    def _runs(self, option: Option, window: float, offset: float) -> Iterator[_Run]:
        """At the two ends of the window, and at the starts between them where the cost of a start
        can have its minimum: at an edge, or such that the finish is at one.
        """
        latency, slack = option.latency / self._cell, (window - option.latency) / self._cell
        if slack < 0:
            return
        yield _Run.of(option, offset, latency, 1)
        yield _Run.of(option, offset + slack, latency, 1)
        for first in (1.0 - offset, (-offset - latency) % 1.0):
            if first < slack:
                yield _Run.of(option, offset + first, latency, int(np.ceil(slack - first)))

    def __call__(self, values: Floats, smoothing: float) -> tuple[float, Floats]:
        """The stand-in per query at the prices ``values`` [device types, cells], and its gradient
        there, of the same shape.
        """
        integrals = self._integrals(values)
        pulls = np.zeros_like(integrals)
        total = float((self._capacity * values).sum())
        for block in self._blocks:
            gained, shares = self._shares(integrals, block, smoothing)
            total += float(block.counts @ gained)
            shares *= block.counts
            place = 0
            for run in block.runs:
                started = np.zeros(block.high - block.low + max(run.count - 1, 0))
                for later in range(run.count):
                    started[later : later + len(block.counts)] += shares[place + later]
                place += run.count
                started /= run.option.batch
                pull, low, high = pulls[run.option.device], block.low, block.low + len(started)
                run.start.spread(pull, started, low, high)
                run.finish.spread(pull, -started, low, high)
        # A cell's price raises C at all edges after it.
        after = np.cumsum(pulls[:, ::-1], axis=1)[:, ::-1][:, 1 : self._cells + 1]
        slopes = (self._capacity + after * self._cell) / self._queries
        return total / self._queries - self._penalty, slopes

    def focus(self, values: Floats, smoothing: float) -> None:
        """In a large problem leave out, to save time, the places that hardly anyone takes at these
        prices. What an earlier call left out is considered again.
        """
        blocks = [replace(block, runs=block.all_runs) for block in self._blocks]
        if sum(block.work for block in blocks) > LITTLE_WORK:
            integrals = self._integrals(values)
            for i, block in enumerate(blocks):
                _, shares = self._shares(integrals, block, smoothing)
                taken = (shares * (block.counts > 0)).max(axis=1, initial=0.0) > _NEGLIGIBLE
                blocks[i] = replace(block, runs=list(self._some(block.runs, taken)))
        self._blocks = blocks

    @staticmethod
    def _some(runs: Sequence[_Run], taken: npt.NDArray[np.bool_]) -> Iterator[_Run]:
        place = 0
        for run in runs:
            used = np.flatnonzero(taken[place : place + run.count])
            place += run.count
            if len(used):
                yield run.part(int(used[0]), int(used[-1]))

    def _integrals(self, values: Floats) -> Floats:
        """C of `policies.bounds.prices` at the edges, and flat beyond the last one."""
        rising = np.pad(values * self._cell, ((0, 0), (1, self._beyond)))
        return np.cumsum(rising, axis=1)

    def _shares(self, integrals: Floats, block: _Block, smoothing: float) -> tuple[Floats, Floats]:
        """What each group of the block gains [cells], and its shares of the places [places, cells]
        (what is missing to 1 is not served).
        """
        gains = self._gains(integrals, block)
        top = gains.max(axis=0, initial=0.0)
        gains -= top
        gains /= smoothing
        np.exp(gains, out=gains)
        sums = gains.sum(axis=0) + np.exp(-top / smoothing)
        gains /= sums
        return top + smoothing * np.log(sums), gains

    def _gains(self, integrals: Floats, block: _Block) -> Floats:
        gains = np.empty((sum(run.count for run in block.runs), len(block.counts)))
        place = 0
        for run in block.runs:
            low, high = block.low, block.high + max(run.count - 1, 0)
            integral = integrals[run.option.device]
            gain = run.start.at(integral, low, high)
            gain -= run.finish.at(integral, low, high)
            gain /= run.option.batch
            gain += run.option.accuracy + self._penalty
            for later in range(run.count):
                gains[place + later] = gain[later : later + len(block.counts)]
            place += run.count
        return gains


def _by_window(given: Problem, least: float) -> Iterator[tuple[float, Floats]]:
    """(length of window, arrivals of the queries that have about that)."""
    windows = given.deadlines - given.arrivals
    servable = windows >= least
    windows, arrivals = windows[servable], given.arrivals[servable]
    if not len(windows):
        return
    lengths = np.unique(windows.round(6))
    if len(lengths) > MOST_WINDOWS:
        lengths = np.quantile(windows, (np.arange(MOST_WINDOWS) + 0.5) / MOST_WINDOWS)
    nearest = np.abs(windows[:, None] - lengths).argmin(axis=1)
    for i in range(len(lengths)):
        if (nearest == i).any():
            yield float(windows[nearest == i].mean()), arrivals[nearest == i]


def _thinned(options: Sequence[Option]) -> Iterator[Option]:
    """Few enough to be quick: halves of the largest batch, subnets spread over the accuracies."""
    for device in sorted({option.device for option in options}):
        ours = [option for option in options if option.device == device]
        batches = np.array(sorted({option.batch for option in ours}))
        wanted = batches[-1] / 2.0 ** np.arange(MOST_SIZES)
        for batch in {int(batches[np.abs(batches - size).argmin()]) for size in wanted}:
            same = sorted(
                (option for option in ours if option.batch == batch), key=lambda o: o.accuracy
            )
            spread = np.linspace(0, len(same) - 1, min(len(same), MOST_SUBNETS)).round()
            yield from (same[int(i)] for i in spread)
