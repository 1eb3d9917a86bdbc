"""A worker process: owns one device, runs batches on it, and lives no longer than its parent.

Started as ``python -m superserve.worker SPEC SOCKET SLOTS``: a `WorkerSpec` as JSON, and two
inherited descriptors. It reads `wire` frames from the socket and images from the slots.
"""

import contextlib
import json
import logging
import os
import select
import signal
import socket
import sys
import threading
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from superserve.engine_types import EngineLike, EngineResult, EngineSpec, build_engine
from superserve.errors import ConfigError
from superserve.heap import settle
from superserve.messages import WorkerInfo
from superserve.slots import Shape, SlotMemory
from superserve.wire import Attach, Decoder, Ready, Refused, Result, Run, RunFailed, encode

_CHUNK = 1 << 16  # bytes per read: many frames

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What a worker is made from. ``engine`` names a callable as ``module:attribute``, which
    takes the `EngineSpec` and returns an `EngineLike`; empty, it is that of the spec's kind.
    """

    name: str
    spec: EngineSpec
    engine: str = ""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "WorkerSpec":
        fields = json.loads(text)
        spec = fields.pop("spec")
        return cls(**fields, spec=EngineSpec(**{**spec, "plugins": tuple(spec["plugins"])}))


def start_engine(worker: WorkerSpec) -> tuple[EngineLike, WorkerInfo]:
    """Build and warm up the engine. Raises what `build_engine` and the warm-up raise."""
    engine = build_engine(worker.spec, worker.engine)
    engine.warm_up()
    info = WorkerInfo(
        worker.name, worker.spec.device, engine.device_type, os.getpid(), engine.models
    )
    return engine, info


def image_shapes(info: WorkerInfo) -> dict[str, Shape]:
    """The shape [H, W, C] of one image of each model."""
    return {model.name: model.preprocessing.shape for model in info.models}


def run_batch(
    engine: EngineLike, model: str, subnet: str, pixels: npt.NDArray[np.uint8], top_k: int
) -> EngineResult:
    """Run one batch, uint8 [N, H, W, C], and check what came out.

    Raises what the engine raises, and ``RuntimeError`` for an answer of the wrong size or one that
    is not finite: a NaN must not reach a client as a score.
    """
    result = engine.run(model, subnet, pixels, top_k)
    if not len(result.indices) == len(result.scores) == len(pixels):
        raise RuntimeError(f"{len(pixels)} images in, {len(result.indices)} answers out")
    if not np.isfinite(result.scores).all():
        raise RuntimeError(f"the scores of subnet {subnet} are not finite")
    return result


def explain(error: Exception) -> str:
    """An exception in one line; only an operator's mistake needs no type in front."""
    first = str(error).strip().partition("\n")[0]
    if isinstance(error, ConfigError):
        return first
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def serve(link: socket.socket, worker: WorkerSpec, slots_fd: int) -> None:
    """Start the engine, say so, and answer until the parent hangs up."""
    try:
        engine, info = start_engine(worker)
    except Exception as error:
        # Whatever it is, the parent is told why; the traceback helps only if it is a surprise.
        if not isinstance(error, ConfigError):
            log.exception("worker %s cannot start", worker.name)
        link.sendall(encode(Refused(explain(error))))
        return
    settle()
    link.sendall(encode(Ready(info)))
    shapes = image_shapes(info)
    slots: SlotMemory | None = None
    decoder = Decoder()
    while data := link.recv(_CHUNK):
        for message in decoder.feed(data):
            match message:
                case Attach(count, slot_bytes):
                    slots = SlotMemory(count, slot_bytes, slots_fd)
                case Run():
                    assert slots is not None, "the slots are attached before the first run"
                    link.sendall(encode(_answer(engine, message, slots, shapes)))
                case _:
                    raise AssertionError(f"{message} is none for a worker")


def _answer(
    engine: EngineLike, run: Run, slots: SlotMemory, shapes: dict[str, Shape]
) -> Result | RunFailed:
    try:
        pixels = slots.gather(run.slots, shapes[run.model])
        result = run_batch(engine, run.model, run.subnet, pixels, run.top_k)
    except Exception as error:
        # One batch fails, and the worker goes on with the next: the device is still good.
        log.exception("dispatch %d failed", run.dispatch_id)
        return RunFailed(run.dispatch_id, explain(error))
    return Result(run.dispatch_id, result)


def _exit_with_parent(link: socket.socket) -> None:
    """End the process when the parent hangs up, whatever the main thread is doing.

    The main thread alone would notice only between batches, and never if a batch hangs.
    """
    hang_up = select.poll()
    hang_up.register(link, 0)  # hanging up is always reported, and data are not asked for

    def watch() -> None:
        hang_up.poll()
        os._exit(0)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def main() -> None:
    """The entry point of the process."""
    # The parent drains and then hangs up. A signal to the whole group must not forestall it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    worker = WorkerSpec.from_json(sys.argv[1])
    logging.basicConfig(format=f"%(levelname)s worker {worker.name}: %(message)s")
    socket_fd, slots_fd = int(sys.argv[2]), int(sys.argv[3])
    for fd in (socket_fd, slots_fd):
        os.set_inheritable(fd, False)  # a child that kept the socket would hide our death
    with socket.socket(fileno=socket_fd) as link, contextlib.suppress(ConnectionError):
        _exit_with_parent(link)
        serve(link, worker, slots_fd)


if __name__ == "__main__":
    main()
