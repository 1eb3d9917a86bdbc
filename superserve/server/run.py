"""Serving the application on a socket until a signal comes, and leaving in good order."""

import asyncio
import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator

import uvicorn
from fastapi import FastAPI

from superserve.config import Config
from superserve.errors import ConfigError
from superserve.server.front_end import FrontEnd
from superserve.server.protocol import BoundedHttp

log = logging.getLogger(__name__)

_BACKLOG = 2048
# Longer than the idle time of common load balancers: they, not we, should close idle connections.
_KEEP_ALIVE = 65


def listen(config: Config) -> socket.socket:
    """A listening socket on ``config.host`` and ``config.port``; port 0 means any free one.

    Raises `ConfigError` if that cannot be had.
    """
    try:
        family = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((config.host, config.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {config.host}:{config.port}: {error.strerror}; "
            "choose another address with --host and --port"
        ) from error


async def run_server(
    app: FastAPI,
    config: Config,
    *,
    listener: socket.socket | None = None,
    stop: asyncio.Event | None = None,
) -> None:
    """Serve on the running loop (uvloop, for speed) until SIGTERM, SIGINT or ``stop``.

    Then /health/ready answers 503 and new requests are refused, while those that are here have
    ``config.drain_s`` to finish; a second signal ends them at once. Returns when all is closed.
    Signals are only heard in the main thread. Raises `ConfigError` if the address is taken.
    """
    listener = listener or listen(config)
    stop = stop or asyncio.Event()
    in_flight = FrontEnd.of(app).in_flight
    server = _Server(_uvicorn_config(app, config))
    with _signals(stop, second=in_flight.abandon):
        serving = asyncio.create_task(server.serve([listener]))
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if stop.is_set():
                log.info("draining: %d requests are here", len(in_flight))
                await in_flight.drain(config.drain_s)
        finally:
            stopping.cancel()
            server.should_exit = True
            await serving


def _uvicorn_config(app: FastAPI, config: Config) -> uvicorn.Config:
    class Http(BoundedHttp):
        head_timeout = config.body_timeout_s

    return uvicorn.Config(
        app,
        http=Http,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        # Who the client is decides what it may do, so no header is believed about it.
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=1,
    )


class _Server(uvicorn.Server):
    """Leaves signals to `run_server`: uvicorn would die of them after a clean shutdown."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.contextmanager
def _signals(stop: asyncio.Event, second: Callable[[], None]) -> Iterator[None]:
    """Set ``stop`` at the first signal, and call ``second`` at those after it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():
            second()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
