"""Whatever happens in whatever order: one answer for each submit, one release for each slot."""

import asyncio
import contextlib
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from superserve.errors import Overloaded, SuperServeError
from superserve.messages import Answer
from tests.superserve.dispatching import Harness, always, run
from tests.superserve.fake_engine import SHAPE
from tests.superserve.fake_pool import Sent

WORKERS = ("w0", "w1")
SLOTS = 6
places = st.integers(0, 20)
names = st.sampled_from(WORKERS)
steps = st.one_of(
    st.tuples(st.just("submit"), st.floats(0.1, 12.0)),
    st.tuples(st.just("cancel"), places),
    st.tuples(st.sampled_from(["answer", "fail"]), places),  # also of what is long over
    st.tuples(st.sampled_from(["lose", "join"]), names),
    st.tuples(st.just("pass time"), st.floats(0.0, 3.0)),
    st.tuples(st.just("run tasks"), st.none()),
)


class Players:
    """Clients and workers, who keep the rules of a pool: the dead are sent nothing."""

    def __init__(self, harness: Harness) -> None:
        self.h = harness
        self.tasks: list[asyncio.Task[Answer]] = []
        self.alive = set(WORKERS)
        self.running: list[Sent] = []  # on living workers
        self._seen = 0

    async def step(self, action: str, argument: Any) -> None:
        h = self.h
        match action:
            case "submit":
                with contextlib.suppress(Overloaded):
                    self.tasks.append(h.submit(len(self.tasks), slo=argument))
            case "cancel" if self.tasks:
                self.tasks[argument % len(self.tasks)].cancel()
            case "answer" | "fail" if h.pool.sent:
                sent = h.pool.sent[argument % len(h.pool.sent)]
                self.running = [one for one in self.running if one is not sent]
                (h.pool.answer if action == "answer" else h.pool.fail)(sent)
            case "lose" if argument in self.alive:
                self.alive.discard(argument)
                self.running = [s for s in self.running if s.dispatch.worker in self.alive]
                h.pool.lose(argument)
            case "join" if argument not in self.alive:
                self.alive.add(argument)
                h.pool.join(argument)
            case "pass time":
                h.clock.now += argument
            case "run tasks":
                await h.settle()
        new = h.pool.sent[self._seen :]
        self._seen += len(new)
        self.running += new

    def check(self) -> None:
        h = self.h
        assert h.taken == h.scheduler.waiting + h.scheduler.in_flight
        for sent in self.running:
            assert sent.dispatch.worker in self.alive
            for slot, pixel in zip(sent.slots, sent.pixels, strict=True):
                assert h.pool.slots.pixels(slot, SHAPE)[0, 0, 0] == pixel, "reused too early"

    async def check_end(self) -> None:
        await self.h.dispatcher.stop(drain=0.0)
        await self.h.settle()
        assert self.h.taken == 0
        for pixel, task in enumerate(self.tasks):
            assert task.done()
            if task.cancelled():
                continue
            error = task.exception()
            assert error is None or isinstance(error, SuperServeError)
            assert error is not None or task.result().predictions[0].index == pixel


@settings(deadline=None, max_examples=150)
@given(st.lists(steps, max_size=40), st.sampled_from([1, 2]))
def test_every_submit_is_answered_once_and_every_slot_comes_back_after_its_last_reader(
    actions, credits
):
    """Freeing a slot twice raises; freeing it too early shows as a changed image."""

    async def main():
        async with Harness(always("small"), workers=WORKERS, slots=SLOTS, credits=credits) as h:
            players = Players(h)
            for action, argument in actions:
                await players.step(action, argument)
                players.check()
            await players.check_end()

    run(main())
