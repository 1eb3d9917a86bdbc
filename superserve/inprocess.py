"""Workers as threads of this process: for tests and notebooks.

The one place where the front end's process imports torch. Threads share an interpreter lock and
cannot be killed; the default pool, one process per device, has neither limit.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue

import numpy as np
import numpy.typing as npt

from superserve.engine_types import EngineLike, EngineResult
from superserve.errors import ConfigError
from superserve.messages import Dispatch, WorkerInfo
from superserve.pool import Done, Failed, Joined, Lost, Outbox, PoolEvent, batch_result, slot_bytes
from superserve.slots import Shape, Slots
from superserve.worker import WorkerSpec, explain, image_shapes, run_batch, start_engine

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Job:
    dispatch: Dispatch
    pixels: npt.NDArray[np.uint8]  # [N, H, W, C]
    top_k: int


class _EngineThread:
    """One thread that builds an engine and runs jobs on it, one after the other."""

    def __init__(
        self, spec: WorkerSpec, on_answer: Callable[["_EngineThread", PoolEvent], None]
    ) -> None:
        self.spec = spec
        self.shapes: dict[str, Shape] = {}
        self._on_answer = on_answer
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[WorkerInfo | Exception] = self._loop.create_future()
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        # A daemon: a batch that hangs must not keep the interpreter from exiting.
        self._thread = threading.Thread(target=self._live, name=f"worker {spec.name}", daemon=True)

    async def start(self) -> WorkerInfo:
        """Return when the engine is warm; raises `ConfigError` with its reason if it cannot be."""
        self._thread.start()
        outcome = await self._ready
        if isinstance(outcome, Exception):
            reason = f"worker {self.spec.name} cannot start: {explain(outcome)}"
            raise ConfigError(reason) from outcome
        self.shapes = image_shapes(outcome)
        return outcome

    def run(self, job: _Job) -> None:
        self._jobs.put(job)

    def finish(self) -> None:
        """Let the thread end after the jobs that it has."""
        self._jobs.put(None)

    def join(self, timeout: float) -> None:
        self._thread.join(timeout)

    # What follows runs in the thread.

    def _live(self) -> None:
        try:
            engine, info = start_engine(self.spec)
        except Exception as error:  # whatever it is, it is the reason that `start` gives
            self._tell(self._report, error)
            return
        self._tell(self._report, info)
        while (job := self._jobs.get()) is not None:
            self._tell(self._on_answer, self, self._answer(engine, job))

    def _answer(self, engine: EngineLike, job: _Job) -> PoolEvent:
        dispatch, worker = job.dispatch, self.spec.name
        try:
            result: EngineResult = run_batch(
                engine, dispatch.model, dispatch.subnet, job.pixels, job.top_k
            )
        except Exception as error:
            # One batch fails, and the worker goes on with the next.
            log.exception("dispatch %d failed", dispatch.id)
            return Failed(worker, dispatch.id, explain(error))
        return Done(worker, batch_result(dispatch.id, result))

    def _tell(self, callback: Callable[..., None], *args: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            self._loop.call_soon_threadsafe(callback, *args)

    def _report(self, outcome: WorkerInfo | Exception) -> None:
        if not self._ready.done():
            self._ready.set_result(outcome)


class InProcessPool:
    """One thread per spec; an abandoned one is left to itself and replaced, once per abandonment.

    The pixels are copied when a batch is sent, so that an abandoned thread reads no slot.
    """

    slots: Slots

    def __init__(self, specs: Sequence[WorkerSpec], *, slots: int) -> None:
        if len({spec.name for spec in specs}) < len(specs) or not specs:
            raise ValueError("a pool needs workers, each with its own name")
        self._specs = tuple(specs)
        self._slot_count = slots
        self._outbox = Outbox()
        self._live: dict[str, _EngineThread] = {}
        self._replacing: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<InProcessPool {len(self._live)} of {len(self._specs)} workers live>"

    async def start(self) -> tuple[WorkerInfo, ...]:
        threads = [_EngineThread(spec, self._answered) for spec in self._specs]
        self._live = {thread.spec.name: thread for thread in threads}
        try:
            infos = tuple(await asyncio.gather(*(thread.start() for thread in threads)))
        except BaseException:
            await self.stop()
            raise
        self.slots = Slots(self._slot_count, slot_bytes(infos))
        return infos

    def subscribe(self, deliver: Callable[[PoolEvent], None]) -> None:
        self._outbox.subscribe(deliver)

    def send(self, dispatch: Dispatch, slots: Sequence[int], top_k: int) -> None:
        thread = self._live.get(dispatch.worker)
        if thread is not None:
            pixels = self.slots.gather(slots, thread.shapes[dispatch.model])
            thread.run(_Job(dispatch, pixels, top_k))

    def abandon(self, worker: str) -> None:
        thread = self._live.pop(worker, None)
        if thread is not None:
            thread.finish()
            task = asyncio.get_running_loop().create_task(self._replace(thread.spec))
            self._replacing.add(task)
            task.add_done_callback(self._replacing.discard)

    async def stop(self) -> None:
        threads = list(self._live.values())
        self._live.clear()
        for task in self._replacing:
            task.cancel()
        for thread in threads:
            thread.finish()
        for thread in threads:
            await asyncio.to_thread(thread.join, 1.0)

    async def _replace(self, spec: WorkerSpec) -> None:
        self._outbox.put(Lost(spec.name, "hung and was abandoned"))
        thread = _EngineThread(spec, self._answered)
        try:
            info = await thread.start()
        except ConfigError:
            log.exception("worker %s is not replaced", spec.name)
        except asyncio.CancelledError:
            thread.finish()
            raise
        else:
            self._live[spec.name] = thread
            self._outbox.put(Joined(info))

    def _answered(self, thread: _EngineThread, event: PoolEvent) -> None:
        if self._live.get(thread.spec.name) is thread:
            self._outbox.put(event)
