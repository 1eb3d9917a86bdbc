"""Pools: batches are answered, deaths noticed, the dead replaced, and start-up errors explained."""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, Self

import pytest
import uvloop

from policies import Profile
from superserve.emulated import EmulatedPool
from superserve.errors import ConfigError
from superserve.inprocess import InProcessPool
from superserve.messages import BatchResult, Dispatch, Prediction, Query
from superserve.pool import Done, Failed, Joined, Lost, Pool, PoolEvent, ProcessPool
from tests.superserve.fake_engine import (
    CRASH,
    HANG,
    NAN,
    RAISE,
    RELEASE,
    SHAPE,
    SHORT,
    model,
    worker_spec,
)

PATIENCE = 20.0  # seconds after which a test gives up; none waits that long when all is well
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def run(main: Coroutine[Any, Any, None], loop: str = "asyncio") -> None:
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(asyncio.wait_for(main, PATIENCE))


class Harness:
    """A started pool, its events in a queue, and short words for what the tests do to it."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.events: asyncio.Queue[PoolEvent] = asyncio.Queue()
        self._dispatches = 0

    async def __aenter__(self) -> Self:
        self.workers = await self.pool.start()
        self.pool.subscribe(self.events.put_nowait)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.pool.stop()

    def send(self, *values: int, worker: str = "w0", subnet: str = "small", top_k: int = 2) -> int:
        """Dispatch one image per value; the value is its first pixel. The dispatch's id."""
        self._dispatches += 1
        queries = tuple(Query(i, 0.0, 1.0, "fake") for i in range(len(values)))
        slots = []
        for value in values:
            slot = self.pool.slots.reserve()
            assert slot is not None
            self.pool.slots.pixels(slot, SHAPE)[:] = value
            slots.append(slot)
        dispatch = Dispatch(self._dispatches, worker, "fake", subnet, 50.0, queries, 0.0, 1.0)
        self.pool.send(dispatch, slots, top_k)
        return dispatch.id

    async def next(self) -> PoolEvent:
        return await self.events.get()


def classes(event: PoolEvent) -> list[list[int]]:
    assert isinstance(event, Done)
    return [[p.index for p in predictions] for predictions in event.result.predictions]


def processes(*specs: Any, **options: Any) -> ProcessPool:
    return ProcessPool(specs or (worker_spec(),), slots=8, **options)


def threads(*specs: Any) -> InProcessPool:
    return InProcessPool(specs or (worker_spec(),), slots=8)


BOTH = pytest.mark.parametrize("make", [processes, threads])
Make = Callable[..., Pool]


@BOTH
@pytest.mark.parametrize("loop", LOOPS)
def test_each_image_of_a_batch_gets_its_own_answer_in_order(make: Make, loop: str):
    async def main():
        async with Harness(make()) as harness:
            number = harness.send(3, 1, 2)
            event = await harness.next()
            assert classes(event) == [[3, 4], [1, 2], [2, 3]]
            assert event == Done("w0", BatchResult(number, event.result.predictions, 0.001))
            assert event.result.predictions[0][0] == Prediction(3, 0.5)

    run(main(), loop)


@BOTH
def test_a_worker_tells_what_it_serves(make: Make):
    async def main():
        async with Harness(make(worker_spec("w0"), worker_spec("w1"))) as harness:
            assert [info.name for info in harness.workers] == ["w0", "w1"]
            assert {info.device_type for info in harness.workers} == {"fake"}
            assert harness.workers[0].models == (model(),)
            assert harness.pool.slots.slot_bytes == 6

    run(main())


@BOTH
def test_a_worker_runs_several_batches_in_the_order_sent(make: Make):
    async def main():
        async with Harness(make()) as harness:
            sent = [harness.send(i) for i in range(5)]
            events = [await harness.next() for _ in sent]
            assert [event.result.dispatch_id for event in events] == sent

    run(main())


@BOTH
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (RAISE, "RuntimeError: the network cannot run this"),
        (NAN, "RuntimeError: the scores of subnet small are not finite"),
        (SHORT, "RuntimeError: 2 images in, 1 answers out"),
    ],
)
def test_a_batch_that_cannot_be_run_fails_and_the_worker_goes_on(
    make: Make, value: int, message: str
):
    async def main():
        async with Harness(make()) as harness:
            number = harness.send(value, 1)
            assert await harness.next() == Failed("w0", number, message)
            harness.send(1)
            assert classes(await harness.next()) == [[1, 2]]

    run(main())


