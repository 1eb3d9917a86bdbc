"""The scheduler's laws, under any order of events, any policy, several models and device types.

A second, naive bookkeeping (plain dicts and scans) follows the commands and checks each of them.
"""

import random
from math import inf

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from policies import POLICIES, Choice, Profile
from superserve.messages import Complete, Dispatch, Drop, DropReason, Fail, Query, Wake
from superserve.pairing import PolicyError
from superserve.scheduler import Scheduler

FAST = Profile.from_table(
    [
        ("small", 70.0, {1: 1.0, 2: 1.5, 4: 2.5}),
        ("mid", 75.0, {1: 2.0, 2: 3.0, 4: 5.5}),
        ("large", 80.0, {1: 4.0, 2: 7.0, 4: 13.0}),
    ]
)
SLOW = Profile.from_table([("small", 70.0, {1: 3.0, 4: 8.0}), ("mid", 75.0, {1: 6.0, 4: 18.0})])
PROFILES = {("a", "fast"): FAST, ("a", "slow"): SLOW, ("b", "fast"): FAST}
FLOORS = {"a": (0.0, 70.0, 72.0, 75.0, 80.0), "b": (0.0, 80.0)}


class Erratic:
    """Waits, sheds, chooses anything at all, and sometimes fails; seeded, so that runs repeat."""

    tick_period = 5.0

    def __init__(self, profile, seed, failing=0.0):
        self.profile = profile
        self.rng = random.Random(seed)
        self.failing = failing

    def fails(self):
        if self.rng.random() < self.failing:
            raise ZeroDivisionError

    def choose(self, view, now):
        self.fails()
        assert [w.deadline for w in view.waiting] == sorted(w.deadline for w in view.waiting)
        assert len(view) == len(list(view.waiting)) > 0
        if self.rng.random() < 0.3:
            return None
        batch = self.rng.randint(1, self.profile.max_batch)
        shed = self.rng.choice([0, 0, 0, 1, 2])
        return Choice(self.rng.choice(self.profile.subnets), batch, shed)

    def admit(self, view, waiting):
        self.fails()
        return self.rng.random() < 0.9

    def on_tick(self, view, now):
        self.fails()


