"""The dispatcher and its policy: refusals, faults, a change while queries wait, ticks."""

import asyncio
import logging

import pytest

from policies import Choice
from superserve.errors import Shed
from tests.superserve.dispatching import Always, Harness, always, run


class Refusing(Always):
    def admit(self, view, waiting):
        return waiting.priority > 0


def test_a_query_that_the_policy_refuses_is_shed():
    async def main():
        async with Harness(lambda _: Refusing(Choice("small", 1))) as h:
            with pytest.raises(Shed):
                await h.submit()
            h.submit(priority=1)
            assert h.taken == 1

    run(main())


class Faulty:
    """Fails in one of the ways that a policy of somebody else's can."""

    def __init__(self, fault: str) -> None:
        self.fault = fault

    def choose(self, view, now):
        match self.fault:
            case "raises":
                raise ZeroDivisionError("no rate")
            case "unknown subnet":
                return Choice("huge", 1)
            case "batch too large":
                return Choice("small", 5)
            case "no choice":
                return ("small", 1)
        return Choice("large", 1)

    def admit(self, view, waiting):
        if self.fault == "admit":
            raise ZeroDivisionError("no rate")
        return True


@pytest.mark.parametrize("fault", ["raises", "unknown subnet", "batch too large", "no choice"])
def test_where_a_policy_fails_the_smallest_subnet_serves_all_that_fit_a_batch(fault, caplog):
    async def main():
        async with Harness(lambda _: Faulty(fault)) as h:
            tasks = [h.submit() for _ in range(4)]
            h.pool.answer(h.pool.sent[0])
            h.pool.answer(h.pool.sent[1])
            answers = await asyncio.gather(*tasks)
            assert [answer.subnet for answer in answers] == ["small"] * 4
            assert [answer.batch_size for answer in answers] == [1, 3, 3, 3]

    run(main())
    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert record.exc_info is not None
    assert "failed in choose" in record.message


def test_a_policy_that_fails_to_admit_has_not_refused(caplog):
    async def main():
        async with Harness(lambda _: Faulty("admit")) as h:
            task = h.submit()
            h.pool.answer(h.pool.sent[0])
            assert (await task).subnet == "large"

    run(main())
    assert [r.levelno for r in caplog.records] == [logging.ERROR]


class FailsOnce(Always):
    def __init__(self) -> None:
        super().__init__(Choice("large", 1))
        self.failed = False

    def choose(self, view, now):
        if not self.failed:
            self.failed = True
            raise ZeroDivisionError("no rate")
        return self.choice


def test_a_policy_that_failed_is_asked_again():
    async def main():
        async with Harness(lambda _: FailsOnce()) as h:
            tasks = [h.submit(), h.submit()]
            h.pool.answer(h.pool.sent[0])
            h.pool.answer(h.pool.sent[1])
            answers = await asyncio.gather(*tasks)
            assert [answer.subnet for answer in answers] == ["small", "large"]

    run(main())


def test_a_policy_can_be_changed_while_queries_wait_for_the_one_before():
    async def main():
        async with Harness(lambda _: Always(None)) as h:
            task = h.submit()
            assert h.pool.sent == []
            h.dispatcher.set_policy(always("large"), "large")
            assert h.dispatcher.policy_name == "large"
            h.pool.answer(h.pool.sent[0])
            assert (await task).subnet == "large"

    run(main())


def test_a_policy_that_cannot_be_built_leaves_the_one_before_in_place():
    def broken(profile):
        raise ValueError("buckets must be positive")

    async def main():
        async with Harness(always("large")) as h:
            with pytest.raises(ValueError, match="buckets"):
                h.dispatcher.set_policy(broken, "broken")
            assert h.dispatcher.policy_name == "test"
            h.submit()
            assert h.pool.sent[0].dispatch.subnet == "large"

    run(main())


class Ticking(Always):
    tick_period = 0.001

    def __init__(self, ticked: asyncio.Event, fail: bool) -> None:
        super().__init__(Choice("small", 1))
        self._ticked = ticked
        self._ticks = 0
        self._fail = fail

    def on_tick(self, view, now):
        self._ticks += 1
        if self._ticks == 3:
            self._ticked.set()
        if self._fail:
            raise ZeroDivisionError("no rate")


@pytest.mark.parametrize("fail", [False, True])
def test_a_policy_that_asks_for_ticks_gets_them_even_when_it_fails_in_one(fail: bool):
    async def main():
        ticked = asyncio.Event()
        async with Harness(lambda _: Ticking(ticked, fail)) as h:
            while not ticked.is_set():
                h.clock.now += 0.002
                await asyncio.sleep(0)

    run(main())
