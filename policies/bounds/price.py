"""The price bound: an upper bound on the utility of any schedule, for traces of any length."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.ndimage import uniform_filter1d
from scipy.optimize import minimize

from policies.bounds.fluid import Market
from policies.bounds.prices import Prices
from policies.bounds.problem import TOLERANCE, Floats, Ints, Problem, Workers, problem
from policies.bounds.smooth import SmoothBound
from policies.hull import Hull
from policies.types import Profile

CELLS_PER_WINDOW = 9  # 4 ms for 36 ms
MOST_CELLS_PER_WINDOW = 100  # of the longest
MOST_CELLS = 20_000
_WIDTHS = (5, 25, 100, 400)  # cells over which the local load is averaged


class _Stage(NamedTuple):
    """One of several minimisations, each starting where the one before ended."""

    smoothing: float  # over the distance between the lowest and the highest accuracy
    together: int  # so many cells have one price
    iterations: float  # share of all


_STAGES = (_Stage(0.05, 16, 0.2), _Stage(0.016, 4, 0.3), _Stage(0.005, 1, 0.5))


@dataclass(frozen=True, slots=True)
class Bound:
    """No lawful schedule has more utility per query than ``utility``, as ``prices`` prove.

    ``source`` says which prices are the best found: ``"constant"`` in time, ``"local"`` to the load
    around, or ``"refined"`` from one of the two.
    """

    utility: float
    source: Literal["constant", "local", "refined"]
    prices: Prices = field(repr=False, compare=False)


def price_bound(
    arrivals: npt.ArrayLike,
    deadlines: npt.ArrayLike,
    profile: Profile | Sequence[Profile],
    workers: Workers | Sequence[Workers],
    *,
    penalty: float = 100.0,
    cell: float | None = None,
    iterations: int = 110,
) -> Bound:
    """The best bound among those that several price functions prove (`Prices.utility_bound`).

    All are valid, so the least is:

    - constant prices, the best there are: the fluid bound, which this one never exceeds;
    - local prices: at each time, the constant price that would be right if the load around it
      lasted, for several widths of "around";
    - refined prices: from the better of these, L-BFGS on a smoothed bound (`SmoothBound`) whose
      smoothing is taken down in three stages, ``iterations`` steps in all; 0 leaves this out.

    ``cell`` (seconds) is how long a price lasts; by default a ninth of the median window, or longer
    where windows are very uneven or there would be more than ``MOST_CELLS``. A shorter one is
    slower and proves slightly more; where queries come in lockstep, one that divides their period
    proves more.

    The bound is that of the linear relaxation, in which a query may be served in fractions and a
    fraction of a batch costs no more than that fraction: batches that cannot be filled, and the
    indivisibility of the last one, are not counted against it.

    The cost is linear in queries times options, and in cells times options. Raises ``ValueError``
    as `policies.bounds.problem.problem` does.
    """
    given = problem(arrivals, deadlines, profile, workers, penalty)
    market = Market.of(given)
    constant = market.prices()
    start = given.start - TOLERANCE
    length = given.end + TOLERANCE - start
    # From end to end in one cell: exactly the fluid bound.
    flat = Prices(start, length, constant[:, None])
    best = Bound(market.utility(constant), "constant", flat)
    if cell is not None and not cell > 0:
        raise ValueError(f"a cell must be longer than 0 seconds, not {cell}")
    if iterations < 0:
        raise ValueError(f"there cannot be {iterations} iterations")
    if best.utility <= -given.penalty:
        return best  # nobody can gain anything
    cell = cell or max(_fine(given), length / MOST_CELLS)
    edges = start + cell * np.arange(ceil(length / cell) + 1, dtype=np.float64)

    def proven(values: Floats, source: Literal["local", "refined"]) -> Bound:
        prices = Prices(start, cell, values)
        return Bound(prices.utility_bound(given), source, prices)

    smooth = SmoothBound(given, edges)
    accuracies = [option.accuracy for option in given.options]
    unit = (max(accuracies) - min(accuracies)) or 1.0
    price = unit / float(np.median([option.latency / option.batch for option in given.options]))
    everywhere = np.repeat(constant[:, None], len(edges) - 1, axis=1)
    local = list(_local(given, constant, edges))
    ranked = sorted(
        [everywhere, *local], key=lambda values: smooth(values, unit * _STAGES[-1].smoothing)[0]
    )
    if ranked[0] is not everywhere:
        best = min(best, proven(ranked[0], "local"), key=lambda bound: bound.utility)
    for values in _refined(smooth, ranked[0], unit, price, iterations):
        best = min(best, proven(values, "refined"), key=lambda bound: bound.utility)
    return best


def _fine(given: Problem) -> float:
    """A cell, in seconds, fine enough for the windows of the queries that can be served."""
    windows = given.deadlines - given.arrivals
    windows = windows[windows >= min(option.latency for option in given.options) - TOLERANCE]
    usual, longest = float(np.median(windows)), float(windows.max())
    return max(usual / CELLS_PER_WINDOW, longest / MOST_CELLS_PER_WINDOW)


def _local(given: Problem, constant: Floats, edges: Floats) -> Iterator[Floats]:
    """Prices [device types, cells] by the worker time per query around, for each width.

    The price is what more worker time would buy: the slope of the hull of what options cost and
    are worth. With several device types, their prices keep the ratios of ``constant``.
    """
    ratios = np.maximum(constant, 0.01 * constant.max()) if constant.any() else constant + 1.0
    hull = Hull.over(
        (
            (o.subnet, float(ratios[o.device]) * o.latency / o.batch, o.accuracy)
            for o in given.options
        ),
        given.penalty,
    )
    slopes = np.array([hull.slope(cost) for cost in (0.0, *hull.taus)])
    arrived = np.histogram(given.arrivals, edges)[0].astype(float)
    worth = ratios @ np.array([pool.seconds(edges) for pool in given.pools])
    for width in _WIDTHS:
        load = uniform_filter1d(arrived, width, mode="constant")
        time = uniform_filter1d(worth, width, mode="constant")
        each = np.divide(time, load, out=np.full(len(load), np.inf), where=load > 1e-9)
        yield ratios[:, None] * slopes[np.searchsorted(hull.taus, each, side="right")]


def _refined(
    smooth: SmoothBound, values: Floats, unit: float, price: float, iterations: int
) -> Iterator[Floats]:
    """Better prices than ``values``, after each stage but the first.

    ``unit`` and ``price`` are the orders of magnitude of differences in accuracy and of prices.
    """
    for stage in _STAGES:
        smoothing, steps = unit * stage.smoothing, round(iterations * stage.iterations)
        if not steps:
            return
        if stage is not _STAGES[0]:
            # Not before: prices that are far off leave out what the right ones need.
            smooth.focus(values, smoothing)
        starts = np.arange(0, values.shape[1], stage.together)
        lengths = np.diff(starts, append=values.shape[1])
        first = np.add.reduceat(values, starts, axis=1) / lengths

        def bound(
            x: Floats,
            smoothing: float = smoothing,
            starts: Ints = starts,
            lengths: Ints = lengths,
        ) -> tuple[float, Floats]:
            prices = np.repeat(x.reshape(-1, len(starts)) * price, lengths, axis=1)
            total, slopes = smooth(prices, smoothing)
            return total, np.add.reduceat(slopes, starts, axis=1).ravel() * price

        found = minimize(
            bound,
            first.ravel() / price,
            jac=True,
            method="L-BFGS-B",
            bounds=[(0.0, None)] * first.size,
            options={"maxiter": steps, "maxfun": 2 * steps, "gtol": 0.0, "ftol": 1e-9},
        )
        prices = np.maximum(found.x, 0.0).reshape(first.shape) * price
        values = np.repeat(prices, lengths, axis=1)
        if stage is not _STAGES[0]:
            yield values
