"""Workers that wait the profiled time and compute nothing: for planning capacity and for faults.

They take no CPU, so many devices fit on one small machine. Every answer's predictions are empty,
and the device type is "emulated", so that no figure can pass for a measured one.
"""

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from policies.types import Profile
from superserve.messages import BatchResult, Dispatch, ModelInfo, WorkerInfo
from superserve.pool import Done, Joined, Lost, Outbox, PoolEvent, slot_bytes
from superserve.slots import Slots

DEVICE_TYPE = "emulated"


@dataclass(slots=True)
class _Emulated:
    """One live worker: it runs its batches one after the other."""

    info: WorkerInfo
    busy_until: float = 0.0  # on the loop's clock
    timers: dict[int, asyncio.TimerHandle] = field(default_factory=dict)  # by dispatch


class EmulatedPool:
    """Workers by name, all alike. Times are as fine as the loop's timers: 1 ms with uvloop."""

    def __init__(
        self,
        workers: Sequence[str],
        models: tuple[ModelInfo, ...],
        profiles: Mapping[str, Profile],
        *,
        slots: int,
        restart_delay: float = 1.0,
    ) -> None:
        """``profiles``, by model, tell how long a batch takes. ``restart_delay``: seconds for which
        an abandoned worker is away.
        """
        pid = os.getpid()
        self._infos = tuple(
            WorkerInfo(name, DEVICE_TYPE, DEVICE_TYPE, pid, models) for name in workers
        )
        self._profiles = dict(profiles)
        self._restart_delay = restart_delay
        self._outbox = Outbox()
        self._live: dict[str, _Emulated] = {}
        self._returning: dict[str, asyncio.TimerHandle] = {}
        self.slots = Slots(slots, slot_bytes(self._infos))

    def __repr__(self) -> str:
        return f"<EmulatedPool {len(self._live)} of {len(self._infos)} workers live>"

    async def start(self) -> tuple[WorkerInfo, ...]:
        self._live = {info.name: _Emulated(info) for info in self._infos}
        return self._infos

    def subscribe(self, deliver: Callable[[PoolEvent], None]) -> None:
        self._outbox.subscribe(deliver)

    def send(self, dispatch: Dispatch, slots: Sequence[int], top_k: int) -> None:
        del slots, top_k  # nothing looks at the images
        worker = self._live.get(dispatch.worker)
        if worker is None:
            return
        loop = asyncio.get_running_loop()
        count = len(dispatch.queries)
        seconds = self._profiles[dispatch.model].latency(dispatch.subnet, count)
        worker.busy_until = max(loop.time(), worker.busy_until) + seconds
        result = BatchResult(dispatch.id, ((),) * count, seconds)
        worker.timers[dispatch.id] = loop.call_at(worker.busy_until, self._finish, worker, result)

    def abandon(self, worker: str) -> None:
        """Also the way to try a fault: the worker dies now and is back after the delay."""
        lost = self._live.pop(worker, None)
        if lost is None:
            return
        for timer in lost.timers.values():
            timer.cancel()
        loop = asyncio.get_running_loop()
        loop.call_soon(lambda: self._outbox.put(Lost(worker, "was abandoned")))
        self._returning[worker] = loop.call_later(
            self._restart_delay, partial(self._return, lost.info)
        )

    async def stop(self) -> None:
        for worker in self._live.values():
            for timer in worker.timers.values():
                timer.cancel()
        for timer in self._returning.values():
            timer.cancel()
        self._live.clear()

    def _finish(self, worker: _Emulated, result: BatchResult) -> None:
        del worker.timers[result.dispatch_id]
        self._outbox.put(Done(worker.info.name, result))

    def _return(self, info: WorkerInfo) -> None:
        del self._returning[info.name]
        self._live[info.name] = _Emulated(info)
        self._outbox.put(Joined(info))
