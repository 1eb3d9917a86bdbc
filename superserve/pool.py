"""What a pool of workers is, and the default one: a process per device, restarted when it dies."""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from superserve.engine_types import EngineResult
from superserve.errors import ConfigError
from superserve.messages import BatchResult, Dispatch, Prediction, WorkerInfo
from superserve.slots import Slots, anonymous_file
from superserve.wire import Attach, Result, Run, RunFailed
from superserve.worker import WorkerSpec
from superserve.worker_process import WorkerProcess

# Seconds before a dead worker is started again; doubled each time that it dies without an answer.
FIRST_RESTART_DELAY = 0.1
LAST_RESTART_DELAY = 5.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Joined:
    """A worker that was lost is back, and holds nothing."""

    info: WorkerInfo


@dataclass(frozen=True, slots=True)
class Done:
    """A batch is answered."""

    worker: str
    result: BatchResult


@dataclass(frozen=True, slots=True)
class Failed:
    """A batch could not be run; the worker lives."""

    worker: str
    dispatch_id: int
    message: str


@dataclass(frozen=True, slots=True)
class Lost:
    """A worker is dead: it reads no slot and answers nothing any more."""

    worker: str
    reason: str


PoolEvent = Joined | Done | Failed | Lost


class Pool(Protocol):
    """Workers, wherever they are. All methods are called in one event loop."""

    @property
    def slots(self) -> Slots:
        """Where images are put for the workers; there once `start` has returned."""
        ...

    async def start(self) -> tuple[WorkerInfo, ...]:
        """Return when every worker is ready; `ConfigError` says why one cannot start."""
        ...

    def subscribe(self, deliver: Callable[[PoolEvent], None]) -> None:
        """Hand over the events from now on, and at once those that came since `start`.

        ``deliver`` is never called from within `send` or `abandon`.
        """
        ...

    def send(self, dispatch: Dispatch, slots: Sequence[int], top_k: int) -> None:
        """Run the images in these slots. If the worker is dead, its `Lost` is under way."""
        ...

    def abandon(self, worker: str) -> None:
        """Kill a worker that hangs, and replace it: `Lost` and later `Joined` follow."""
        ...

    async def stop(self) -> None:
        """End all workers; none reads a slot afterwards. Stopping again does nothing."""
        ...


class Outbox:
    """Events on their way to the one subscriber; those that come before it does, wait."""

    __slots__ = ("_kept", "put")

    def __init__(self) -> None:
        self._kept: list[PoolEvent] = []
        self.put: Callable[[PoolEvent], None] = self._kept.append

    def subscribe(self, deliver: Callable[[PoolEvent], None]) -> None:
        self.put = deliver
        for event in self._kept:
            deliver(event)
        self._kept.clear()


def slot_bytes(workers: Sequence[WorkerInfo]) -> int:
    """What the largest image of any model takes."""
    return max(prod(model.preprocessing.shape) for info in workers for model in info.models)


def batch_result(dispatch_id: int, result: EngineResult) -> BatchResult:
    """An engine's arrays as plain data."""
    rows = zip(result.indices.tolist(), result.scores.tolist(), strict=True)
    predictions = tuple(tuple(map(Prediction, indices, scores)) for indices, scores in rows)
    return BatchResult(dispatch_id, predictions, result.seconds, result.loading)


def on_cpu(spec: WorkerSpec) -> bool:
    """Whether the worker's device is a CPU."""
    return spec.spec.device.startswith("cpu")


def loads_models(spec: WorkerSpec) -> bool:
    """Whether the worker loads extracted subnets from files."""
    return spec.spec.worker == "extracted"


def sharing(spec: WorkerSpec, folder: Path) -> WorkerSpec:
    """A worker that shares its weights' memory with the others, if it can, or its models' files."""
    if loads_models(spec):
        return replace(spec, spec=replace(spec.spec, model_folder=str(folder / "models")))
    if not on_cpu(spec):
        return spec
    return replace(spec, spec=replace(spec.spec, arena_file=str(folder / "arena")))


