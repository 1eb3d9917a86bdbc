"""DualFit: what a worker-second is worth, from the whole queue, prices every possible batch."""

from bisect import bisect_left, bisect_right
from math import inf
from typing import NamedTuple

from policies.allowance import Allowance
from policies.hull import Hull
from policies.steps import Steps
from policies.types import Choice, Profile, QueueView

_FAR = 1e6  # a miss so bad that no hull of a batch size starts with giving queries up


class _Size(NamedTuple):
    """One profiled batch size: what fits a slack, and what is best at a price."""

    batch: int
    least: float  # seconds, of the smallest subnet
    within: Steps[int]  # slack -> the most accurate subnet (its row) that fits
    slopes: tuple[float, ...]  # of the hull between its vertices, negated so that they ascend
    rows: tuple[int, ...]  # the vertices' subnets


class _Batch(NamedTuple):
    """A batch that could run: what it costs more than it is worth, in percent, at given prices."""

    choice: Choice
    regret: float
    served: int
    seconds: float
    size: int  # its place among the profiled batch sizes
    pressed: bool  # a deadline keeps it from being larger, or its subnet from being better


_NOTHING = _Batch(Choice("", 1), 0.0, 0, 0.0, 0, pressed=False)


class DualFit:
    """Price-directed look-ahead over the whole EDF queue.

    The offline optimum (SuperServe's ZILP, section 4.1) has a linear dual whose variables are the
    prices of worker time (see `policies.bounds`); with long queues it comes to two numbers. From
    tau, the worker-seconds per query that the queue can afford (`Allowance`), follow the price
    ``p`` of a worker-second, which is the slope there of the hull of (time per query, accuracy),
    and the value ``v`` of a query left in the queue, which is what p leaves of its best subnet. A
    batch of n queries is then worth less than it costs by its regret, never negative::

        p latency(subnet, n) - n (accuracy - v)

    and the one with the least regret per query is run, among

    - the largest batch that the head's slack allows, with the subnet that is best at p;
    - a smaller one of the most urgent alone, followed by the largest one that fits then: under
      mixed SLOs a few urgent queries need not drag all the others down;
    - either of them after some heads are shed. As many as must miss whatever is done cost nothing,
      any more cost their accuracy and the penalty. That is Nexus' early drop (SOSP'19) with a price
      tag: in overload batches stay full, and throughput does not collapse.

    While nothing is scarce p is 0, and the most accurate subnet that fits the slack runs.

    For ``share``, ``horizon``, ``deviations`` and ``batches`` see `Allowance`. ``guard`` is how
    much longer than planned, as a share, a batch may take without being late; ``penalty`` is what a
    miss counts, in percent. No query with a priority is shed, and a head with a floor gets it.
    """

    def __init__(
        self,
        profile: Profile,
        *,
        share: float = 0.85,
        horizon: float = 1.0,
        deviations: float = 0.4,
        batches: float = 0.75,
        guard: float = 0.08,
        penalty: float = 100.0,
        shed: bool = True,
    ) -> None:
        """``shed=False`` switches shedding off, to see what it is worth."""
        if guard < 0 or penalty < 0:
            raise ValueError(f"guard and penalty must not be negative: {guard}, {penalty}")
        self._profile = profile = profile.pareto()
        self._allowance = Allowance(share, horizon, deviations, batches)
        self._guard, self._penalty = guard, penalty
        self._shed = shed
        self._full = profile.latencies[0][-1] * (1.0 + guard)
        self._hull = Hull.of(profile, penalty=penalty)
        self._middles, self._slopes = _midpoints(self._hull)
        self._rises = [-slope for slope in self._slopes[1:-1]]  # between vertices; ascending
        self._sizes = tuple(_size(profile, column) for column in range(len(profile.batch_sizes)))

    def __repr__(self) -> str:
        off = "" if self._shed else ", shed=False"
        return f"DualFit(share={self._allowance.share:g}, guard={self._guard:g}{off})"

    def choose(self, view: QueueView, now: float) -> Choice | None:
        """O(log queue + batch sizes · log subnets)."""
        waiting, sizes = view.waiting, self._sizes
        if not waiting:
            return None
        tau = self._allowance.affordable(view, now, sizes[-1].batch)
        price = self._price(tau)
        value = self._value(price)
        first = self._plan(view, now, 0, price, value)
        if not first.pressed:
            return first.choice
        best, regret = first.choice, first.regret / first.served
        for size in range(first.size):  # the most urgent on their own, then a full batch
            part = self._run(view, now, 0, size, price, value)
            if part.served >= first.served:
                break
            then = self._plan(view, now + part.seconds / view.capacity, part.served, price, value)
            both = (part.regret + then.regret) / (part.served + then.served)
            if both < regret:
                best, regret = part.choice, both
        if self._shed and waiting[0].deadline - now < self._full:
            shed, worth = self._best_shed(view, now, price, value)
            if shed is not None and worth < regret:
                best = shed
        return best

    def _best_shed(
        self, view: QueueView, now: float, price: float, value: float
    ) -> tuple[Choice | None, float]:
        """The best batch after some heads are shed, and its regret per query that it serves."""
        waiting = view.waiting
        doomed = self._doomed(view, now)
        dear = self._profile.accuracies[0] + self._penalty
        places = {doomed}
        for size in self._sizes[1:]:
            until = now + size.least * (1.0 + self._guard)
            places.add(bisect_left(waiting, until, key=lambda query: query.deadline))
        best, regret, seen = None, inf, 0
        for skip in sorted(places):
            if skip >= len(waiting) or any(waiting[i].priority > 0 for i in range(seen, skip)):
                break
            seen = skip
            rest = self._plan(view, now, skip, price, value)
            worth = (max(0, skip - doomed) * dear + rest.regret) / rest.served
            if worth < regret:
                best = Choice(rest.choice.subnet, rest.choice.batch_size, skip)
                regret = worth
        return best, regret

    def _doomed(self, view: QueueView, now: float) -> int:
        """How many must miss even if all workers run full batches of the smallest from now on.

        Counts those that are waiting, and what a load above capacity will bring within an SLO.
        """
        waiting, most = view.waiting, self._sizes[-1].batch
        rate = view.capacity * self._profile.peak_rate
        place, doomed = len(waiting), 0.0
        while place > 0:
            doomed = max(doomed, place - rate * (waiting[place - 1].deadline - now))
            place = 2 * place // 3 if place > most else 0
        return int(doomed + max(0.0, view.arrival_rate - rate) * view.slo)

    def _plan(self, view: QueueView, now: float, skip: int, price: float, value: float) -> _Batch:
        """The largest batch that fits the slack of the first query after ``skip``."""
        left = len(view.waiting) - skip
        if left <= 0:
            return _NOTHING
        slack = (view.waiting[skip].deadline - now) / (1.0 + self._guard)
        size = 0
        for larger in range(1, len(self._sizes)):
            if self._sizes[larger].least > slack or self._sizes[larger - 1].batch >= left:
                break
            size = larger
        best = self._run(view, now, skip, size, price, value)
        if (
            size and best.served < self._sizes[size].batch
        ):  # padded: perhaps a smaller one is better
            exact = self._run(view, now, skip, size - 1, price, value)
            if exact.regret * best.served < best.regret * exact.served:
                return exact
        return best

    def _run(
        self, view: QueueView, now: float, skip: int, size: int, price: float, value: float
    ) -> _Batch:
        """A batch of this profiled size after ``skip`` queries, with the subnet that is best."""
        profile, head, at = self._profile, view.waiting[skip], self._sizes[size]
        count = min(at.batch, len(view.waiting) - skip)
        within = at.within.at((head.deadline - now) / (1.0 + self._guard))
        wanted = at.rows[bisect_left(at.slopes, -price)]
        row = wanted if within is None else min(wanted, within)
        if within is None:
            row = 0
        if head.min_accuracy > profile.accuracies[row]:
            row = min(bisect_left(profile.accuracies, head.min_accuracy), len(profile.subnets) - 1)
        seconds = profile.latencies[row][size]
        worth = self._profile.accuracies[row] if within is not None else -self._penalty
        return _Batch(
            Choice(profile.subnets[row], count),
            price * seconds - count * (worth - value),
            count,
            seconds,
            size,
            row < wanted or (size + 1 < len(self._sizes) and count == at.batch),
        )

    def _price(self, tau: float) -> float:
        """The slope of the hull at tau, interpolated between the middles of its segments.

        At a vertex the slope jumps, and a price that jumps would flip between two neighbours where
        mixing them is best.
        """
        middles, slopes = self._middles, self._slopes
        place = bisect_right(middles, tau)
        if place == 0:
            return slopes[0]
        if place == len(middles):
            return slopes[-1]
        part = (tau - middles[place - 1]) / (middles[place] - middles[place - 1])
        return slopes[place - 1] + part * (slopes[place] - slopes[place - 1])

    def _value(self, price: float) -> float:
        """What is left of a query's best subnet after its time is paid: the hull's conjugate."""
        hull = self._hull
        best = bisect_left(self._rises, -price)
        return max(-self._penalty, hull.accuracies[best] - price * hull.taus[best])


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


def _size(profile: Profile, column: int) -> _Size:
    batch = profile.batch_sizes[column]
    costs = [row[column] for row in profile.latencies]
    within = Steps.best(costs, range(len(costs)))
    points = (
        (subnet, cost / batch, accuracy)
        for subnet, cost, accuracy in zip(profile.subnets, costs, profile.accuracies, strict=True)
    )
    hull = Hull.over(points, penalty=_FAR)
    rows = tuple(profile.index(subnet) for subnet in hull.subnets)
    return _Size(batch, min(costs), within, tuple(-hull.slope(t) for t in hull.taus[:-1]), rows)
