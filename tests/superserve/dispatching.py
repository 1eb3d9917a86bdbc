"""A dispatcher before a fake pool and a clock that the test turns."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, Self

from policies import Choice, Profile, QueueView
from superserve.dispatcher import Dispatcher
from superserve.guarded import MakePolicy
from superserve.messages import Answer
from superserve.scheduler import Scheduler
from tests.superserve.fake_engine import SHAPE
from tests.superserve.fake_pool import FakePool, worker

PATIENCE = 20.0  # seconds after which a test gives up; none waits that long when all is well
PROFILE = Profile.from_table([("small", 50.0, {1: 1.0, 4: 2.0}), ("large", 80.0, {1: 3.0, 4: 6.0})])


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, PATIENCE))


class Always:
    """The same choice whatever waits."""

    def __init__(self, choice: Choice | None) -> None:
        self.choice = choice

    def choose(self, view: QueueView, now: float) -> Choice | None:
        return self.choice


def always(subnet: str, batch: int = 4, shed: int = 0) -> MakePolicy:
    return lambda _: Always(Choice(subnet, batch, shed))


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Harness:
    """A started dispatcher. Its clock stands still unless the test turns it."""

    def __init__(
        self,
        make_policy: MakePolicy | None = None,
        *,
        workers: Sequence[str] = ("w0",),
        slots: int = 8,
        credits: int = 1,
        profile: Profile = PROFILE,
        hang_grace: float = 1000.0,
        max_waiting: int | None = None,
    ) -> None:
        self.clock = Clock()
        self.pool = FakePool(slots)
        make_policy = make_policy or always("small")
        self.scheduler = Scheduler(
            {("fake", "fake"): profile}, make_policy, max_waiting=max_waiting
        )
        self.dispatcher = Dispatcher(
            self.scheduler,
            self.pool,
            make_policy=make_policy,
            policy_name="test",
            clock=self.clock,
            hang_grace=hang_grace,
        )
        self._workers = workers
        self._credits = credits

    async def __aenter__(self) -> Self:
        await self.dispatcher.start([worker(name) for name in self._workers], self._credits)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.dispatcher.stop(drain=0.0)

    @property
    def taken(self) -> int:
        return self.pool.slots.taken

    def submit(self, pixel: int = 0, slo: float = 50.0, **fields: Any) -> asyncio.Task[Answer]:
        """Submit an image whose first pixel is this."""
        slot = self.dispatcher.reserve()
        self.dispatcher.slot_pixels(slot, SHAPE)[:] = pixel
        fields = {"model": "fake", "shape": SHAPE, "arrival": self.clock(), "slo": slo} | fields
        return asyncio.create_task(self.dispatcher.submit(slot, **fields))

    async def settle(self) -> None:
        """Let every task that can go on do so."""
        for _ in range(5):
            await asyncio.sleep(0)
