"""One worker process seen from the front end: its birth, the socket to it, and its death."""

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Callable
from typing import cast

from superserve.errors import ConfigError
from superserve.messages import WorkerInfo
from superserve.wire import (
    Attach,
    Decoder,
    Ready,
    Refused,
    Result,
    Run,
    RunFailed,
    WireError,
    encode,
)
from superserve.worker import WorkerSpec

# Seconds that a worker gets to exit by itself once the socket is closed, before it is killed.
EXIT_GRACE = 1.0

log = logging.getLogger(__name__)


class WorkerProcess(asyncio.Protocol):
    """One life of one worker: `start`, then `send` and answers, until `death`; `end` in any case.

    Killing it or hanging up mutes it: an answer still on its way is not delivered.
    """

    def __init__(self, spec: WorkerSpec, on_answer: Callable[[Result | RunFailed], None]) -> None:
        self.answered = False  # whether it has ever run a batch
        self._spec = spec
        self._on_answer = on_answer
        self._decoder = Decoder()
        self._muted = False
        self._process: asyncio.subprocess.Process | None = None
        self._link: asyncio.Transport | None = None
        # What it says about itself: ready, why it refuses, or nothing before it died.
        self._outcome: asyncio.Future[WorkerInfo | Refused | None] = (
            asyncio.get_running_loop().create_future()
        )
        self._hung_up = asyncio.Event()

    def __repr__(self) -> str:
        pid = self._process.pid if self._process is not None else None
        return f"<WorkerProcess {self._spec.name}, pid {pid}>"

    async def start(self, slots_fd: int, timeout: float) -> WorkerInfo:
        """Spawn it and wait until it is ready.

        Raises `ConfigError` with the worker's own reason, or if it dies or takes over ``timeout``
        seconds; ``OSError`` if the system has no process or descriptor to spare. Then call `end`.
        """
        name = self._spec.name
        ours, theirs = socket.socketpair()
        with theirs:
            # Not `create_connection`: uvloop takes only internet sockets there.
            await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=ours)
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "superserve.worker", self._spec.to_json(),
                str(theirs.fileno()), str(slots_fd),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), slots_fd),
                start_new_session=True,  # Ctrl-C in the terminal is for the parent, which drains
            )  # fmt: skip
        if self._muted:
            self.hang_up()  # it came while there was nothing to hang up
        try:
            async with asyncio.timeout(timeout):
                outcome = await self._outcome
        except TimeoutError:
            raise ConfigError(f"worker {name} was not ready within {timeout:g} s") from None
        match outcome:
            case WorkerInfo():
                return outcome
            case Refused(reason):
                raise ConfigError(f"worker {name} cannot start: {reason}")
            case None:
                raise ConfigError(f"worker {name} {await self.end()} before it was ready")

    def send(self, message: Attach | Run) -> None:
        """Write one frame; nothing happens if the worker is gone."""
        if self._link is not None and not self._link.is_closing():
            self._link.write(encode(message))

    def kill(self) -> None:
        """Kill it now; `death` returns when it is dead."""
        self._muted = True
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    def hang_up(self) -> None:
        """Close the socket, upon which the worker exits; nothing that it says is heard."""
        self._muted = True
        if self._link is not None:
            self._link.abort()

    async def death(self) -> str:
        """Wait until it is dead, whatever the cause, and say how it died.

        What it answered before is delivered first, unless a write to it has failed: the socket is
        then closed unread, and those queries are as lost as the others.
        """
        await self._hung_up.wait()
        return await self.end()

    async def end(self) -> str:
        """Hang up, see it dead, and say how it died."""
        self.hang_up()
        if self._process is None:
            return "was not started"
        try:
            async with asyncio.timeout(EXIT_GRACE):
                status = await self._process.wait()
        except TimeoutError:
            self.kill()
            status = await self._process.wait()
        if status < 0:
            return f"was killed by {signal.Signals(-status).name}"
        return f"exited with status {status}"

    # The callbacks of asyncio.Protocol.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._link = cast("asyncio.Transport", transport)  # uvloop's do not inherit from it

    def data_received(self, data: bytes) -> None:
        if self._muted:
            return
        try:
            messages = self._decoder.feed(data)
        except WireError:
            log.exception("worker %s is out of step and is killed", self._spec.name)
            self.kill()
            return
        for message in messages:
            match message:
                case Result() | RunFailed():
                    self.answered = True
                    self._on_answer(message)
                case Ready(info):
                    self._outcome.set_result(info)
                case Refused():
                    self._outcome.set_result(message)
                case _:
                    raise AssertionError(f"{message} is none from a worker")

    def connection_lost(self, exc: Exception | None) -> None:
        del exc  # how the process ended says more
        if not self._outcome.done():
            self._outcome.set_result(None)
        self._hung_up.set()
