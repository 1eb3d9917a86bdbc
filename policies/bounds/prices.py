"""What worker time costs over time, and the bound that any such prices prove."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from policies.bounds.problem import TOLERANCE, Floats, Ints, Option, Problem


@dataclass(frozen=True, slots=True, eq=False)
class Prices:
    """``values`` [device types, cells], accuracy points per worker-second, 0 or more: constant
    within each cell of ``cell`` seconds from ``start`` on, and 0 outside them.

    Raises ``ValueError`` for anything else.
    """

    start: float
    cell: float
    values: Floats

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or not self.values.shape[1]:
            raise ValueError(f"prices are [device types, cells], not {self.values.shape}")
        if not (np.isfinite(self.values).all() and (self.values >= 0).all() and self.cell > 0):
            raise ValueError("prices must be finite and not negative, their cells longer than 0")

    @property
    def edges(self) -> Floats:
        """[cells + 1], seconds."""
        return self.start + self.cell * np.arange(self.values.shape[1] + 1)

    def utility_bound(self, given: Problem) -> float:
        """No lawful schedule has more utility per query than this.

        Write p_d(t) for the price on device type d, N_d(t) for its workers, l_o for an option's
        latency, B_o for its batch, P_o(t) for the integral of p from t to t + l_o on its device,
        and W_qo for the starts that are in time, ``a_q <= t <= d_q - l_o``.

            n U  <=  sum_d INT N_d p_d dt  -  n penalty
                     + sum_q max(0, max_o max_{t in W_qo} acc_o + penalty - P_o(t) / B_o)

        Proof. Take a lawful schedule. Its batches occupy at most N_d(t) workers at any t, and p is
        not negative, so the first term is at least the sum of P_o(t_b) over its batches b. Share
        what a batch costs among the queries that it serves in time: there are at most B_o, so each
        pays P_o(t_b) / B_o or more. A query served in time therefore has accuracy + penalty no
        more than what it pays plus its own term of the last sum, in which t_b is one of the starts
        allowed; another has 0, and its term is not negative. Add up. This is weak duality for the
        linear relaxation of the integer program, in which p are the duals of "no more batches than
        workers".

        The inner maximum needs the *least* P_o(t) over continuous t, which is found exactly. With
        C the integral of p up to a time, ``P_o(t) = C(t + l_o) - C(t)``. C is linear between edges
        of cells, so P_o is linear between the points that are an edge or an edge minus l_o, and is
        least at one of those inside the window or at an end of the window. Windows are wider by
        a nanosecond than the queries', for the sake of schedules computed with rounding.

        Cost: O(options * (cells log(longest window in cells) + queries)). Raises ``ValueError``
        where there are not as many rows of prices as device types.
        """
        if len(self.values) != len(given.pools):
            raise ValueError(f"{len(self.values)} rows of prices, {len(given.pools)} device types")
        gains = np.zeros(len(given))
        integrals = [_Integral(self, device) for device in range(len(self.values))]
        for device, integral in enumerate(integrals):
            windows = _Windows(given, integral)
            for option in given.options:
                if option.device == device:
                    windows.raise_gains(gains, option, given.penalty)
        # The cells' prices as the rounded integrals have them: the two sides then agree.
        cost = sum(
            float(pool.seconds(self.edges) @ (np.diff(integral.at_edges) / self.cell))
            for pool, integral in zip(given.pools, integrals, strict=True)
        )
        rounding = 16 * np.finfo(float).eps * max(float(i.at_edges[-1]) for i in integrals)
        return float((cost + gains.sum()) / len(given) - given.penalty + rounding)


class _Integral:
    """C, the price of one worker of one type from the first edge up to a time; in ``places``, which
    are times in cells from the first edge.
    """

    def __init__(self, prices: Prices, device: int) -> None:
        self._start, self._cell = prices.start, prices.cell
        self.at_edges = np.concatenate(([0.0], np.cumsum(prices.values[device] * prices.cell)))
        # One edge more on the right, so that the last edge is in a cell too.
        self._lefts = np.append(self.at_edges, self.at_edges[-1])
        self._rises = np.diff(self._lefts, append=self.at_edges[-1])

    def places(self, times: Floats) -> Floats:
        return (times - self._start) / self._cell

    def length(self, seconds: float) -> float:
        return seconds / self._cell

    def __call__(self, places: Floats) -> Floats:
        inside = np.clip(places, 0.0, len(self.at_edges) - 1)
        cells = inside.astype(np.int64)
        inside -= cells
        inside *= self._rises[cells]
        inside += self._lefts[cells]
        return inside


class _Windows:
    """The queries' windows, a little wider than they are, in places of one device's integral."""

    def __init__(self, given: Problem, integral: _Integral) -> None:
        opens, closes = given.arrivals - TOLERANCE / 2, given.deadlines + TOLERANCE / 2
        self._lengths = closes - opens
        self._opens, self._closes = integral.places(opens), integral.places(closes)
        self._at_opens, self._at_closes = integral(self._opens), integral(self._closes)
        self._integral = integral

    def raise_gains(self, gains: Floats, option: Option, penalty: float) -> None:
        """Set ``gains`` to what the queries gain with this option where that is more."""
        integral, length = self._integral, self._integral.length(option.latency)
        fits = self._lengths >= option.latency
        chosen: slice | npt.NDArray[np.bool_] = slice(None) if fits.all() else fits
        opens, closes = self._opens[chosen], self._closes[chosen]
        least = integral(opens + length)
        least -= self._at_opens[chosen]
        np.minimum(least, self._at_closes[chosen] - integral(closes - length), out=least)
        at_edges = integral.at_edges
        edges = np.arange(len(at_edges), dtype=float)
        from_edges = integral(edges + length) - at_edges
        to_edges = at_edges - integral(edges - length)
        for costs, shift in ((from_edges, 0.0), (to_edges, length)):
            low = np.ceil(opens + (shift - _OUTWARD)).astype(np.int64)
            high = np.floor(closes + (shift - length + _OUTWARD)).astype(np.int64)
            np.maximum(low, 0, out=low)
            np.minimum(high, len(edges) - 1, out=high)
            np.minimum(least, _least_between(costs, low, high), out=least)
        least /= -option.batch
        least += option.accuracy + penalty
        gains[chosen] = np.maximum(gains[chosen], least)


# In cells: an edge this little outside a window counts as inside, which only loosens the bound.
_OUTWARD = 1e-6


def _least_between(values: Floats, low: Ints, high: Ints) -> Floats:
    """``values[low[i] : high[i] + 1].min()`` for each i; infinity where there is nothing between.

    From a table of the minima of 1, 2, 4, ... neighbours, any range is covered by two of them.
    """
    lengths = high - low + 1
    found = np.full(len(low), np.inf)
    table = values
    width = 1  # of the ranges whose minima are in the table
    while True:
        # Two ranges of this width cover those of a length from it up to twice it.
        now = np.flatnonzero((lengths >= width) & (lengths < 2 * width))
        first = low[now]
        found[now] = np.minimum(table[first], table[first + lengths[now] - width])
        if not (lengths >= 2 * width).any():
            return found
        table = np.minimum(table[:-width], table[width:])
        width *= 2
