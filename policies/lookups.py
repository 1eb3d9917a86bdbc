"""What a look-ahead policy asks of a profile again and again, ready to be looked up."""

from bisect import bisect_left, bisect_right

from policies.hull import Hull
from policies.types import Profile

# Of a worker-second; of a query left in the queue; and by batch size the subnet (its row) that is
# best at them as long as no deadline presses.
Prices = tuple[float, float, tuple[int, ...]]

_FAR = 1e6  # a miss so bad that no hull of a batch size starts with giving queries up


class Within:
    """The most accurate subnet that fits a slack, for all batch sizes at once.

    `policies.steps` is the same for one of them.
    """

    __slots__ = ("_limits", "_rows")

    def __init__(self, profile: Profile) -> None:
        """Takes O(subnets · batch sizes²) memory."""
        ends = sorted(
            (latency, size, row)
            for row, latencies in enumerate(profile.latencies)
            for size, latency in enumerate(latencies)
        )
        rows = [-1] * len(profile.batch_sizes)
        self._limits = [latency for latency, _, _ in ends]
        self._rows = [tuple(rows)]
        for _, size, row in ends:
            rows[size] = max(rows[size], row)
            self._rows.append(tuple(rows))

    def rows(self, slack: float) -> tuple[int, ...]:
        """By batch size the subnet's row; -1 where none fits. O(log entries of the profile)."""
        return self._rows[bisect_right(self._limits, slack)]


class PriceList:
    """What a worker-second is worth where ``tau`` of them can be spent on each query.

    The price is the slope there of the hull of full batches (see `Hull`); ``penalty`` is what a
    miss counts, in percent.
    """

    def __init__(self, profile: Profile, penalty: float) -> None:
        self._penalty = penalty
        full = Hull.of(profile, penalty=penalty)
        self._middles, self._slopes = _midpoints(full)
        hulls = [_hull(profile, column) for column in range(len(profile.batch_sizes))]
        subnets = [[profile.index(subnet) for subnet in hull.subnets] for hull in hulls]
        hulls.append(full)
        # As the price falls, one hull after the other moves on to its next vertex.
        turns = sorted(
            (-hull.slope(tau), which) for which, hull in enumerate(hulls) for tau in hull.taus[:-1]
        )
        at = [0] * len(hulls)
        self._turns = [turn for turn, _ in turns]
        self._best: list[tuple[float, float, tuple[int, ...]]] = []
        for which in (*(which for _, which in turns), -1):
            wanted = tuple(rows[vertex] for rows, vertex in zip(subnets, at, strict=False))
            self._best.append((full.accuracies[at[-1]], full.taus[at[-1]], wanted))
            at[which] += 1

    def at(self, tau: float) -> Prices:
        """The slope of the hull at tau, interpolated between the middles of its segments.

        At a vertex the slope jumps, and a price that jumps would flip between two neighbours where
        mixing them is best. A query is worth what is left of its best subnet after its time is paid
        for (the hull's conjugate), and no less than a miss. O(log subnets).
        """
        middles, slopes = self._middles, self._slopes
        place = bisect_right(middles, tau)
        if place == 0:
            price = slopes[0]
        elif place == len(middles):
            price = slopes[-1]
        else:
            part = (tau - middles[place - 1]) / (middles[place] - middles[place - 1])
            price = slopes[place - 1] + part * (slopes[place] - slopes[place - 1])
        accuracy, time, wanted = self._best[bisect_left(self._turns, -price)]
        return price, max(-self._penalty, accuracy - price * time), wanted


def _midpoints(hull: Hull) -> tuple[list[float], list[float]]:
    """(tau, slope) in the middle of each segment, the one from (0, -penalty) first."""
    taus, values = (0.0, *hull.taus), (-hull.penalty, *hull.accuracies)
    middles, slopes = [], []
    for i in range(len(hull.taus)):
        middles.append((taus[i] + taus[i + 1]) / 2.0)
        slopes.append((values[i + 1] - values[i]) / (taus[i + 1] - taus[i]))
    # Beyond the last vertex by half a segment time is worth nothing any more.
    middles.append(taus[-1] + (taus[-1] - middles[-1]))
    slopes.append(0.0)
    return middles, slopes


def _hull(profile: Profile, column: int) -> Hull:
    """The hull at one batch size, from its fastest subnet on."""
    batch = profile.batch_sizes[column]
    rows = zip(profile.subnets, profile.latencies, profile.accuracies, strict=True)
    points = ((subnet, row[column] / batch, accuracy) for subnet, row, accuracy in rows)
    return Hull.over(points, penalty=_FAR)