@BOTH
def test_a_worker_that_cannot_start_is_a_config_error_with_its_own_reason(make: Make):
    async def main():
        pool = make(worker_spec("good"), worker_spec("bad", "missing"))
        expected = "worker bad cannot start: there is no checkpoint at /nowhere; name another one"
        with pytest.raises(ConfigError, match=f"^{expected}$"):
            await pool.start()

    run(main())


@BOTH
def test_an_unforeseen_error_at_start_is_told_in_one_line(make: Make):
    async def main():
        with pytest.raises(
            ConfigError, match=r"^worker w0 cannot start: RuntimeError: first line$"
        ):
            await make(worker_spec("w0", "broken")).start()

    run(main())


@BOTH
def test_a_missing_engine_is_a_config_error(make: Make):
    async def main():
        spec = replace(worker_spec(), engine="superserve.nowhere:Engine")
        with pytest.raises(ConfigError, match=r"ModuleNotFoundError: No module named 'superserve"):
            await make(spec).start()

    run(main())


def test_a_worker_that_dies_at_start_up_is_a_config_error_and_is_not_tried_again(tmp_path):
    journal = tmp_path / "journal"

    async def main():
        pool = processes(worker_spec("w0", "crash", plugins=(str(journal),)))
        with pytest.raises(ConfigError, match=r"^worker w0 exited with status 3 before it was rea"):
            await pool.start()

    run(main())
    assert journal.read_text() == "start\n"


def test_a_worker_that_is_not_ready_in_time_is_a_config_error():
    async def main():
        pool = processes(worker_spec("w0", "slow"), start_timeout=0.5)
        with pytest.raises(ConfigError, match=r"^worker w0 was not ready within 0\.5 s$"):
            await pool.start()

    run(main())


@pytest.mark.parametrize("loop", LOOPS)
def test_a_killed_worker_is_noticed_and_comes_back(loop: str):
    async def main():
        async with Harness(processes()) as harness:
            first = harness.workers[0]
            os.kill(first.pid, signal.SIGKILL)
            assert await harness.next() == Lost("w0", "was killed by SIGKILL")
            event = await harness.next()
            assert isinstance(event, Joined)
            assert event.info.pid != first.pid
            assert replace(event.info, pid=first.pid) == first
            harness.send(2)
            assert classes(await harness.next()) == [[2, 3]]

    run(main(), loop)


def test_a_worker_that_crashes_in_a_batch_is_lost_and_answers_nothing():
    async def main():
        async with Harness(processes()) as harness:
            harness.send(1)
            assert classes(await harness.next()) == [[1, 2]]
            harness.send(CRASH)
            assert await harness.next() == Lost("w0", "exited with status 3")
            assert isinstance(await harness.next(), Joined)
            harness.send(0)
            assert classes(await harness.next()) == [[0, 1]]

    run(main())


def test_a_hanging_process_is_killed_when_it_is_abandoned_and_comes_back():
    async def main():
        async with Harness(processes()) as harness:
            harness.send(HANG)
            harness.pool.abandon("w0")
            assert await harness.next() == Lost("w0", "was killed by SIGKILL")
            assert isinstance(await harness.next(), Joined)
            harness.send(1)
            assert classes(await harness.next()) == [[1, 2]]

    run(main())


def test_a_hanging_thread_is_replaced_and_what_it_says_later_is_not_heard():
    async def main():
        async with Harness(threads()) as harness:
            zombie = harness.pool._live["w0"]
            harness.send(HANG)
            harness.pool.abandon("w0")
            assert await harness.next() == Lost("w0", "hung and was abandoned")
            assert isinstance(await harness.next(), Joined)
            RELEASE.set()
            await asyncio.to_thread(zombie.join, PATIENCE)
            harness.send(5)
            assert classes(await harness.next()) == [[5, 6]]

    RELEASE.clear()
    run(main())


def test_a_stopped_process_is_killed_like_a_hanging_one():
    """SIGSTOP is what a debugger or a frozen container does: no code of ours runs in it."""

    async def main():
        async with Harness(processes()) as harness:
            os.kill(harness.workers[0].pid, signal.SIGSTOP)
            harness.pool.abandon("w0")
            assert await harness.next() == Lost("w0", "was killed by SIGKILL")

    run(main())


def test_one_death_does_not_touch_the_other_workers():
    async def main():
        async with Harness(processes(worker_spec("w0"), worker_spec("w1"))) as harness:
            harness.send(CRASH)
            harness.send(1, worker="w1")
            seen = [await harness.next(), await harness.next()]
            assert {type(event) for event in seen} == {Done, Lost}
            (done,) = (event for event in seen if isinstance(event, Done))
            assert done.worker == "w1"

    run(main())


class Waiter(logging.Handler):
    """Lets a coroutine wait for a line in the log."""

    def __init__(self, words: str) -> None:
        super().__init__()
        self.words = words
        self.seen = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if self.words in record.getMessage():
            self.seen.set()


