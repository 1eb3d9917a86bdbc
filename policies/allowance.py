"""How much worker time the queue can afford per query: what look-ahead policies spend."""

# ruff: noqa: PLR1730, FURB136 - calls of min and max were a third of a decision's time

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, sqrt

from policies.types import QueueView, deadline_reader

Sample = tuple[int, float]


@dataclass(frozen=True, slots=True)
class Allowance:
    """The rule's knobs.

    ``share``: the part of the slack that may be spent. ``horizon``: how far arrivals are forecast,
    in SLOs. ``deviations``: how many standard deviations of their count above the mean are planned
    for. ``batches``: how many batches of each worker are still to end before the first deadline.
    """

    share: float = 0.85
    horizon: float = 1.0
    deviations: float = 0.4
    batches: float = 0.75

    def __post_init__(self) -> None:
        others = (self.horizon, self.deviations, self.batches)
        if not 0 < self.share <= 1 or min(others) < 0:
            raise ValueError(f"share must be in (0, 1], the others not negative: {self}")

    def affordable(self, view: QueueView, deadlines: Sequence[Sample], batch: int) -> float:
        """Worker-seconds per query that leave every query its place before its deadline.

        The k earliest deadlines, and those queries that come before the k-th deadline d_k and are
        due sooner, must be done by d_k, and so must the batches that are under way then. At tau
        worker-seconds each, for every k in ``deadlines`` (see `sampled`)::

            tau (k + ahead_k + w_k) <= share · capacity · (d_k - now),
            ahead_k = rate · max(0, d_k - now - slo),
            w_k = batches · share · min(k, batch · capacity)

        ``ahead`` is what a mean SLO says of deadlines to come (a lower bound, by Jensen), and 0
        under one SLO. A share below 1 keeps the rest of the slack: without it the queue lives at
        the edge of its deadlines, where one burst shrinks the batches and with them the throughput.
        For the whole queue the arrivals of a horizon and their time are counted in as well, so that
        a short queue does not spend what the next ones need::

            tau (Q + ahead_Q + w + rate H + z sqrt(IDC rate H))
                <= capacity (H + share (d_Q - now)),    w = batches · share · batch · capacity

        ``capacity`` is that of workers as slow as they have been lately. Infinite for an empty
        queue.
        """
        if not deadlines:
            return inf
        rate, slo, share = view.arrival_rate, view.slo, self.share
        capacity = view.capacity / view.slowdown
        horizon = self.horizon * slo
        coming = rate * horizon
        if self.deviations:
            coming += self.deviations * sqrt(view.dispersion * coming)
        under_way = self.batches * share
        all_workers = batch * capacity
        count, last = deadlines[0]
        ahead = rate * (last - slo) if last > slo else 0.0
        tau = (horizon + share * last) / (count + ahead + coming + under_way * all_workers)
        for place, left in deadlines:
            ahead = rate * (left - slo) if left > slo else 0.0
            working = place if place < all_workers else all_workers
            work = place + ahead + under_way * working
            time = share * left
            if time < tau * work:
                tau = time / work
        return capacity * tau


def sampled(view: QueueView, now: float, batch: int) -> list[Sample]:
    """(k, seconds to the k-th deadline) from the whole queue down by halves to ``batch``.

    Below the largest batch a worker's time cannot be shared out. Between two samples a bound that
    is linear in k is off by a factor of 2 at most. O(log queue).
    """
    deadline = deadline_reader(view.waiting)
    place = len(view.waiting)
    if not place:
        return []
    found: list[Sample] = []
    while place > batch:
        found.append((place, deadline(place - 1) - now))
        place //= 2
        if place < batch:
            place = batch
    found.append((place, deadline(place - 1) - now))
    return found
