"""A whole server over emulated workers: real HTTP, scheduler and policies, and no torch."""

import argparse
import asyncio

import uvloop

from policies import load_policy
from policies.types import Profile
from superserve.config import Config
from superserve.dispatcher import Dispatcher
from superserve.emulated import DEVICE_TYPE, EmulatedPool
from superserve.messages import ModelInfo, Preprocessing
from superserve.scheduler import Scheduler
from superserve.server.app import create_app
from superserve.server.run import run_server

# One worker serves 80, 160 or 640 queries per second: little work for a small machine.
PROFILE = Profile.from_table([("small", 90.0, {1: 0.002, 4: 0.00625}),
                              ("middle", 95.0, {1: 0.008, 4: 0.025}),
                              ("large", 98.0, {1: 0.016, 4: 0.05})])  # fmt: skip
# As on real devices: a batch usually takes less than what was planned with.
USUAL = Profile.from_table(
    (
        subnet,
        accuracy,
        {b: 0.85 * seconds for b, seconds in zip(PROFILE.batch_sizes, row, strict=True)},
    )
    for subnet, accuracy, row in zip(
        PROFILE.subnets, PROFILE.accuracies, PROFILE.latencies, strict=True
    )
)
MODEL = ModelInfo(
    name="digits",
    labels=tuple("0123456789"),
    preprocessing=Preprocessing(32, 32, 1, (0.5,), (0.5,)),
    subnets={subnet: subnet for subnet in PROFILE.subnets},
    weights_hash="emulated",
    resident_bytes=0,
)


async def serve(host: str, port: int, policy: str) -> None:
    config = Config(host=host, port=port)
    pool = EmulatedPool(["emulated#0"], (MODEL,), {MODEL.name: USUAL}, slots=config.slots)
    workers = await pool.start()
    make_policy = load_policy(policy)
    scheduler = Scheduler({(MODEL.name, DEVICE_TYPE): PROFILE}, make_policy)
    dispatcher = Dispatcher(scheduler, pool, make_policy=make_policy, policy_name=policy)
    await dispatcher.start(workers, config.credits)
    try:
        await run_server(create_app(dispatcher, config, profiles={MODEL.name: PROFILE}), config)
    finally:
        await dispatcher.stop(1.0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--policy", default="default")
    given, _ = parser.parse_known_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(given.host, given.port, given.policy))
