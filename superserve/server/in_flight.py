"""The requests that are being answered: a shutdown waits for them, and ends those that are left."""

import asyncio
from contextlib import suppress
from types import TracebackType

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from superserve.errors import NotReady

_GOING = "the server is shutting down; ask again when it is back, or ask another one"

_FAREWELL = 1.0  # seconds in which ended requests are answered


class InFlight:
    """Counts requests in; after `drain` has begun, new ones are refused with `NotReady`."""

    __slots__ = ("_abandoned", "_idle", "_tasks", "draining")

    def __init__(self) -> None:
        self.draining = False
        self._tasks: set[asyncio.Task[object]] = set()
        self._abandoned: set[asyncio.Task[object]] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    def __repr__(self) -> str:
        return f"<InFlight {len(self)} requests{', draining' if self.draining else ''}>"

    def __len__(self) -> int:
        return len(self._tasks)

    def __enter__(self) -> None:
        if self.draining:
            raise NotReady(_GOING)
        self._tasks.add(_current_task())
        self._idle.clear()

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        task = _current_task()
        self._tasks.discard(task)
        if not self._tasks:
            self._idle.set()
        if task in self._abandoned:
            self._abandoned.discard(task)
            if kind is asyncio.CancelledError:
                task.uncancel()
                raise NotReady(_GOING)

    async def drain(self, seconds: float) -> None:
        """Refuse new requests, wait for those that are here, and end what is left after that."""
        self.draining = True
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), seconds)
        self.abandon()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), _FAREWELL)

    def abandon(self) -> None:
        """End every request now: each is answered with `NotReady`."""
        for task in self._tasks - self._abandoned:
            self._abandoned.add(task)
            task.cancel()


class CancelOnDisconnect:
    """Cancels the block when the client goes away, and raises `ClientDisconnect` in its place.

    The request's body must have been read to its end.
    """

    __slots__ = ("_gone", "_receive", "_watcher")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._gone = False

    def __enter__(self) -> None:
        self._watcher = asyncio.create_task(self._watch(_current_task()))

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        self._watcher.cancel()
        if self._gone and kind is asyncio.CancelledError:
            _current_task().uncancel()
            raise ClientDisconnect

    async def _watch(self, task: asyncio.Task[object]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        task.cancel()


def _current_task() -> asyncio.Task[object]:
    task = asyncio.current_task()
    assert task is not None, "a request is answered in a task"
    return task
