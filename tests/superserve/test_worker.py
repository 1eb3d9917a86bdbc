"""The worker's own side: its spec, its reasons, and what does and does not end it."""

import asyncio
import os
import signal
from typing import Self

import pytest

from superserve.engine_types import EngineSpec
from superserve.errors import ConfigError
from superserve.messages import WorkerInfo
from superserve.slots import Slots, anonymous_file
from superserve.wire import Attach, Result, Run, RunFailed, encode
from superserve.worker import WorkerSpec, explain
from superserve.worker_process import WorkerProcess
from tests.superserve.dispatching import run
from tests.superserve.fake_engine import SHAPE, worker_spec


def test_a_spec_survives_the_command_line():
    spec = EngineSpec("digits", "/a b/ü.safetensors", "", ("one", "two"), "cuda:1", 3, True)
    worker = WorkerSpec("gpu:1", spec, "tests.engines:Fake")
    assert WorkerSpec.from_json(worker.to_json()) == worker


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ConfigError("no such file; name another"), "no such file; name another"),
        (RuntimeError("one\ntwo"), "RuntimeError: one"),
        (KeyError("x"), "KeyError: 'x'"),
        (ValueError(), "ValueError"),
    ],
    ids=repr,
)
def test_an_error_is_explained_in_one_line(error: Exception, line: str):
    assert explain(error) == line


class Process:
    """One worker process with one slot, without a pool around it."""

    def __init__(self) -> None:
        self.answers: asyncio.Queue[Result | RunFailed] = asyncio.Queue()
        self.process = WorkerProcess(worker_spec(), self.answers.put_nowait)

    async def __aenter__(self) -> Self:
        self.fd = anonymous_file()
        self.slots = Slots(1, 6, self.fd)
        self.info: WorkerInfo = await self.process.start(self.fd, 20.0)
        self.process.send(Attach(1, 6))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.process.end()
        os.close(self.fd)

    async def classify(self, pixel: int) -> int:
        self.slots.pixels(0, SHAPE)[:] = pixel
        self.process.send(Run(1, "fake", "small", 1, (0,)))
        answer = await self.answers.get()
        assert isinstance(answer, Result)
        return int(answer.result.indices[0, 0])


def test_signals_to_the_whole_group_leave_the_worker_to_its_parent():
    async def main():
        async with Process() as worker:
            os.kill(worker.info.pid, signal.SIGINT)
            os.kill(worker.info.pid, signal.SIGTERM)
            assert await worker.classify(7) == 7

    run(main())


def test_a_worker_exits_by_itself_when_its_parent_hangs_up():
    async def main():
        async with Process() as worker:
            worker.process.hang_up()
            assert await worker.process.death() == "exited with status 0"

    run(main())


def test_nothing_that_a_killed_worker_said_is_heard():
    async def main():
        async with Process() as worker:
            worker.process.kill()
            worker.process.data_received(encode(RunFailed(1, "said before it died")))
            assert await worker.process.death() == "was killed by SIGKILL"
            assert worker.answers.empty()

    run(main())


def test_a_worker_that_is_out_of_step_is_killed():
    async def main():
        async with Process() as worker:
            worker.process.data_received(b"\xff" * 5)
            assert await worker.process.death() == "was killed by SIGKILL"

    run(main())


def test_a_run_of_an_unknown_model_fails_and_leaves_the_worker_alive():
    async def main():
        async with Process() as worker:
            worker.process.send(Run(3, "nobody", "small", 1, (0,)))
            assert await worker.answers.get() == RunFailed(3, "KeyError: 'nobody'")
            assert await worker.classify(2) == 2

    run(main())