class ProcessPool:
    """One worker process per spec. A dead one is started again, with back-off, for ever.

    At start-up there is no second try: a wrong checkpoint stays wrong.
    """

    slots: Slots

    def __init__(
        self, specs: Sequence[WorkerSpec], *, slots: int, start_timeout: float = 120.0
    ) -> None:
        """``start_timeout``: seconds in which a worker must become ready."""
        if len({spec.name for spec in specs}) < len(specs) or not specs:
            raise ValueError("a pool needs workers, each with its own name")
        self._specs = tuple(specs)
        self._folder: TemporaryDirectory[str] | None = None
        self._slot_count = slots
        self._start_timeout = start_timeout
        self._outbox = Outbox()
        self._processes: dict[str, WorkerProcess] = {}  # alive, starting, or just dead
        self._live: dict[str, WorkerProcess] = {}  # ready
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._slots_fd = -1
        self._attach: Attach | None = None  # known when all workers have said what they serve

    def __repr__(self) -> str:
        return f"<ProcessPool {len(self._live)} of {len(self._specs)} workers live>"

    async def start(self) -> tuple[WorkerInfo, ...]:
        loop = asyncio.get_running_loop()
        if any(map(loads_models, self._specs)) or sum(map(on_cpu, self._specs)) > 1:
            self._folder = TemporaryDirectory(prefix="superserve-")
            self._specs = tuple(sharing(spec, Path(self._folder.name)) for spec in self._specs)
        self._slots_fd = anonymous_file()
        firsts: list[asyncio.Future[WorkerInfo]] = [loop.create_future() for _ in self._specs]
        self._tasks = [
            loop.create_task(self._supervise(spec, first), name=f"worker {spec.name}")
            for spec, first in zip(self._specs, firsts, strict=True)
        ]
        try:
            infos = tuple(await asyncio.gather(*firsts))
        except BaseException:
            await self.stop()
            raise
        self.slots = Slots(self._slot_count, slot_bytes(infos), self._slots_fd)
        self._attach = Attach(self.slots.count, self.slots.slot_bytes)
        for process in self._live.values():
            process.send(self._attach)
        return infos

    def subscribe(self, deliver: Callable[[PoolEvent], None]) -> None:
        self._outbox.subscribe(deliver)

    def send(self, dispatch: Dispatch, slots: Sequence[int], top_k: int) -> None:
        process = self._live.get(dispatch.worker)
        if process is not None:
            process.send(Run(dispatch.id, dispatch.model, dispatch.subnet, top_k, tuple(slots)))

    def abandon(self, worker: str) -> None:
        process = self._live.get(worker)
        if process is not None:
            process.kill()

    async def stop(self) -> None:
        self._stopping.set()
        for process in self._processes.values():
            process.hang_up()
        tasks, self._tasks = self._tasks, []
        await asyncio.gather(*tasks)
        if self._slots_fd >= 0:
            os.close(self._slots_fd)
            self._slots_fd = -1
        if self._folder is not None:
            self._folder.cleanup()

    async def _supervise(self, spec: WorkerSpec, first: asyncio.Future[WorkerInfo]) -> None:
        """Keep one worker alive until the pool stops. ``first`` becomes its first life, or why
        there is none.
        """
        delay = FIRST_RESTART_DELAY
        while not self._stopping.is_set():
            process = WorkerProcess(spec, partial(self._answered, spec.name))
            self._processes[spec.name] = process
            failure: Exception | None = None
            try:
                info = await process.start(self._slots_fd, self._start_timeout)
                reason = await self._live_through(process, info, first)
            except Exception as error:  # whatever it is: the worker is not up, and this says why
                failure = error
            finally:
                await process.end()
            if self._stopping.is_set():
                return
            if failure is None:
                delay = FIRST_RESTART_DELAY if process.answered else delay
                log.error("worker %s is lost: it %s; restart in %g s", spec.name, reason, delay)
            elif first.done():
                log.error(
                    "worker %s does not restart: %s; again in %g s", spec.name, failure, delay
                )
            else:
                first.set_exception(failure)
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._stopping.wait()
            delay = min(2 * delay, LAST_RESTART_DELAY)

    async def _live_through(
        self, process: WorkerProcess, info: WorkerInfo, first: asyncio.Future[WorkerInfo]
    ) -> str:
        """From ready to dead: how it died. A worker that came back as another is a `ConfigError`:
        profiles and accuracies are those of the first.
        """
        returned = first.done()
        if not returned:
            first.set_result(info)
        elif replace(info, pid=first.result().pid) != first.result():
            raise ConfigError("it came back with another device or other weights")
        self._live[info.name] = process
        if self._attach is not None:
            process.send(self._attach)
        try:
            if returned:
                self._outbox.put(Joined(info))
            reason = await process.death()
        finally:
            del self._live[info.name]
        self._outbox.put(Lost(info.name, reason))
        return reason

    def _answered(self, worker: str, answer: Result | RunFailed) -> None:
        match answer:
            case Result(dispatch_id, result):
                self._outbox.put(Done(worker, batch_result(dispatch_id, result)))
            case RunFailed(dispatch_id, message):
                self._outbox.put(Failed(worker, dispatch_id, message))
