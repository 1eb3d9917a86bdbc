"""A dispatcher that answers as the test says, and a live server around one."""

import asyncio
import contextlib
import io
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import uvloop
from fastapi import FastAPI
from PIL import Image

from policies.types import Profile
from superserve.config import Config
from superserve.errors import Overloaded
from superserve.messages import (
    Answer,
    ModelInfo,
    ModelMemory,
    Prediction,
    Preprocessing,
    WorkerInfo,
)
from superserve.server.app import create_app
from superserve.server.run import listen, run_server
from superserve.worker_board import WorkerStatus

CLASSIFY = "/v1/classify"

PROFILE = Profile.from_table([("small", 90.0, {1: 0.001, 4: 0.002}),
                              ("large", 97.5, {1: 0.003, 4: 0.006})])  # fmt: skip
PROFILES = {"digits": PROFILE, "photos": PROFILE}


def model(name: str = "digits", size: int = 8, channels: int = 1) -> ModelInfo:
    return ModelInfo(
        name=name,
        labels=tuple(f"label-{i}" for i in range(10)),
        preprocessing=Preprocessing(size, size, channels, (0.5,) * channels, (0.5,) * channels),
        subnets={"small": "depth 1", "large": "depth 2"},
        weights_hash="abc",
        resident_bytes=1234,
        kernels="compiled",
        memory=ModelMemory(1000, 34, 200, 2),
    )


@dataclass
class Submission:
    slot: int
    model: str
    shape: tuple[int, int, int]
    arrival: float
    slo: float
    min_accuracy: float
    priority: int
    top_k: int
    pixels: np.ndarray


def answer(submission: Submission) -> Answer:
    predictions = tuple(Prediction(i, 0.5 / 2**i) for i in range(submission.top_k))
    return Answer(predictions, "large", 97.5, True, 0.001, 0.002, 0.0045, 4)


class FakeMetrics:
    def snapshot(self) -> dict[str, Any]:
        return {"arrived": 3, "batch_sizes": {1: 3}}


@dataclass
class FakeDispatcher:
    """Keeps the contract's books on slots, and fails the test on a breach of it."""

    slots: int = 4
    models: dict[str, ModelInfo] = field(default_factory=lambda: {"digits": model()})
    respond: Callable[[Submission], Answer] = answer
    hold: bool = False  # answer only when `let_go` is called
    ready: bool = True
    policy_name: str = "slackfit"
    workers: tuple[WorkerStatus, ...] = (
        WorkerStatus(WorkerInfo("w0", "cpu", "cpu", 1, (model(),))),
    )
    metrics: FakeMetrics = field(default_factory=FakeMetrics)
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self.reserved: set[int] = set()
        self.submissions: list[Submission] = []
        self.cancelled = 0
        self.arrived = threading.Event()  # a query was submitted
        self.freed = threading.Event()  # all slots are free again
        self._free = list(range(self.slots))
        self._pixels = np.zeros((self.slots, 2**16), np.uint8)
        self._released = asyncio.Event()

    def reserve(self) -> int:
        if not self._free:
            raise Overloaded("all slots are taken; ask again", retry_after=2.4)
        slot = self._free.pop()
        self.reserved.add(slot)
        self.freed.clear()
        return slot

    def release(self, slot: int) -> None:
        self.reserved.remove(slot)
        self._free.append(slot)
        if not self.reserved:
            self.freed.set()

    def slot_pixels(self, slot: int, shape: tuple[int, int, int]) -> np.ndarray:
        assert slot in self.reserved
        return self._pixels[slot, : np.prod(shape)].reshape(shape)

    async def submit(
        self, slot, *, model, shape, arrival, slo, min_accuracy=0.0, priority=0, top_k=5
    ) -> Answer:
        pixels = self.slot_pixels(slot, shape).copy()
        submission = Submission(
            slot, model, shape, arrival, slo, min_accuracy, priority, top_k, pixels
        )
        self.submissions.append(submission)
        self.arrived.set()
        try:
            await asyncio.sleep(0)  # no real dispatcher answers at once
            if self.hold:
                await self._released.wait()
            return self.respond(submission)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.release(slot)

    def let_go(self) -> None:
        self._released.set()

    def set_policy(self, make_policy: Callable[[Profile], Any], name: str) -> None:
        make_policy(PROFILE)
        self.policy_name = name


def failing(error: Exception) -> FakeDispatcher:
    def respond(_: Submission) -> Answer:
        raise error

    return FakeDispatcher(respond=respond)


def make_app(dispatcher: FakeDispatcher | None = None, **settings: Any) -> FastAPI:
    return create_app(dispatcher or FakeDispatcher(), Config(**settings), profiles=PROFILES)


def png(value: int = 200, size: tuple[int, int] = (8, 8), mode: str = "L") -> bytes:
    return encoded(Image.new(mode, size, value), "PNG")


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def smooth_jpeg(size: tuple[int, int] = (8, 8)) -> bytes:
    return encoded(Image.linear_gradient("L").resize(size), "JPEG")


def call(
    app: FastAPI, method: str, url: str, *, client: str = "127.0.0.1", **content: Any
) -> httpx.Response:
    """One request to the app, without a socket."""

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=(client, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            return await http.request(method, url, **content)

    return asyncio.run(send())


def run_uvloop(main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


@dataclass
class LiveServer:
    port: int
    dispatcher: FakeDispatcher
    app: FastAPI
    loop: asyncio.AbstractEventLoop

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def let_go(self) -> None:
        self.loop.call_soon_threadsafe(self.dispatcher.let_go)


@contextlib.contextmanager
def live(dispatcher: FakeDispatcher | None = None, **settings: Any) -> Iterator[LiveServer]:
    """A real server on a free port of the loopback, in a thread of its own."""
    dispatcher = dispatcher or FakeDispatcher()
    config = Config(port=0, **settings)
    app = create_app(dispatcher, config, profiles=PROFILES)
    listener = listen(config)
    port = listener.getsockname()[1]
    started = threading.Event()
    loops: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def serve() -> None:
        stop = asyncio.Event()
        loops.append((asyncio.get_running_loop(), stop))
        started.set()
        await run_server(app, config, listener=listener, stop=stop)

    thread = threading.Thread(target=run_uvloop, args=(serve(),))
    thread.start()
    try:
        assert started.wait(10)
        yield LiveServer(port, dispatcher, app, loops[0][0])
    finally:
        loop, stop = loops[0]
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)
        assert not thread.is_alive(), "the server did not stop"
