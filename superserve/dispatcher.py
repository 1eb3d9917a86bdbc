"""The only code that both awaits and acts: feeds the scheduler events, carries out its commands.

All but `start`, `stop` and the wait for an answer is synchronous code in one event loop, so that
the scheduler, the slots and the unanswered queries change together.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from superserve import outcomes
from superserve.alarm import Alarm
from superserve.errors import NotReady, SuperServeError
from superserve.guarded import MakePolicy, guarded
from superserve.messages import (
    Answer,
    BatchResult,
    Command,
    Complete,
    Dispatch,
    Drop,
    Fail,
    ModelInfo,
    Query,
    Wake,
    WorkerInfo,
)
from superserve.metrics import Metrics
from superserve.pool import Done, Failed, Joined, Lost, Pool, PoolEvent
from superserve.scheduler import Scheduler
from superserve.slots import Shape
from superserve.worker_board import WorkerBoard, WorkerStatus

# Called with every event that the scheduler is given: its name, its arguments, what came back.
Recorder = Callable[[str, tuple[Any, ...], list[Command]], None]
# Called with the time, what was commanded, and the result that came with it.
Note = Callable[[float, list[Command], BatchResult | None], None]

log = logging.getLogger(__name__)


class _Unanswered(NamedTuple):
    """A query that waits or runs; its client may be gone, and its outcome then cancelled."""

    slot: int
    top_k: int
    # An error is a value here: one that nobody awaits any more is no warning.
    outcome: "asyncio.Future[Answer | SuperServeError]"


class Dispatcher:
    """Between the clients' coroutines, the scheduler and the pool.

    Every `submit` gets exactly one answer or error, and its slot is freed exactly once: after the
    answer, or after the worker that could read it is known to be dead.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        pool: Pool,
        *,
        make_policy: MakePolicy,
        policy_name: str,
        clock: Callable[[], float] = time.monotonic,
        hang_grace: float = 10.0,
        recorder: Recorder | None = None,
        note: Note | None = None,
    ) -> None:
        """``make_policy`` takes the place of what the scheduler was built with, so that every
        policy is `guarded`. A worker is killed as hanging when it still holds work ``hang_grace``
        seconds after all of it should have been done.
        """
        scheduler.set_policy(guarded(make_policy))
        self.clock = clock
        self.metrics = Metrics()
        self.models: dict[str, ModelInfo] = {}
        self.policy_name = policy_name
        self._scheduler = scheduler
        self._pool = pool
        self._hang_grace = hang_grace
        self._recorder = recorder
        self._note = note
        self._credits = 1
        self._next_query = 0
        self._unanswered: dict[int, _Unanswered] = {}
        self._board = WorkerBoard()
        self._abandoned: set[str] = set()
        self._state: Literal["new", "running", "draining", "stopped"] = "new"

    def __repr__(self) -> str:
        return f"<Dispatcher {self._state}, {len(self._unanswered)} unanswered | {self._board!r}>"

    @property
    def ready(self) -> bool:
        """Whether a query that comes now can be served."""
        return self._state == "running" and self._board.connected > 0

    @property
    def workers(self) -> Sequence[WorkerStatus]:
        """Every worker that ever joined, dead ones too, in the order of joining."""
        return list(self._board)

    async def start(self, workers: Sequence[WorkerInfo], credits: int) -> None:
        """Serve with the workers that `Pool.start` returned, each holding ``credits`` dispatches.

        From here on the pool is the dispatcher's, and `stop` stops it.
        """
        assert self._state == "new", "a dispatcher starts once"
        self._state = "running"
        self._loop = asyncio.get_running_loop()
        self._empty = asyncio.Event()  # while draining: no slot is taken
        self._alarm = Alarm(self.clock, self._tick)
        self._watchdog = Alarm(self.clock, self._watch)
        self._credits = credits
        for info in workers:
            self._join(info)
        self._pool.subscribe(self._on_event)
        self._watch()

    async def stop(self, drain: float) -> None:
        """Refuse new images, let those that have a slot finish for up to ``drain`` seconds, answer
        the rest with `NotReady`, and stop the pool. Stopping again does nothing.
        """
        if self._state != "running":
            return
        self._state = "draining"
        if not self._pool.slots.taken:
            self._empty.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(drain):
                await self._empty.wait()
        self._state = "stopped"
        self._alarm.cancel()
        self._watchdog.cancel()
        for unanswered in self._unanswered.values():
            _tell(unanswered, outcomes.shutting_down())
        await self._pool.stop()
        for query_id in list(self._unanswered):
            self._forget(query_id)

    def set_policy(self, make_policy: MakePolicy, name: str) -> None:
        """Decide by another policy from now on; if ``make_policy`` raises, the old one stays."""
        self._scheduler.set_policy(guarded(make_policy))
        self.policy_name = name
        if self._state in {"running", "draining"}:
            self._tick()  # the old one may have chosen to wait

    def reserve(self) -> int:
        """A slot for one image, to be released or submitted.

        Raises `NotReady` without a worker, `Overloaded` when all slots are taken.
        """
        if self._state != "running":
            raise outcomes.shutting_down()
        if not self._board.connected:
            raise outcomes.no_worker()
        slot = self._pool.slots.reserve()
        if slot is None:
            raise outcomes.full(max(map(self._drain_time, self.models)))
        return slot

    def release(self, slot: int) -> None:
        """Give back a slot that was never submitted."""
        self._pool.slots.release(slot)
        if self._state == "draining" and not self._pool.slots.taken:
            self._empty.set()

    def slot_pixels(self, slot: int, shape: Shape) -> npt.NDArray[np.uint8]:
        """The slot's memory as a writable uint8 [H, W, C]; ``ValueError`` if it is too small."""
        return self._pool.slots.pixels(slot, shape)

    def submit(
        self,
        slot: int,
        *,
        model: str,
        shape: Shape,
        arrival: float,
        slo: float,
        min_accuracy: float = 0.0,
        priority: int = 0,
        top_k: int = 5,
    ) -> Coroutine[Any, Any, Answer]:
        """Have the image in this slot answered no later than ``slo`` seconds after ``arrival``.

        When this returns or raises, the slot is no longer the caller's. The coroutine only waits:
        it returns the answer, or raises `DeadlineExceeded`, `Shed`, `Overloaded`, `NotReady`,
        `WorkerLost` or `InternalError`; cancelling it gives the query up. The call itself raises
        `NotReady` after `stop`, and ``ValueError`` for an unknown model, a shape that is not the
        model's and a floor above every subnet.
        """
        query_id, self._next_query = self._next_query, self._next_query + 1
        try:
            self._check(model, shape)
            query = Query(query_id, arrival, arrival + slo, model, priority, min_accuracy)
            now = self.clock()
            commands = self._scheduler.arrive(query, now)
        except (NotReady, ValueError):
            self.release(slot)
            raise
        unanswered = _Unanswered(slot, top_k, self._loop.create_future())
        self._unanswered[query_id] = unanswered
        self.metrics.arrive()
        self._act("arrive", (query, now), commands)
        return self._wait(query_id, unanswered.outcome)

    def _check(self, model: str, shape: Shape) -> None:
        if self._state not in {"running", "draining"}:
            raise outcomes.shutting_down()
        info = self.models.get(model)
        if info is None or info.preprocessing.shape != shape:
            raise ValueError(f"no model {model!r} takes images of shape {shape}")

    def _drain_time(self, model: str) -> float:
        return self._scheduler.drain_time(self.clock(), model)

    async def _wait(
        self, query_id: int, outcome: "asyncio.Future[Answer | SuperServeError]"
    ) -> Answer:
        try:
            result = await outcome
        except asyncio.CancelledError:
            if query_id in self._unanswered and self._state != "stopped":
                now = self.clock()
                self._act("cancel", (query_id, now), self._scheduler.cancel(query_id, now))
            raise
        if isinstance(result, SuperServeError):
            raise result
        return result

    # Events from the pool and the timers.

    def _on_event(self, event: PoolEvent) -> None:
        if self._state == "stopped":
            return
        now = self.clock()
        match event:
            case Done(worker, result):
                if result.loading:
                    self.metrics.loaded(result.loading)
                done = (worker, result.dispatch_id, now)
                self._act("worker_free", done, self._scheduler.worker_free(*done), result)
            case Failed(worker, dispatch_id, message):
                log.error("worker %s could not run a batch: %s", worker, message)
                failed = (worker, dispatch_id, now)
                self._act("dispatch_failed", failed, self._scheduler.dispatch_failed(*failed))
            case Lost(worker, reason):
                self._board.lost(worker, reason)
                self._abandoned.discard(worker)
                self._act("worker_lost", (worker, now), self._scheduler.worker_lost(worker, now))
            case Joined(info):
                self._join(info)

    def _join(self, info: WorkerInfo) -> None:
        self._board.joined(info)
        self.models |= {model.name: model for model in info.models}
        joined = (info.name, info.device_type, self.clock(), self._credits)
        self._act("worker_joined", joined, self._scheduler.worker_joined(*joined))

    def _tick(self) -> None:
        now = self.clock()
        self._act("tick", (now,), self._scheduler.tick(now))

    def _watch(self) -> None:
        """Kill workers that hang. Their loss, once they are dead, is an event like any other."""
        now = self.clock()
        for worker in self._scheduler.overdue(now, self._hang_grace):
            if worker not in self._abandoned:
                log.error("worker %s hangs and is killed", worker)
                self._abandoned.add(worker)
                self._pool.abandon(worker)
        self._watchdog.set(now + self._hang_grace / 4)

    # Commands of the scheduler.

    def _act(
        self,
        event: str,
        arguments: tuple[Any, ...],
        commands: list[Command],
        result: BatchResult | None = None,
    ) -> None:
        """Carry out what the scheduler answered to one event; ``result`` came with the event."""
        if self._recorder is not None:
            self._recorder(event, arguments, commands)
        if self._note is not None and commands:
            self._note(self.clock(), commands, result)
        self.metrics.observe(commands)
        for command in commands:
            match command:
                case Dispatch():
                    self._send(command)
                case Complete():
                    assert result is not None, "a dispatch completes when its result has come"
                    self._complete(command, result)
                case Wake(at):
                    self._alarm.set(at)
                case Drop(query):
                    _tell(self._forget(query.id), outcomes.error(command, self._drain_time))
                case Fail(dispatch):
                    self._board.returned(dispatch.worker)
                    for query in dispatch.queries:
                        _tell(self._forget(query.id), outcomes.batch_failed())

    def _send(self, dispatch: Dispatch) -> None:
        self._board.sent(dispatch.worker)
        riding = [self._unanswered[query.id] for query in dispatch.queries]
        top_k = max(unanswered.top_k for unanswered in riding)
        self._pool.send(dispatch, [unanswered.slot for unanswered in riding], top_k)

    def _complete(self, complete: Complete, result: BatchResult) -> None:
        self._board.returned(complete.dispatch.worker)
        for query, predictions in zip(complete.dispatch.queries, result.predictions, strict=True):
            unanswered = self._forget(query.id)
            best = predictions[: unanswered.top_k]
            _tell(unanswered, outcomes.answer(query, complete, best, result.inference))

    def _forget(self, query_id: int) -> _Unanswered:
        """Free the slot: no worker reads it any more."""
        unanswered = self._unanswered.pop(query_id)
        self.release(unanswered.slot)
        return unanswered


def _tell(unanswered: _Unanswered, outcome: Answer | SuperServeError) -> None:
    if not unanswered.outcome.done():  # else the client is gone
        unanswered.outcome.set_result(outcome)
