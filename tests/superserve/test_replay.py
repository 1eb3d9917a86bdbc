"""What the dispatcher did live, the bare scheduler decides again from the record of its events."""

import asyncio
import random
from typing import Any

import pytest

from policies import POLICIES, Profile
from superserve.dispatcher import Dispatcher
from superserve.emulated import EmulatedPool
from superserve.errors import SuperServeError
from superserve.messages import Command
from superserve.scheduler import Scheduler
from tests.superserve.dispatching import run
from tests.superserve.fake_engine import SHAPE, model

PROFILE = Profile.from_table([
    ("small", 50.0, {1: 0.001, 4: 0.002, 16: 0.004}),
    ("large", 80.0, {1: 0.003, 4: 0.006, 16: 0.016}),
])  # fmt: skip
PROFILES = {("fake", "emulated"): PROFILE}
Record = list[tuple[str, tuple[Any, ...], list[Command]]]


async def serve_a_burst(policy: str) -> tuple[Record, Dispatcher, list[asyncio.Task[Any]]]:
    """200 queries with deadlines of every tightness, one crash, some clients that go away."""
    rng = random.Random(0)
    record: Record = []
    pool = EmulatedPool(("w0", "w1"), (model(),), {"fake": PROFILE}, slots=64, restart_delay=0.005)
    make_policy = POLICIES[policy]
    dispatcher = Dispatcher(
        Scheduler(PROFILES, make_policy),
        pool,
        make_policy=make_policy,
        policy_name=policy,
        recorder=lambda *event: record.append(event),
    )
    await dispatcher.start(await pool.start(), credits=2)
    tasks = []
    for i in range(200):
        try:
            slot = dispatcher.reserve()
        except SuperServeError:
            await asyncio.gather(*tasks, return_exceptions=True)
            slot = dispatcher.reserve()
        slo = rng.choice([0.0005, 0.004, 0.01, 0.05, 0.5])
        floor = rng.choice([0.0, 0.0, 60.0])
        answer = dispatcher.submit(
            slot, model="fake", shape=SHAPE, arrival=dispatcher.clock(), slo=slo, min_accuracy=floor
        )
        tasks.append(asyncio.create_task(answer))
        if i == 60:
            pool.abandon("w0")
        if i % 7 == 3:
            rng.choice(tasks).cancel()
        if i % 5 == 0:
            await asyncio.sleep(0)
    await dispatcher.stop(drain=10.0)
    await asyncio.gather(*tasks, return_exceptions=True)
    return record, dispatcher, tasks


@pytest.mark.parametrize("policy", ["default", "maxacc", "maxbatch", "fixed"])
def test_a_bare_scheduler_given_the_same_events_decides_the_same(policy: str):
    async def main():
        record, dispatcher, tasks = await serve_a_burst(policy)
        events = {event for event, _, _ in record}
        assert {"arrive", "worker_free", "worker_lost", "worker_joined", "cancel"} <= events
        assert len(tasks) == dispatcher.metrics.snapshot()["arrived"] == 200
        bare = Scheduler(PROFILES, POLICIES[policy])
        for event, arguments, commands in record:
            assert getattr(bare, event)(*arguments) == commands
        assert repr(bare).startswith("<Scheduler 0 waiting, 0 in flight")

    run(main())
