"""A server of our own as a child process, for as long as a load needs it."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from superserve.client import Client
from superserve.errors import ConfigError

SERVE = (sys.executable, "-m", "superserve.cli", "serve")
POLL = 0.1  # seconds between two looks at a server that starts
DRAIN = 20.0  # seconds from SIGTERM to SIGKILL: more than a server takes to drain
LAST_WORDS = 2000  # characters of output that an error quotes


@contextmanager
def running_server(
    arguments: Sequence[str] = (),
    *,
    patience: float,
    on_output: Callable[[str], None] = lambda _: None,
    command: Sequence[str] = SERVE,
) -> Iterator[str]:
    """Run ``superserve serve`` on a free loopback port; gives its URL once it is ready.

    While it starts, ``on_output`` gets the latest line that it printed. At the end it is stopped,
    also when this process is told to terminate. Raises `ConfigError` with its last words if it
    ends, or is not ready within ``patience`` seconds.
    """
    port = free_port()
    address = ("--host", "127.0.0.1", "--port", str(port))
    url = f"http://127.0.0.1:{port}"
    with _interrupted_by_signals(), tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [*command, *arguments, *address],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            process_group=0,  # Ctrl-C in the terminal reaches us alone, and we stop it in order
        )
        try:
            _await_ready(process, url, patience, lambda: on_output(_last_line(output.fileno())))
            yield url
        except _NotReadyError as error:
            words = _tail(output.fileno())
            raise ConfigError(f"the server {error}. Its last words:\n{words}") from error
        finally:
            _stop(process)


class _NotReadyError(Exception):
    pass


def _await_ready(
    process: "subprocess.Popen[bytes]", url: str, patience: float, look: Callable[[], None]
) -> None:
    end = time.monotonic() + patience
    with Client(url, timeout=5.0) as client:
        while not client.ready():
            if process.poll() is not None:
                raise _NotReadyError(f"ended with status {process.returncode} while it started")
            if time.monotonic() > end:
                raise _NotReadyError(f"was not ready within {patience:.0f} s")
            look()
            time.sleep(POLL)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(DRAIN)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _tail(file: int) -> str:
    """The end of the output. ``pread``, since the child shares the file's position."""
    start = max(os.fstat(file).st_size - LAST_WORDS, 0)
    return os.pread(file, LAST_WORDS, start).decode(errors="replace").strip()


def _last_line(file: int) -> str:
    return _tail(file).rpartition("\n")[2].strip()


@contextmanager
def _interrupted_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP unwind like Ctrl-C: the default would leave the server behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  signal's signature
        raise KeyboardInterrupt

    before = {
        number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
