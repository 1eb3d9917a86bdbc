"""DualFit: what a worker-second is worth, from the whole queue, prices every possible batch."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from policies.allowance import Allowance, Sample, sampled
from policies.hull import Hull
from policies.steps import Steps
from policies.types import (
    Choice,
    Profile,
    QueueView,
    Waiting,
    deadline_reader,
    due_before,
)

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

    row: int
    regret: float
    served: int
    seconds: float
    size: int  # its place among the profiled batch sizes
    pressed: bool  # a deadline keeps it from being larger, or its subnet from being better


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
    much longer than batches lately took (the view's slowdown), as a share, a batch may take without
    being late; ``penalty`` is what a
    miss counts, in percent. A head with a floor gets a subnet that meets it, in a
    batch that this subnet still runs in time. Priorities are left to those who ask: the deadline
    decides who goes first and who is given up.
    """

    def __init__(
        self,
        profile: Profile,
        *,
        share: float = 0.85,
        horizon: float = 1.0,
        deviations: float = 0.4,
        batches: float = 0.75,
        guard: float = 0.03,
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
        self._dear = profile.accuracies[0] + penalty  # what a query given up costs
        self._full = profile.latencies[0][-1]
        self._hull = Hull.of(profile, penalty=penalty)
        self._middles, self._slopes = _midpoints(self._hull)
        self._rises = [-slope for slope in self._slopes[1:-1]]  # between vertices; ascending
        self._sizes = tuple(_size(profile, column) for column in range(len(profile.batch_sizes)))
        self._accuracies, self._latencies = profile.accuracies, profile.latencies
        self._batches, self._last = profile.batch_sizes, len(self._sizes) - 1
        # By row and batch size, what this batch and all smaller ones take at most.
        self._bounds = tuple(tuple(accumulate(row, max)) for row in profile.latencies)

    def __repr__(self) -> str:
        off = "" if self._shed else ", shed=False"
        return f"DualFit(share={self._allowance.share:g}, guard={self._guard:g}{off})"

    def choose(self, view: QueueView, now: float) -> Choice | None:
        """O(log queue + batch sizes · log subnets), and O(heads shed)."""
        waiting, sizes = view.waiting, self._sizes
        guard = (1.0 + self._guard) * view.slowdown_p95
        capacity = view.capacity / view.slowdown
        count = len(waiting)
        if not count:
            return None
        deadlines = sampled(view, now, sizes[-1].batch)
        price = self._price(self._allowance.affordable(view, deadlines, sizes[-1].batch))
        value = self._value(price)
        head = waiting[0]
        left = head.deadline - now
        floor = self._floor(head.min_accuracy)
        first = self._fitting(left / guard, count, price, value, floor)
        if not first.pressed:
            return self._choice(first)
        best, skip, regret = first, 0, first.regret / first.served
        most, deadline = sizes[-1].batch, deadline_reader(waiting)
        for size in range(first.size):  # the most urgent on their own, then a full batch
            part = self._batch(size, left / guard, count, price, value, floor)
            if part.served >= first.served:
                break
            slack = deadline(part.served) - now - part.seconds / capacity
            # Those behind must gain by it, and no batch has a regret below 0.
            if slack <= left or part.regret >= regret * (part.served + most):
                continue
            then = self._fitting(slack / guard, count - part.served, price, value)
            both = (part.regret + then.regret) / (part.served + then.served)
            if both < regret:
                best, regret = part, both
        least = self._full * guard
        if self._shed and left < least:
            full = _urgent(waiting, deadlines, now, least)
            doomed = max(
                self._doomed(view, capacity, deadlines),
                self._starved(view, capacity, first.size, full / least),
            )
            for place in (doomed,) if full <= doomed else (doomed, full):
                dear = max(0, place - doomed) * self._dear
                if not 0 < place < count or dear >= regret * most:
                    continue
                at = waiting[place]
                slack, floor = (at.deadline - now) / guard, self._floor(at.min_accuracy)
                rest = self._fitting(slack, count - place, price, value, floor)
                worth = (dear + rest.regret) / rest.served
                if worth < regret:
                    best, skip, regret = rest, place, worth
        return self._choice(best, skip)

    def _choice(self, batch: _Batch, shed: int = 0) -> Choice:
        return Choice(self._profile.subnets[batch.row], batch.served, shed)

    def _floor(self, accuracy: float) -> int:
        """The row of the least accurate subnet with at least this accuracy, or the last."""
        accuracies = self._profile.accuracies
        if accuracy <= accuracies[0]:
            return 0
        return min(bisect_left(accuracies, accuracy), len(accuracies) - 1)

    def _doomed(self, view: QueueView, capacity: float, deadlines: Sequence[Sample]) -> int:
        """How many must miss even if all workers run full batches of the smallest from now on.

        Counts those that are waiting, and what a load above capacity will bring within an SLO.
        """
        rate = capacity * self._profile.peak_rate
        most = 0.0
        for place, left in deadlines:
            most = max(most, place - rate * left)
        return int(most + max(0.0, view.arrival_rate - rate) * view.slo)

    def _starved(self, view: QueueView, capacity: float, size: int, urgent: float) -> int:
        """How many will miss within an SLO if the ``urgent`` (per second), whom a full batch cannot
        serve in time, stay in front: batches of this size serve fewer than come, so the next head
        is no less urgent. Less than a full batch pays for itself only where the urgent are few.
        """
        at = self._sizes[size]
        crowd = min(urgent, view.arrival_rate)
        return int((crowd - capacity * at.batch / at.least) * view.slo)

    def _fitting(
        self, slack: float, left: int, price: float, value: float, floor: int = 0
    ) -> _Batch:
        """The largest batch of ``left`` queries that fits a slack."""
        needed = bisect_left(self._batches, left)  # no larger one has to be padded as much
        size = max(0, min(needed, bisect_right(self._bounds[floor], slack) - 1, self._last))
        best = self._batch(size, slack, left, price, value, floor)
        if size and best.served < self._batches[size]:  # padded: perhaps a smaller one is better
            exact = self._batch(size - 1, slack, left, price, value, floor)
            if exact.regret * best.served < best.regret * exact.served:
                return exact
        return best

    def _batch(
        self, size: int, slack: float, left: int, price: float, value: float, floor: int = 0
    ) -> _Batch:
        """The batch of this profiled size with the subnet that is best at the price."""
        # Called some ten times for a decision that must not take longer than 20 us.
        batch, _, within, slopes, rows = self._sizes[size]
        served = min(left, batch)
        wanted = rows[bisect_left(slopes, -price)]
        fits = within.at(slack)
        if fits is None:
            row, worth = floor, -self._penalty
        else:
            row = min(fits, wanted)
            row = max(floor, row)
            worth = self._accuracies[row]
        seconds = self._latencies[row][size]
        regret = price * seconds - served * (worth - value)
        pressed = row < wanted or (left > batch and size < self._last)
        return tuple.__new__(_Batch, (row, regret, served, seconds, size, pressed))

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


def _urgent(
    waiting: Sequence[Waiting], deadlines: Sequence[Sample], now: float, within: float
) -> int:
    """How many are due within so many seconds: between two of the deadlines that were sampled."""
    low, high = 0, len(waiting)
    for place, left in deadlines:  # from the whole queue down
        if left < within:
            low = place
            break
        high = place
    return due_before(waiting, now + within, low, high)


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
