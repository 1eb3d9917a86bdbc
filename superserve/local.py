"""The server and the profiler from Python: ``with superserve.serve() as server: ...``."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from superserve.client import Client
from superserve.config import DEFAULTS, Config, load_config
from superserve.profiling import measure
from superserve.server.run import listen, run_server
from superserve.service import running

_START_SECONDS = 300.0  # a profile may have to be measured first


class LocalServer:
    """A server in a thread of this process, with its workers in their own processes.

    ``url`` is where it answers. Use it as a context manager, or call `stop`.
    """

    def __init__(self, config: Config, *, in_process: bool = False) -> None:
        """Return when it is ready. Raises `ConfigError` if it cannot start."""
        self.config = config
        self._in_process = in_process
        self._listener = listen(config)
        host, port = self._listener.getsockname()[:2]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        self._started = threading.Event()
        self._errors: list[BaseException] = []
        self._thread = threading.Thread(target=self._live, name="superserve", daemon=True)
        self._thread.start()
        if not self._started.wait(_START_SECONDS):
            raise TimeoutError(f"the server did not start within {_START_SECONDS:.0f} s")
        for error in self._errors:
            self._thread.join()
            raise error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self.stop()

    def client(self) -> Client:
        """A client of this server."""
        return Client(self.url)

    def stop(self) -> None:
        """Drain and end. Stopping again does nothing."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    def _live(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            # The thread that made this object raises it, if it still waits for the start.
            self._errors.append(error)
            if self._started.is_set():
                raise
        finally:
            self._listener.close()
            self._started.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        async with running(self.config, in_process=self._in_process, say=print) as service:
            self._started.set()
            await run_server(service.app, self.config, listener=self._listener, stop=self._stop)


def serve(
    supernet: str = DEFAULTS.supernet, *, in_process: bool = False, port: int = 0, **settings: Any
) -> LocalServer:
    """Start a server; ``port`` 0 takes any free one, ``settings`` are the fields of `Config`.

    ``in_process`` keeps the workers in this process too: quick to start, for tests and notebooks.
    """
    config = load_config({"supernet": supernet, "port": port, **settings})
    return LocalServer(config, in_process=in_process)


def profile(
    supernet: str = DEFAULTS.supernet, *, device: str = "cpu", output: str = "", **settings: Any
) -> Path:
    """Measure the latency profile of a supernet on a device; returns the file."""
    config = load_config({"supernet": supernet, **settings})
    # In a thread of its own: a notebook's loop is running already.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, measure(config, device, output, None)).result()