class SchedulerMachine(RuleBasedStateMachine):
    """Time only moves on; every event goes to the scheduler and every command is checked."""

    late = "drop"

    def __init__(self):
        super().__init__()
        self.scheduler = Scheduler(PROFILES, POLICIES["default"], late=self.late, max_waiting=12)
        self.now = 0.0
        self.wake = inf
        self.queries = {}  # every query that arrived, by id
        self.waiting = {}  # those without an answer that no worker holds
        self.answered = {}  # how often each id was answered
        self.in_flight = {}  # dispatches by id
        self.dispatched = []  # all there ever were
        self.workers = {}  # name -> (device type, credits)
        self.losses = {}  # how many workers each id was lost with

    # The second bookkeeping.

    def cost(self, query, device_types=("fast", "slow")):
        """The least time for this query alone, by looking at every subnet there is."""
        return min(
            (
                profile.latency(subnet, 1)
                for (model, device_type), profile in PROFILES.items()
                for subnet in profile.subnets
                if model == query.model and device_type in device_types
                if profile.accuracy(subnet) >= query.min_accuracy
            ),
            default=inf,
        )

    def hopeless(self, query):
        return self.now > query.deadline - self.cost(query)

    def perform(self, event, *arguments):
        """One event and its commands; a policy that failed is replaced, as a server would."""
        try:
            commands = event(*arguments)
        except PolicyError:
            self.scheduler.set_policy(POLICIES["slackfit"])
            commands = self.scheduler.tick(self.now)
        self.follow(commands)
        return commands

    def follow(self, commands):
        for command in commands:
            match command:
                case Dispatch():
                    self.check_dispatch(command)
                case Complete(dispatch, now) | Fail(dispatch, now):
                    assert now <= self.now
                    assert self.in_flight.pop(dispatch.id) == dispatch
                    for query in dispatch.queries:
                        self.answer(query)
                case Drop(query, reason, _):
                    assert self.waiting.pop(query.id) == query
                    self.check_drop(query, reason)
                    self.answer(query)
                case Wake(at):
                    assert at >= self.now
                    self.wake = at

    def answer(self, query):
        assert self.answered.get(query.id, 0) == 0, "answered twice"
        self.answered[query.id] = 1

    def check_dispatch(self, dispatch):
        device_type, credits = self.workers[dispatch.worker]  # KeyError: a lost worker got work
        holds = [d for d in self.in_flight.values() if d.worker == dispatch.worker]
        assert len(holds) < credits
        profile = PROFILES[dispatch.model, device_type]
        assert 1 <= len(dispatch.queries) <= profile.max_batch
        assert dispatch.accuracy == profile.accuracy(dispatch.subnet)
        assert dispatch.finish == dispatch.start + profile.latency(
            dispatch.subnet, len(dispatch.queries)
        )
        assert dispatch.start >= self.now
        for query in dispatch.queries:
            assert query.model == dispatch.model
            assert query.min_accuracy <= dispatch.accuracy
            assert self.losses.get(query.id, 0) < 2
            assert self.waiting.pop(query.id) == query
        self.check_order(dispatch, device_type)
        self.in_flight[dispatch.id] = dispatch
        self.dispatched.append(dispatch)

    def check_order(self, dispatch, device_type):
        """Nobody who could have been served here in time waits on behind a later deadline."""
        in_time = [q for q in self.waiting.values() if not self.hopeless(q)]
        served = [q for q in dispatch.queries if not self.hopeless(q)]
        if not served:  # a late batch: only when nothing else waits that this worker could serve
            assert not any((q.model, device_type) in PROFILES for q in in_time)
            return
        assert served == sorted(served, key=lambda q: q.deadline)
        for query in in_time:
            if (
                query.model == dispatch.model
                and query.min_accuracy <= dispatch.accuracy
                and dispatch.start + self.cost(query, (device_type,)) <= query.deadline
            ):
                assert query.deadline >= served[-1].deadline

    def check_drop(self, query, reason):
        match reason:
            case DropReason.EXPIRED:
                assert self.late == "drop"
                assert self.hopeless(query)
            case DropReason.WORKER_LOST:
                assert self.losses[query.id] == 2 or self.hopeless(query)
            case DropReason.NO_WORKER:
                assert not any((query.model, kind) in PROFILES for kind, _ in self.workers.values())
            case DropReason.FULL:
                assert len(self.waiting) >= 12

    def lose(self, name):
        """What this worker held waits again, until the scheduler says otherwise."""
        self.workers.pop(name, None)
        for dispatch in [d for d in self.in_flight.values() if d.worker == name]:
            del self.in_flight[dispatch.id]
            for query in dispatch.queries:
                self.losses[query.id] = self.losses.get(query.id, 0) + 1
                self.waiting[query.id] = query

    # The events.

    @rule(
        model=st.sampled_from("ab"),
        slo=st.sampled_from([0.5, 1.0, 2.0, 4.0, 6.0, 10.0, 20.0, 40.0]),
        pick=st.integers(0, 9),
    )
    def arrive(self, model, slo, pick):
        floors = FLOORS[model]
        floor = floors[pick] if pick < len(floors) else 0.0
        number = len(self.queries)
        query = Query(number, self.now, self.now + slo, model, min_accuracy=floor)
        self.queries[number] = query
        self.waiting[number] = query
        self.perform(self.scheduler.arrive, query, self.now)

    @rule(pick=st.integers(0, 60))
    def cancel(self, pick):
        before = dict(self.waiting)
        commands = self.perform(self.scheduler.cancel, pick, self.now)
        assert pick not in self.waiting
        if pick not in before:
            assert not only_drops(commands, DropReason.CANCELLED)

    @rule(
        name=st.sampled_from("uvwxyz"),
        device_type=st.sampled_from(["fast", "slow"]),
        credits=st.integers(1, 3),
    )
    def join(self, name, device_type, credits):
        self.lose(name)
        self.workers[name] = (device_type, credits)
        self.perform(self.scheduler.worker_joined, name, device_type, self.now, credits)

    @rule(name=st.sampled_from("uvwxyz"))
    def die(self, name):
        self.lose(name)
        self.perform(self.scheduler.worker_lost, name, self.now)

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data(), failed=st.sampled_from([False, False, False, True]))
    def finish(self, data, failed):
        dispatch = data.draw(st.sampled_from(list(self.in_flight.values())))
        event = self.scheduler.dispatch_failed if failed else self.scheduler.worker_free
        self.perform(event, dispatch.worker, dispatch.id, self.now)
        assert dispatch.id not in self.in_flight

    @precondition(lambda self: len(self.dispatched) > len(self.in_flight))
    @rule(data=st.data())
    def zombie(self, data):
        """An answer to a dispatch that was answered before, or whose worker was lost."""
        gone = [d for d in self.dispatched if d.id not in self.in_flight]
        dispatch = data.draw(st.sampled_from(gone))
        before = repr(self.scheduler)
        assert self.scheduler.worker_free(dispatch.worker, dispatch.id, self.now) == []
        assert self.scheduler.dispatch_failed(dispatch.worker, dispatch.id, self.now) == []
        assert repr(self.scheduler) == before

    @rule(step=st.sampled_from([0.0, 0.25, 0.5, 1.0, 3.0, 10.0]))
    def pass_time(self, step):
        """Time passes as in a server: no wake is missed."""
        until = self.now + step
        while self.wake <= until:
            self.now, self.wake = max(self.now, self.wake), inf
            self.perform(self.scheduler.tick, self.now)
        self.now = until

    @rule()
    def tick(self):
        self.wake = inf
        self.perform(self.scheduler.tick, self.now)

    @rule(
        name=st.sampled_from([*POLICIES, "erratic", "failing"]),
        seed=st.integers(0, 5),
    )
    def set_policy(self, name, seed):
        if name in POLICIES:
            self.scheduler.set_policy(POLICIES[name])
        else:
            failing = 0.2 if name == "failing" else 0.0
            self.scheduler.set_policy(lambda profile: Erratic(profile, seed, failing))

    @invariant()
    def both_agree_on_what_waits_and_runs(self):
        running = sum(len(d.queries) for d in self.in_flight.values())
        assert (self.scheduler.waiting, self.scheduler.in_flight) == (len(self.waiting), running)
        assert set(self.waiting) | set(self.answered) | {
            q.id for d in self.in_flight.values() for q in d.queries
        } == set(self.queries)

    @invariant()
    def nothing_hopeless_waits_in_secret(self):
        """Whatever is or becomes hopeless, a wake is set no later than that."""
        if self.late == "drop":
            for query in self.waiting.values():
                assert self.wake <= max(self.now, query.deadline - self.cost(query)) + 1e-6

    def teardown(self):
        """In the end, everything is answered: the workers finish, and time passes."""
        self.scheduler.set_policy(POLICIES["default"])
        self.join("last", "fast", 1)
        for _ in range(200):
            for dispatch in list(self.in_flight.values()):
                self.perform(self.scheduler.worker_free, dispatch.worker, dispatch.id, self.now)
            self.pass_time(10.0)
        assert self.scheduler.waiting == self.scheduler.in_flight == 0
        assert set(self.answered) == set(self.queries)


class LateServingMachine(SchedulerMachine):
    late = "serve"


def only_drops(commands, reason):
    return [c for c in commands if isinstance(c, Drop) and c.reason is reason]


@pytest.mark.parametrize("machine", [SchedulerMachine, LateServingMachine])
def test_the_laws_hold_under_any_order_of_events(machine):
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=150,
            stateful_step_count=60,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
