"""The clock-free state machine between queries and workers: events in, commands out."""

from collections.abc import Mapping
from math import inf, nextafter
from typing import Literal

from policies.types import Profile
from superserve.messages import Command, Complete, Dispatch, Drop, DropReason, Fail, Query, Wake
from superserve.model_queue import ModelQueue
from superserve.pairing import Batch, MakePolicy, Pairing, PolicyError
from superserve.worker_table import Worker, WorkerTable


class Scheduler:
    """Decides which queries run on which worker with which subnet; holds no clock and does no I/O.

    The methods down to `tick` are events: ``now`` (seconds, monotonic) says when it happened, and
    the commands that come back are to be carried out in order. Every accepted query gets exactly
    one of `Complete`, `Fail` and `Drop`. A worker with a credit is offered the model whose head is
    most urgent first; the policy of that model and device type chooses, or passes to the next
    model. Floors, credits and expiry are kept here, whatever a policy says; what it must not do
    raises `PolicyError`.

    ``profiles`` maps (model, device type) to the latencies to plan with. With ``late="drop"`` a
    hopeless query (see `ModelQueue`) is dropped; with ``"serve"`` it waits until none but hopeless
    ones are left, and then runs on the smallest subnet that meets its floor, in the largest batch.
    A query that finds ``max_waiting`` others waiting is dropped. ``reserve`` is the share of the
    head's budget (deadline less arrival) that policies do not get to see: a policy that fills the
    slack to the brim is late whenever a batch takes longer than planned. What is hopeless is
    judged without it. Policies see how much longer than planned batches take (see `Slowdown`) and
    may make of it what they want; with ``compensate`` the head's slack is shortened by it instead,
    for policies that believe their profile.
    """

    def __init__(
        self,
        profiles: Mapping[tuple[str, str], Profile],
        make_policy: MakePolicy,
        *,
        late: Literal["drop", "serve"] = "drop",
        max_waiting: int | None = None,
        reserve: float = 0.0,
        compensate: bool = False,
    ) -> None:
        if not profiles:
            raise ValueError("a scheduler needs at least one profile")
        if late not in {"drop", "serve"}:
            raise ValueError(f"late must be drop or serve, not {late!r}")
        if not 0.0 <= reserve < 1.0:
            raise ValueError(f"reserve must be a share from 0 to below 1, not {reserve}")
        by_model: dict[str, list[Profile]] = {}
        for (model, _), profile in profiles.items():
            by_model.setdefault(model, []).append(profile)
        self._queues = {model: ModelQueue(model, its) for model, its in by_model.items()}
        self._pairings = {
            key: Pairing(
                self._queues[key[0]],
                profile,
                make_policy,
                alone=len(by_model[key[0]]) == 1,
                reserve=reserve,
                compensate=compensate,
            )
            for key, profile in profiles.items()
        }
        self._by_device: dict[str, list[Pairing]] = {}
        for (_, device_type), pairing in self._pairings.items():
            self._by_device.setdefault(device_type, []).append(pairing)
        self._ticking = [pairing for pairing in self._pairings.values() if pairing.ticks]
        self._connected: dict[str, list[Pairing]] = {}  # of a model, where a worker can serve it
        self._workers = WorkerTable()
        self._serve_late = late == "serve"
        self._max_waiting = max_waiting
        self._next_dispatch = 0
        self._lost_once: set[int] = set()  # ids of queries, not yet answered
        self._wake_at = inf  # of the `Wake` that stands
        self._settled = False  # whether the last event was dealt with to its end
        self._commands: list[Command] = []

    def __repr__(self) -> str:
        idle = self._workers.idle
        return (
            f"<Scheduler {self.waiting} waiting, {self.in_flight} in flight"
            f" | workers: {len(self._workers) - idle} busy, {idle} idle>"
        )

    @property
    def waiting(self) -> int:
        """How many queries wait, hopeless ones included."""
        return sum(map(len, self._queues.values()))

    @property
    def in_flight(self) -> int:
        """How many queries the workers hold."""
        return self._workers.in_flight

    def arrive(self, query: Query, now: float) -> list[Command]:
        """A query came; it may be dropped at once. Its id is unique among the unanswered.

        Raises ``ValueError``, and changes nothing, for an unknown model, for a floor above every
        subnet and for the id of a query that waits.
        """
        queue = self._queues.get(query.model)
        if queue is None:
            raise ValueError(f"no model {query.model!r}; there are {', '.join(self._queues)}")
        if query.min_accuracy > queue.best:
            raise ValueError(f"no subnet of {query.model!r} reaches {query.min_accuracy} percent")
        if query.id in queue:
            raise ValueError(f"query {query.id} already waits")
        queue.statistics.arrive(now, query.deadline - query.arrival)
        try:
            reason = self._refusal(query, now)
        except PolicyError:
            queue.push(query)  # a policy that cannot say no has not said it
            raise
        if reason is not None:
            self._drop(query, reason, now)
            return self._settle(now)
        queue.push(query)
        alarmed = now < self._wake_at <= queue.expiry(query)
        if alarmed and self._settled and not self._workers.has_credit:
            return []  # nobody could take it, and the alarm that stands rings before it expires
        return self._settle(now)

    def cancel(self, query_id: int, now: float) -> list[Command]:
        """The client went away. A query in flight completes with its batch, unchanged."""
        for queue in self._queues.values():
            query = queue.remove(query_id)
            if query is not None:
                self._drop(query, DropReason.CANCELLED, now)
                return self._settle(now)
        return []

    def worker_joined(
        self, worker: str, device_type: str, now: float, credits: int = 1
    ) -> list[Command]:
        """A worker is ready to hold ``credits`` dispatches; it holds none yet.

        A name that joins again has restarted: what it held is lost. Raises ``ValueError`` for a
        device type without a profile.
        """
        if credits < 1:
            raise ValueError(f"worker {worker} needs at least one credit, not {credits}")
        if device_type not in self._by_device:
            raise ValueError(f"no profile for the device type {device_type!r} of worker {worker}")
        self._forget(worker, now)
        self._workers.join(worker, device_type, credits)
        self._workers_changed()
        return self._settle(now)

    def worker_free(self, worker: str, dispatch_id: int, now: float) -> list[Command]:
        """A result came. One of a dispatch that this worker does not hold changes nothing."""
        return self._ended(Complete, worker, dispatch_id, now)

    def dispatch_failed(self, worker: str, dispatch_id: int, now: float) -> list[Command]:
        """The worker lives but could not run this dispatch: its queries fail."""
        return self._ended(Fail, worker, dispatch_id, now)

    def worker_lost(self, worker: str, now: float) -> list[Command]:
        """The worker died. What it held waits again, once, if the deadline still allows it."""
        if worker not in self._workers:
            return []
        self._forget(worker, now)
        self._workers_changed()
        return self._settle(now)

    def tick(self, now: float) -> list[Command]:
        """The time of a `Wake` has come. Harmless at any other time."""
        self._wake_at = inf  # its timer is spent, even if it rang a little early
        for pairing in self._ticking:
            pairing.tick(now)
        return self._settle(now)

    def set_policy(self, make_policy: MakePolicy) -> None:
        """Decide by another policy from the next event on; if one cannot be built, keep the old."""
        built = [make_policy(pairing.profile) for pairing in self._pairings.values()]
        for pairing, policy in zip(self._pairings.values(), built, strict=True):
            pairing.adopt(policy)
        self._ticking = [pairing for pairing in self._pairings.values() if pairing.ticks]
        self._settled = False  # the new one may tick

    def overdue(self, now: float, grace: float) -> list[str]:
        """Workers that still hold work ``grace`` seconds after all of it should have been done."""
        return self._workers.overdue(now - grace)

    def drain_time(self, now: float, model: str) -> float:
        """Seconds until what waits for ``model`` could be done: smallest subnet, largest batch.

        Counts from when the first worker is done with what it holds. Infinite while no worker
        serves the model; ``KeyError`` for an unknown one.
        """
        waiting = len(self._queues[model])
        rate, begin = 0.0, inf
        for worker in self._workers:
            pairing = self._pairings.get((model, worker.device_type))
            if pairing is not None:
                rate += pairing.profile.peak_rate
                begin = min(begin, worker.residual(now))
        return begin + waiting / rate if rate else inf

    def _settle(self, now: float) -> list[Command]:
        """After every event: drop, assign, set the alarm; then hand over all that was decided."""
        self._settled = False
        self._expire(now)
        self._assign(now)
        self._arm(now)
        self._settled = True
        commands, self._commands = self._commands, []
        return commands

    def _refusal(self, query: Query, now: float) -> DropReason | None:
        connected = self._connected.get(query.model)
        if not connected:
            return DropReason.NO_WORKER
        if self._max_waiting is not None and self.waiting >= self._max_waiting:
            return DropReason.FULL
        for pairing in connected:
            if pairing.admits(query, now):
                return None
        return DropReason.REFUSED

    def _drop(self, query: Query, reason: DropReason, now: float) -> None:
        self._lost_once.discard(query.id)
        self._commands.append(Drop(query, reason, now))

    def _expire(self, now: float) -> None:
        for queue in self._queues.values():
            if now <= queue.next_expiry():
                continue
            for query in queue.take_hopeless(now):
                if self._serve_late:
                    queue.late[query.id] = query
                else:
                    self._drop(query, DropReason.EXPIRED, now)

    def _assign(self, now: float) -> None:
        """Offer one dispatch to each worker with a credit, round after round, until none takes."""
        for pairing in self._pairings.values():
            pairing.wait_until = inf  # whoever still waits says so again
        taken = True
        while taken and self._workers.has_credit and self.waiting:
            taken = False
            for worker in self._workers.candidates():
                taken |= self._offer(worker, now)

    def _offer(self, worker: Worker, now: float) -> bool:
        """Whether this worker got a dispatch."""
        start = now + worker.residual(now)
        pairings = [p for p in self._by_device[worker.device_type] if p.queue.edf]
        if len(pairings) > 1:
            pairings.sort(key=lambda pairing: pairing.queue.edf.head_deadline)
        for pairing in pairings:
            batch = pairing.next_batch(now, start, worker.name)
            if batch is not None and self._dispatch(worker, pairing, batch, now, start):
                return True
        if not pairings and self._serve_late:
            late = [p for p in self._by_device[worker.device_type] if p.queue.late]
            for pairing in sorted(late, key=lambda pairing: pairing.queue.late_head.deadline):
                batch = pairing.next_late_batch()
                if batch is not None:
                    return self._dispatch(worker, pairing, batch, now, start)
        return False

    def _dispatch(
        self, worker: Worker, pairing: Pairing, batch: Batch, now: float, start: float
    ) -> bool:
        for query in batch.shed:
            self._drop(query, DropReason.SHED, now)
        if not batch.queries:
            return False
        profile = pairing.profile
        finish = start + profile.latency(batch.subnet, len(batch.queries))
        model, accuracy = pairing.queue.model, profile.accuracy(batch.subnet)
        number, self._next_dispatch = self._next_dispatch, self._next_dispatch + 1
        dispatch = Dispatch(
            number, worker.name, model, batch.subnet, accuracy, batch.queries, start, finish
        )
        self._workers.begin(worker, dispatch)
        self._commands.append(dispatch)
        return True

    def _ended(
        self, outcome: type[Complete | Fail], worker: str, dispatch_id: int, now: float
    ) -> list[Command]:
        ended = self._workers.end(worker, dispatch_id, now)
        if ended is None:
            return []
        dispatch = ended.dispatch
        if outcome is Complete:
            slowdown = self._pairings[dispatch.model, ended.device_type].slowdown
            slowdown.record(dispatch.finish - dispatch.start, ended.took)
        if self._lost_once:
            self._lost_once.difference_update(query.id for query in dispatch.queries)
        self._commands.append(outcome(dispatch, now))
        return self._settle(now)

    def _forget(self, name: str, now: float) -> None:
        worker = self._workers.lose(name)
        for dispatch in worker.in_flight.values() if worker is not None else ():
            queue = self._queues[dispatch.model]
            for query in dispatch.queries:
                in_time = self._serve_late or now <= queue.expiry(query)
                if in_time and query.id not in self._lost_once:
                    self._lost_once.add(query.id)
                    queue.push(query)
                else:
                    self._drop(query, DropReason.WORKER_LOST, now)

    def _workers_changed(self) -> None:
        self._connected.clear()
        device_types = {worker.device_type for worker in self._workers}
        for (model, device_type), pairing in self._pairings.items():
            pairing.workers = [w for w in self._workers if (model, w.device_type) in self._pairings]
            rates = (
                self._pairings[model, w.device_type].profile.peak_rate for w in pairing.workers
            )
            pairing.capacity = sum(rates) / pairing.profile.peak_rate
            if device_type in device_types:
                self._connected.setdefault(model, []).append(pairing)

    def _arm(self, now: float) -> None:
        """Ask to be woken when the next query becomes hopeless or the next policy's tick is due."""
        at = inf
        for queue in self._queues.values():
            at = min(at, queue.next_expiry())
        for pairing in self._ticking:
            at = min(at, max(pairing.tick_due, now))
        for pairing in self._pairings.values():
            at = min(at, pairing.wait_until)
        if now >= self._wake_at:
            self._wake_at = inf  # this event came first and has done what the tick would have done
        if at < self._wake_at:
            at = nextafter(at, inf)  # at its expiry time itself a query is not hopeless yet
            if at < self._wake_at:
                self._wake_at = at
                self._commands.append(Wake(at))
