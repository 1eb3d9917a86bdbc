"""One log of events, three that run it: the live dispatcher, the simulation, the bare scheduler."""

from dataclasses import replace

import numpy as np
import pytest

from loadtest.arrivals import gamma
from loadtest.simulate import replay, simulate_arrays
from loadtest.simulation_noise import Lognormal
from loadtest.simulation_workers import Fail, Join, Restart, WorkerSpec
from policies import POLICIES, Profile
from superserve.dispatcher import Dispatcher
from superserve.messages import BatchResult, Dispatch, WorkerInfo
from superserve.pool import Done, Joined, Lost
from superserve.scheduler import Scheduler
from tests.superserve.dispatching import Clock, run
from tests.superserve.fake_engine import SHAPE, model
from tests.superserve.fake_pool import FakePool
from tests.superserve.test_replay import PROFILES, serve_a_burst

PROFILE = Profile.from_table([
    ("small", 50.0, {1: 0.001, 4: 0.002, 16: 0.004}),
    ("large", 80.0, {1: 0.003, 4: 0.006, 16: 0.016}),
])  # fmt: skip
CREDITS = 2
POLICY_NAMES = ["default", "maxacc", "maxbatch", "fixed"]


def a_simulation(policy):
    """Some 300 queries of every tightness in a quarter of a second, with trouble among workers."""
    arrivals = gamma(1200.0, 0.25, cv2=6.0, seed=11)
    rng = np.random.default_rng(11)
    slos = rng.choice([0.0005, 0.004, 0.01, 0.05, 0.5], len(arrivals))
    log = []
    outcomes = simulate_arrays(
        arrivals,
        slos,
        PROFILE,
        policy,
        workers=2,
        seed=11,
        min_accuracy=rng.choice([0.0, 0.0, 60.0], len(arrivals)),
        credits=CREDITS,
        noise=Lognormal(0.3),
        events=[Fail(0.05, "w0"), Join(0.1, WorkerSpec("w2", speed=0.5)), Restart(0.15, "w0")],
        log=log,
    )
    return slos, outcomes, log


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_what_a_live_dispatcher_did_is_replayed_command_for_command(policy):
    async def main():
        record, _, _ = await serve_a_burst(policy)
        events = [(name, arguments) for name, arguments, _ in record]
        assert {name for name, _ in events} >= {"arrive", "worker_free", "worker_lost", "cancel"}
        replayed = list(replay(Scheduler(PROFILES, POLICIES[policy]), events))
        assert replayed == [commands for _, _, commands in record]

    run(main())


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_a_simulation_is_replayed_command_for_command(policy):
    _, outcomes, log = a_simulation(policy)
    assert {name for name, _, _ in log} == {
        "arrive", "worker_free", "worker_joined", "worker_lost", "tick"
    }  # fmt: skip
    bare = Scheduler({("", "cpu"): PROFILE}, POLICIES[policy])
    replayed = list(replay(bare, [(name, arguments) for name, arguments, _ in log]))
    assert replayed == [commands for _, _, commands in log]
    sent = [c for commands in replayed for c in commands if isinstance(c, Dispatch)]
    assert [len(dispatch.queries) for dispatch in sent] == outcomes.dispatches.size.tolist()


def test_a_replay_tells_its_recorder_what_happened():
    _, _, log = a_simulation("default")
    again = []
    bare = Scheduler({("", "cpu"): PROFILE}, POLICIES["default"])
    events = ((name, arguments) for name, arguments, _ in log)
    for _ in replay(bare, events, lambda *event: again.append(event)):
        pass
    assert again == log


def worker_info(name):
    return WorkerInfo(name, "cpu", "cpu", 1, (replace(model(), name=""),))


class Stage:
    """A live dispatcher, to which the test says what happens and when; no time passes by itself."""

    def __init__(self, policy):
        self.record = []
        self.clock = Clock()
        self.clock.now = 0.0
        self.pool = FakePool(slots=512)
        self.dispatcher = Dispatcher(
            Scheduler({("", "cpu"): PROFILE}, POLICIES[policy]),
            self.pool,
            make_policy=POLICIES[policy],
            policy_name=policy,
            clock=self.clock,
            hang_grace=1e6,
            recorder=lambda *event: self.record.append(event),
        )

    def happen(self, name, arguments, slos):
        """The same event as it reaches a dispatcher: from a client, the pool or its alarm."""
        match name, arguments:
            case "arrive", (query, now):
                self.clock.now = now
                answer = self.dispatcher.submit(
                    self.dispatcher.reserve(),
                    model="",
                    shape=SHAPE,
                    arrival=query.arrival,
                    slo=slos[query.id],
                    min_accuracy=query.min_accuracy,
                    priority=query.priority,
                )
                answer.close()  # nobody waits for it
            case "worker_free", (worker, dispatch_id, now):
                self.clock.now = now
                [sent] = [s for s in self.pool.sent if s.dispatch.id == dispatch_id]
                nothing = ((),) * len(sent.dispatch.queries)
                self.pool._deliver(Done(worker, BatchResult(dispatch_id, nothing, 0.001)))
            case "worker_lost", (worker, now):
                self.clock.now = now
                self.pool._deliver(Lost(worker, "the log says so"))
            case "worker_joined", (worker, _, now, _):
                self.clock.now = now
                self.pool._deliver(Joined(worker_info(worker)))
            case "tick", (now,):
                self.clock.now = now
                self.dispatcher._tick()


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_a_live_dispatcher_does_what_the_simulation_did(policy):
    slos, _, log = a_simulation(policy)

    async def main():
        stage = Stage(policy)
        await stage.dispatcher.start([worker_info("w0"), worker_info("w1")], CREDITS)
        # From here on nothing gives way to the event loop, so no timer of real time can ring.
        for name, arguments, _ in log[2:]:
            stage.happen(name, arguments, slos.tolist())
        record = list(stage.record)
        await stage.dispatcher.stop(drain=0.0)
        assert record == log

    run(main())
