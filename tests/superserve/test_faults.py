"""Dispatcher and real worker processes together: what a client sees when workers die."""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any, Self

import pytest

from policies import Choice
from superserve.dispatcher import Dispatcher
from superserve.errors import InternalError, WorkerLost
from superserve.messages import Answer
from superserve.pool import ProcessPool
from superserve.scheduler import Scheduler
from tests.superserve.dispatching import PROFILE, Always, run
from tests.superserve.fake_engine import CRASH, HANG, RAISE, SHAPE, worker_spec


class Served:
    """A dispatcher over worker processes, all in real time."""

    def __init__(self, workers: int = 1, *, batch: int = 1, hang_grace: float = 100.0) -> None:
        self.pool = ProcessPool([worker_spec(f"w{i}") for i in range(workers)], slots=8)

        def make_policy(_: object) -> Always:
            return Always(Choice("small", batch))

        self.dispatcher = Dispatcher(
            Scheduler({("fake", "fake"): PROFILE}, make_policy),
            self.pool,
            make_policy=make_policy,
            policy_name="test",
            hang_grace=hang_grace,
            recorder=self._record,
        )
        self._joined = asyncio.Event()

    def _record(self, event: str, *_: object) -> None:
        if event == "worker_joined":
            self._joined.set()

    async def __aenter__(self) -> Self:
        await self.dispatcher.start(await self.pool.start(), credits=1)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.dispatcher.stop(drain=1.0)
        assert self.pool.slots.taken == 0

    def submit(self, pixel: int, **fields: Any) -> asyncio.Task[Answer]:
        slot = self.dispatcher.reserve()
        self.dispatcher.slot_pixels(slot, SHAPE)[:] = pixel
        fields = {"model": "fake", "shape": SHAPE, "slo": 60.0} | fields
        return asyncio.create_task(
            self.dispatcher.submit(slot, arrival=self.dispatcher.clock(), **fields)
        )

    async def until_all_connected(self) -> None:
        while not all(status.connected for status in self.dispatcher.workers):
            self._joined.clear()
            await self._joined.wait()


def test_a_query_whose_worker_is_killed_in_the_middle_of_it_is_answered_by_another():
    """The worker is stopped before the query is sent, so that it cannot be done too early."""

    async def main():
        async with Served(workers=2) as served:
            first = served.dispatcher.workers[0]
            os.kill(first.info.pid, signal.SIGSTOP)
            query = served.submit(1)
            os.kill(first.info.pid, signal.SIGKILL)
            assert (await query).predictions[0].index == 1
            assert [status.losses for status in served.dispatcher.workers] == [1, 0]

    run(main())


def test_a_query_whose_only_worker_is_killed_is_answered_when_it_is_back():
    async def main():
        async with Served() as served:
            pid = served.dispatcher.workers[0].info.pid
            os.kill(pid, signal.SIGSTOP)
            query = served.submit(1)
            os.kill(pid, signal.SIGKILL)
            assert (await query).predictions[0].index == 1
            assert served.dispatcher.workers[0].info.pid != pid

    run(main())


def test_a_poison_query_kills_two_workers_and_no_more():
    async def main():
        async with Served(workers=3) as served:
            with pytest.raises(WorkerLost):
                await served.submit(CRASH)
            assert sorted(status.losses for status in served.dispatcher.workers) == [0, 1, 1]
            assert (await served.submit(1)).predictions[0].index == 1

    run(main())


def test_a_poisoned_batch_takes_its_neighbours_along_and_nothing_after_them():
    """The first query occupies the worker, so that the poison and its neighbour share a batch,
    and share it again when it is tried again: which of them is the poison cannot be seen.
    """

    async def main():
        async with Served(workers=1, batch=4) as served:
            first = served.submit(1)
            poison, neighbour = served.submit(CRASH), served.submit(2)
            assert (await first).predictions[0].index == 1
            for task in (poison, neighbour):
                with pytest.raises(WorkerLost):
                    await task
            await served.until_all_connected()
            assert (await served.submit(2)).predictions[0].index == 2

    run(main())


def test_a_worker_that_hangs_is_killed_and_replaced():
    async def main():
        # Planned to take 1 s; it counts as hanging 0.2 s later.
        async with Served(workers=1, hang_grace=0.2) as served:
            with pytest.raises(WorkerLost):
                await served.submit(HANG, slo=1.9)
            await served.until_all_connected()
            assert served.dispatcher.workers[0].last_loss == "was killed by SIGKILL"
            assert (await served.submit(1)).predictions[0].index == 1

    run(main())


def test_a_batch_that_raises_is_an_error_and_its_worker_stays():
    async def main():
        async with Served() as served:
            with pytest.raises(InternalError, match="server's log"):
                await served.submit(RAISE)
            assert (await served.submit(1)).predictions[0].index == 1
            assert [status.losses for status in served.dispatcher.workers] == [0]

    run(main())


def test_a_worker_ends_with_its_parent():
    """The parent is killed while its worker hangs in a batch: nothing is left running."""
    script = (
        "import asyncio\n"
        "from tests.superserve.test_faults import Served, HANG\n"
        "async def main():\n"
        "    async with Served() as served:\n"
        "        served.submit(HANG)\n"
        "        print(served.dispatcher.workers[0].info.pid, flush=True)\n"
        "        await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )

    async def main():
        parent = await asyncio.create_subprocess_exec(
            sys.executable, "-c", script,
            stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        assert parent.stdout is not None
        worker = int(await parent.stdout.readline())
        death = os.pidfd_open(worker)
        died = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(death, died.set)
        parent.kill()
        await parent.wait()
        await died.wait()
        loop.remove_reader(death)
        os.close(death)

    run(main())