@contextlib.contextmanager
def awaiting(words: str):
    waiter = Waiter(words)
    log = logging.getLogger("superserve.pool")
    log.addHandler(waiter)
    try:
        yield waiter.seen
    finally:
        log.removeHandler(waiter)


def test_a_restart_that_fails_is_tried_again_until_it_works(tmp_path):
    """The checkpoint disappears, the worker dies and cannot start; the file returns, and so it
    does.
    """
    weights = tmp_path / "weights"
    weights.write_text("w")

    async def main():
        async with Harness(processes(worker_spec("w0", checkpoint=str(weights)))) as harness:
            weights.unlink()
            with awaiting("does not restart") as failed:
                os.kill(harness.workers[0].pid, signal.SIGKILL)
                assert isinstance(await harness.next(), Lost)
                await failed.wait()
            weights.write_text("w")
            assert isinstance(await harness.next(), Joined)

    run(main())


def test_a_worker_that_comes_back_with_other_weights_does_not_join(tmp_path):
    weights = tmp_path / "weights"
    weights.write_text("w")

    async def main():
        async with Harness(processes(worker_spec("w0", checkpoint=str(weights)))) as harness:
            weights.write_text("changed")
            with awaiting("it came back with another device or other weights") as refused:
                os.kill(harness.workers[0].pid, signal.SIGKILL)
                assert isinstance(await harness.next(), Lost)
                await refused.wait()
            assert harness.events.empty()

    run(main())


def test_events_before_the_subscriber_came_wait_for_it():
    async def main():
        pool = processes()
        workers = await pool.start()
        with awaiting("is lost") as lost:
            os.kill(workers[0].pid, signal.SIGKILL)
            await lost.wait()
        seen: list[PoolEvent] = []
        pool.subscribe(seen.append)
        assert seen == [Lost("w0", "was killed by SIGKILL")]
        await pool.stop()

    run(main())


def test_stop_ends_every_process_even_one_that_hangs():
    async def main():
        harness = Harness(processes(worker_spec("w0"), worker_spec("w1")))
        async with harness:
            harness.send(HANG)
        for info in harness.workers:
            with pytest.raises(ProcessLookupError):
                os.kill(info.pid, 0)
        await harness.pool.stop()

    run(main())


def test_a_send_to_a_dead_worker_is_swallowed():
    async def main():
        async with Harness(processes()) as harness:
            os.kill(harness.workers[0].pid, signal.SIGKILL)
            harness.send(1)
            assert isinstance(await harness.next(), Lost)
            harness.send(1)
            assert isinstance(await harness.next(), Joined)

    run(main())


def test_two_workers_of_one_name_are_refused():
    for make in (processes, threads):
        with pytest.raises(ValueError, match="its own name"):
            make(worker_spec("w0"), worker_spec("w0"))


def emulated(**options: Any) -> EmulatedPool:
    profile = Profile.from_table([("small", 50.0, {1: 0.001, 4: 0.002})])
    return EmulatedPool(("w0", "w1"), (model(),), {"fake": profile}, slots=8, **options)


def test_an_emulated_worker_says_so_and_answers_after_the_profiled_time_with_nothing():
    async def main():
        async with Harness(emulated()) as harness:
            assert {(i.device, i.device_type) for i in harness.workers} == {("emulated",) * 2}
            loop = asyncio.get_running_loop()
            before = loop.time()
            number = harness.send(1, 2, 3)
            assert await harness.next() == Done("w0", BatchResult(number, ((), (), ()), 0.002))
            assert loop.time() - before >= 0.002 - 1e-6

    run(main())


def test_an_emulated_worker_runs_its_batches_one_after_the_other():
    """Ten batches of 1 ms end no sooner than 10 ms from now; two workers run side by side."""

    async def main():
        async with Harness(emulated()) as harness:
            loop = asyncio.get_running_loop()
            before = loop.time()
            sent = [harness.send(1) for _ in range(5)]
            events = [await harness.next() for _ in sent]
            assert [event.result.dispatch_id for event in events] == sent
            assert loop.time() - before >= 0.005 - 1e-6

    run(main())


def test_an_emulated_worker_that_is_abandoned_answers_nothing_and_comes_back():
    async def main():
        async with Harness(emulated(restart_delay=0.005)) as harness:
            harness.send(1)
            harness.pool.abandon("w0")
            assert await harness.next() == Lost("w0", "was abandoned")
            assert await harness.next() == Joined(harness.workers[0])
            number = harness.send(1)
            assert (await harness.next()).result.dispatch_id == number

    run(main())
