"""The fluid bound: worker time is shared out as if it could be split at will."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import linprog
from scipy.sparse import csr_array, hstack

from policies.bounds.problem import TOLERANCE, Floats, Problem, Workers, problem
from policies.types import Profile


@dataclass(frozen=True, slots=True)
class Fluid:
    """``utility``: no lawful schedule has more per query. ``accuracy``: none that serves every
    query in time has a higher mean; None where none can. ``prices`` are those of the utility, in
    accuracy points per worker-second of each device type: what more worker time would buy.
    """

    utility: float
    accuracy: float | None
    prices: tuple[float, ...]


def fluid_bound(
    arrivals: npt.ArrayLike,
    deadlines: npt.ArrayLike,
    profile: Profile | Sequence[Profile],
    workers: Workers | Sequence[Workers],
    *,
    penalty: float = 100.0,
) -> Fluid:
    """Utility and accuracy from the worker time between the first arrival and the last deadline.

    A batch of at most B queries with option o = (subnet, B) costs l_o worker-seconds, at least
    l_o / B for each query in it. So if w_o is the share of the queries served with o, any lawful
    schedule has ``sum_o w_o l_o / B_o <= N T / n`` on each device type, and the best mean accuracy
    with ``sum w = 1`` is f(N T / n), f the upper concave hull of the points (l_o / B_o, accuracy);
    the best utility is the same with the point (0, -penalty) among them. Here a query moreover uses
    only options that are no longer than its own window, deadline minus arrival; where that leaves
    out none, the result is exactly f. Any profiled batch size may make a vertex, not only the
    largest.

    Both are computed as the dual, in which each query pays a constant price for worker time, from
    prices that a linear program finds; any prices of 0 or more give a bound, so the solver's
    rounding cannot make it wrong. Cost: O(n log n) for the windows, then independent of n.
    Raises ``ValueError`` as `policies.bounds.problem.problem` does.
    """
    given = problem(arrivals, deadlines, profile, workers, penalty)
    market = Market.of(given)
    prices = market.prices()
    return Fluid(
        market.utility(prices),
        market.accuracy(),
        tuple(float(price) for price in prices),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Market:
    """The problem as far as prices that do not vary in time see it.

    ``counts[c]`` queries have a window that holds the c quickest options and no more; ``costs`` are
    [options, device types], worker-seconds per query; ``seconds`` are [device types].
    """

    counts: Floats
    values: Floats  # [options], accuracy, the quickest first
    costs: Floats
    seconds: Floats
    penalty: float

    @classmethod
    def of(cls, given: Problem) -> "Market":
        options = sorted(given.options, key=lambda option: option.latency)
        costs = np.zeros((len(options), len(given.pools)))
        for i, option in enumerate(options):
            costs[i, option.device] = option.latency / option.batch
        fits = np.searchsorted(
            [option.latency for option in options],
            given.deadlines - given.arrivals + TOLERANCE,
            side="right",
        )
        edges = np.array([given.start - TOLERANCE, given.end + TOLERANCE])
        return cls(
            np.bincount(fits, minlength=len(options) + 1).astype(float),
            np.array([option.accuracy for option in options]),
            costs,
            np.array([float(pool.seconds(edges)[0]) for pool in given.pools]),
            given.penalty,
        )

    def prices(self, scale: float = 1.0) -> Floats:
        """[device types]: the best ones for the utility if there were ``scale`` times the time."""
        solution = self._solve(scale, drop=True)
        assert solution is not None  # serving nobody is a schedule
        return solution

    def utility(self, prices: Floats) -> float:
        """The bound on the utility per query from these prices, whatever they are (0 or more)."""
        gains = self.values + self.penalty - self.costs @ prices
        best = np.concatenate(([0.0], np.maximum.accumulate(np.maximum(gains, 0.0))))
        return (
            float((self.seconds @ prices + self.counts @ best) / self.counts.sum()) - self.penalty
        )

    def accuracy(self) -> float | None:
        """The bound on the mean accuracy of a schedule that serves all in time."""
        prices = None if self.counts[0] else self._solve(1.0, drop=False)
        if prices is None:
            return None
        best = np.maximum.accumulate(self.values - self.costs @ prices)
        return float((self.seconds @ prices + self.counts[1:] @ best) / self.counts.sum())

    def _solve(self, scale: float, *, drop: bool) -> Floats | None:
        """Minimise ``seconds @ p + counts @ v`` over p >= 0 where ``v[c] >= value - cost @ p`` for
        each option that class c may use; with ``drop``, also ``v >= 0`` and values count from
        -penalty. Linear in the prices p and the classes' gains v. None where it has no bottom: then
        there is too little time for all.
        """
        types, classes = len(self.seconds), np.flatnonzero(self.counts[1:])
        if not len(classes):
            return np.zeros(types)
        rows = [(c, option) for c, last in enumerate(classes) for option in range(last + 1)]
        used = np.array([option for _, option in rows])
        gained = csr_array(
            (np.ones(len(rows)), (np.arange(len(rows)), np.array([c for c, _ in rows]))),
        )
        unit = self.costs.max()  # of worker time, so that the program is well scaled
        result = linprog(
            np.concatenate((self.seconds * scale / unit, self.counts[1:][classes])),
            A_ub=hstack([csr_array(-self.costs[used] / unit), -gained]),
            b_ub=-self.values[used] - (self.penalty if drop else 0.0),
            bounds=[(0, None)] * types + [(0 if drop else None, None)] * len(classes),
            method="highs",
        )
        return None if result.x is None else np.maximum(result.x[:types], 0.0) / unit
