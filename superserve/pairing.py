"""One model on one device type: asks the policy, and turns its choice into a lawful batch."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from math import inf
from typing import NamedTuple

from policies.types import Choice, Policy, Profile, QueueView, Wait, Waiting
from superserve.edf_queue import WaitingView, as_waiting
from superserve.messages import Query
from superserve.model_queue import FloorTable, ModelQueue
from superserve.slowdown import Slowdown
from superserve.worker_table import Worker, WorkersView

MakePolicy = Callable[[Profile], Policy]

_SHORTEST_WAIT = 1e-6  # seconds


class PolicyError(ValueError):
    """A policy raised, or chose what its profile does not have.

    The event that met it has happened nevertheless: nothing is lost, and the commands decided so
    far come with those of the next event. Give the scheduler another policy and call ``tick``.
    """


class Batch(NamedTuple):
    """Queries taken off the queue: those to run with ``subnet``, and those given up."""

    subnet: str
    queries: tuple[Query, ...]
    shed: tuple[Query, ...] = ()


class Pairing:
    """The profile, the policy that reads it, and the queue that both are about.

    A worker is offered only what it could still serve in time, so that a query which needs a
    faster device, or a worker that is done sooner, neither is wasted here nor blocks those behind.
    """

    __slots__ = ("_admit", "_alone", "_compensate", "_floors", "_on_tick", "_policy", "_reserve",
                 "_tick_period", "capacity", "profile", "queue", "slowdown", "tick_due",
                 "wait_until", "workers")  # fmt: skip

    def __init__(
        self,
        queue: ModelQueue,
        profile: Profile,
        make_policy: MakePolicy,
        *,
        alone: bool,
        reserve: float = 0.0,
        compensate: bool = False,
    ) -> None:
        """``alone``: no other device type serves this model. The others: see `Scheduler`."""
        self._reserve, self._compensate = reserve, compensate
        self.slowdown = Slowdown()  # of batches here
        self.queue = queue
        self.profile = profile
        self.workers: Sequence[Worker] = ()  # all that serve the model, of any device type
        self.capacity = 1.0  # how many workers of this device type they amount to
        self.wait_until = inf  # the policy asked to be asked again at this time
        self._alone = alone
        self._floors = FloorTable(profile)
        self.adopt(make_policy(profile))

    def adopt(self, policy: Policy) -> None:
        """Decide by this policy from now on; ``ValueError`` if it ticks without a period."""
        on_tick: Callable[[QueueView, float], None] | None = getattr(policy, "on_tick", None)
        period: float = getattr(policy, "tick_period", 0.0)
        if on_tick is not None and not period > 0:
            raise ValueError(f"{policy!r} has on_tick and needs a positive tick_period")
        self._policy = policy
        self.wait_until = inf
        self._admit = getattr(policy, "admit", None)
        self._on_tick = on_tick
        self._tick_period = period
        self.tick_due = -inf if on_tick is not None else inf  # the first tick shows the time

    @property
    def ticks(self) -> bool:
        """Whether the policy wants to be called from time to time."""
        return self._on_tick is not None

    def admits(self, query: Query, now: float) -> bool:
        """What the policy's optional ``admit`` says."""
        if self._admit is None:
            return True
        try:
            return bool(self._admit(self._view(now, now), as_waiting(query)))
        except Exception as error:
            raise PolicyError(f"{self._policy!r} failed in admit: {error!r}") from error

    def tick(self, now: float) -> None:
        """Run the policy's ``on_tick`` if it is due."""
        if self._on_tick is None or now < self.tick_due:
            return
        self.tick_due = now + self._tick_period
        try:
            self._on_tick(self._view(now, now), now)
        except Exception as error:
            raise PolicyError(f"{self._policy!r} failed in on_tick: {error!r}") from error

    def next_batch(self, now: float, start: float, worker: str) -> Batch | None:
        """Take the policy's batch, to begin at ``start``, off the queue; None to wait."""
        view = self._view(now, start, worker)
        if not view.waiting:
            return None
        kept_back = self._kept_back(start)
        try:
            choice = self._policy.choose(view, start + kept_back)
        except Exception as error:
            raise PolicyError(f"{self._policy!r} failed in choose: {error!r}") from error
        if isinstance(choice, Wait):
            policys_now = start + kept_back
            if not choice.until > policys_now:
                raise PolicyError(
                    f"{self._policy!r} chose {choice}, which is over at {policys_now}"
                )
            # On our clock a moment may round to none, and time must go on.
            until = max(choice.until - kept_back, start + _SHORTEST_WAIT)
            self.wait_until = min(self.wait_until, until)
            return None
        return None if choice is None else self._take(self._checked(choice), now, start)

    def _kept_back(self, start: float) -> float:
        """Seconds of the head's slack at ``start`` that the policy may not spend."""
        if not self._reserve and not self._compensate:
            return 0.0
        head = self.queue.edf[0]
        kept = self._reserve * (head.deadline - head.arrival)
        if self._compensate:  # what is left lasts for less: batches will take longer than planned
            kept += max(0.0, head.deadline - start - kept) * (1.0 - 1.0 / self.slowdown.high)
        return kept

    def next_late_batch(self) -> Batch | None:
        """Take the longest late off the queue, for the smallest subnet that the first allows."""
        best = self._floors.best
        head = next((q for q in self.queue.late.values() if q.min_accuracy <= best), None)
        if head is None:
            return None
        subnet = self._floors.subnet(head.min_accuracy)
        accuracy = self.profile.accuracy(subnet)
        return Batch(subnet, self.queue.take_late(self.profile.max_batch, accuracy))

    def _view(self, now: float, start: float, worker: str = "") -> QueueView:
        queue = self.queue
        waiting: Sequence[Waiting]
        if self._takes_all(now, start):
            waiting = WaitingView(queue.edf)
        elif not queue.has_floors:
            waiting = WaitingView(queue.edf, self._too_urgent(start))
        else:
            waiting = tuple(map(as_waiting, self._in_time(now, start)))
        load = queue.statistics
        return QueueView(
            waiting,
            WorkersView(self.workers, now),
            load.rate(now),
            load.dispersion(now),
            worker,
            self.capacity,
            load.slo,
            self.slowdown.mean,
            1.0 if self._compensate else self.slowdown.high,
        )

    def _takes_all(self, now: float, start: float) -> bool:
        """Whether being too late here means being hopeless, which the queue sees to itself."""
        return self._alone and start <= now

    def _too_urgent(self, start: float) -> int:
        """How many at the head no subnet could serve in time from ``start``, floors aside."""
        return self.queue.edf.rank(start + self._floors.latency(0.0))

    def _in_time(self, now: float, start: float) -> Iterator[Query]:
        """Those that some subnet could serve in time from ``start``, in EDF order."""
        if self._takes_all(now, start):
            return iter(self.queue.edf)
        latency = self._floors.latency
        return (q for q in self.queue.edf if start + latency(q.min_accuracy) <= q.deadline)

    def _checked(self, choice: Choice) -> Choice:
        if not isinstance(choice, Choice):
            raise PolicyError(f"{self._policy!r} answered {choice!r}, which is no Choice")
        try:
            self.profile.latency(choice.subnet, choice.batch_size)
        except (KeyError, ValueError) as error:
            raise PolicyError(f"{self._policy!r} chose {choice}: {error.args[0]}") from error
        return choice

    def _take(self, choice: Choice, now: float, start: float) -> Batch:
        """Shed; let the head's floor raise the subnet; let those join whose floor is met."""
        edf, profile, subnet, size = self.queue.edf, self.profile, choice.subnet, choice.batch_size
        if not self.queue.has_floors:
            skip = 0 if self._takes_all(now, start) else self._too_urgent(start)
            shed = edf.take(choice.shed, skip) if choice.shed else ()
            return Batch(subnet, edf.take(size, skip), shed)
        offered = self._in_time(now, start)
        shed = tuple(islice(offered, choice.shed))
        head = next(offered, None)
        queries: tuple[Query, ...] = ()
        if head is not None:
            if head.min_accuracy > profile.accuracy(subnet):
                subnet = self._floors.subnet(head.min_accuracy)
                # The raised subnet is slower: a smaller batch may still meet the head's deadline.
                size = min(size, max(1, profile.largest_batch(subnet, head.deadline - start)))
            accuracy = profile.accuracy(subnet)
            joining = (query for query in offered if query.min_accuracy <= accuracy)
            queries = (head, *islice(joining, size - 1))
        for query in shed + queries:
            edf.remove(query.id)
        return Batch(subnet, queries, shed)
