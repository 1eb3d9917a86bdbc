"""DualFit: what a worker-second is worth, from the whole queue, prices every possible batch."""

# ruff: noqa: PLR1730 - calls of min and max were a third of a decision's time

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate

from policies.allowance import Allowance, Sample, sampled
from policies.lookups import PriceList, Prices, Within
from policies.types import Choice, Profile, QueueView, Waiting, deadline_reader, due_before

# A batch that could run: what it costs more than it is worth, in percent, at the prices of now; how
# many it serves; its subnet (a row); its place among the profiled sizes; its seconds.
_Batch = tuple[float, int, int, int, float]

# Most choices come again, and to make one takes several times as long as to find it.
_choice = lru_cache(maxsize=4096)(Choice)


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
        profile = profile.pareto()
        self._allowance = Allowance(share, horizon, deviations, batches)
        self._guard, self._penalty = guard, penalty
        self._shed = shed
        self._dear = profile.accuracies[0] + penalty  # what a query given up costs
        self._full = profile.latencies[0][-1]
        self._peak_rate = profile.peak_rate
        self._list = PriceList(profile, penalty)
        self._within = Within(profile)
        self._subnets, self._accuracies = profile.subnets, profile.accuracies
        self._latencies = profile.latencies
        self._batches, self._most = profile.batch_sizes, profile.max_batch
        self._quickest = tuple(map(min, zip(*profile.latencies, strict=True)))
        # By row and batch size, what this batch and all smaller ones take at most.
        self._bounds = tuple(tuple(accumulate(row, max)) for row in profile.latencies)

    def __repr__(self) -> str:
        off = "" if self._shed else ", shed=False"
        return f"DualFit(share={self._allowance.share:g}, guard={self._guard:g}{off})"

    def choose(self, view: QueueView, now: float) -> Choice | None:
        """O(log queue + batch sizes · log subnets), and O(heads shed)."""
        waiting, most = view.waiting, self._most
        count = len(waiting)
        if not count:
            return None
        guard = (1.0 + self._guard) * view.slowdown_p95
        capacity = view.capacity / view.slowdown
        deadlines = sampled(view, now, most)
        prices = self._list.at(self._allowance.affordable(view, deadlines, most))
        head = waiting[0]
        left, floor = head.deadline - now, self._floor(head.min_accuracy)
        slack = left / guard
        regret, fitting, row, size, _ = self._fitting(slack, count, prices, floor)
        if row >= prices[2][size] and fitting in (count, most):  # no deadline presses
            return _choice(self._subnets[row], fitting)
        served, shed = fitting, 0
        regret /= fitting
        deadline, within = deadline_reader(waiting), self._within.rows(slack)
        for part in range(size):  # the most urgent on their own, then a full batch
            cost, urgent, subnet, _, seconds = self._batch(part, within, count, prices, floor)
            if urgent >= fitting:
                break
            behind = deadline(urgent) - now - seconds / capacity
            # Those behind must gain by it, and no batch has a regret below 0.
            if behind <= left or cost >= regret * (urgent + most):
                continue
            then = self._fitting(behind / guard, count - urgent, prices)
            both = (cost + then[0]) / (urgent + then[1])
            if both < regret:
                regret, served, row = both, urgent, subnet
        least = self._full * guard
        if self._shed and left < least:
            full = _urgent(waiting, deadlines, now, least)
            doomed = max(
                self._doomed(view, capacity, deadlines),
                self._starved(view, capacity, size, full / least),
            )
            for place in (doomed,) if full <= doomed else (doomed, full):
                dear = (place - doomed) * self._dear
                if not 0 < place < count or dear >= regret * most:
                    continue
                at = waiting[place]
                slack, floor = (at.deadline - now) / guard, self._floor(at.min_accuracy)
                rest = self._fitting(slack, count - place, prices, floor)
                worth = (dear + rest[0]) / rest[1]
                if worth < regret:
                    regret, served, row, shed = worth, rest[1], rest[2], place
        return _choice(self._subnets[row], served, shed)

    def _floor(self, accuracy: float) -> int:
        """The row of the least accurate subnet with at least this accuracy, or the last."""
        accuracies = self._accuracies
        if accuracy <= accuracies[0]:
            return 0
        return min(bisect_left(accuracies, accuracy), len(accuracies) - 1)

    def _doomed(self, view: QueueView, capacity: float, deadlines: Sequence[Sample]) -> int:
        """How many must miss even if all workers run full batches of the smallest from now on.

        Counts those that are waiting, and what a load above capacity will bring within an SLO.
        """
        rate = capacity * self._peak_rate
        most = 0.0
        for place, left in deadlines:
            late = place - rate * left
            if late > most:
                most = late
        return int(most + max(0.0, view.arrival_rate - rate) * view.slo)

    def _starved(self, view: QueueView, capacity: float, size: int, urgent: float) -> int:
        """How many will miss within an SLO if the ``urgent`` (per second), whom a full batch cannot
        serve in time, stay in front: batches of this size serve fewer than come, so the next head
        is no less urgent. Less than a full batch pays for itself only where the urgent are few.
        """
        crowd = min(urgent, view.arrival_rate)
        served = capacity * self._batches[size] / self._quickest[size]
        return int((crowd - served) * view.slo)

    def _fitting(self, slack: float, left: int, prices: Prices, floor: int = 0) -> _Batch:
        """The largest batch of ``left`` queries that fits a slack."""
        batches, within = self._batches, self._within.rows(slack)
        size = bisect_right(self._bounds[floor], slack) - 1
        needed = bisect_left(batches, left)  # no larger one has to be padded as much
        if needed < size:
            size = needed
        if size <= 0:
            return self._batch(0, within, left, prices, floor)
        best = self._batch(size, within, left, prices, floor)
        if left < batches[size]:  # padded: perhaps a smaller one is better
            exact = self._batch(size - 1, within, left, prices, floor)
            if exact[0] * best[1] < best[0] * exact[1]:
                return exact
        return best

    def _batch(
        self, size: int, within: Sequence[int], left: int, prices: Prices, floor: int
    ) -> _Batch:
        """The batch of this profiled size with the subnet that is best at the prices."""
        # Called some ten times for a decision that must not take longer than 20 us.
        price, value, wanted = prices
        served = self._batches[size]
        if left < served:
            served = left
        row = within[size]
        if row < 0:
            row, worth = floor, -self._penalty
        else:
            if wanted[size] < row:
                row = wanted[size]
            if row < floor:
                row = floor
            worth = self._accuracies[row]
        seconds = self._latencies[row][size]
        return price * seconds - served * (worth - value), served, row, size, seconds


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
