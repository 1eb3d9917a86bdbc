"""Laws that hold for every simulated run."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.simulate import simulate, simulate_arrays
from loadtest.simulation_noise import Exponential, Lognormal
from loadtest.simulation_outcomes import DROPPED
from loadtest.simulation_workers import Fail, Join, Restart, WorkerSpec
from policies import POLICIES, Choice, Profile, Wait
from tests.loadtest.simulating import PROFILE

NAMES = st.sampled_from("abcd")


@st.composite
def runs(draw):
    """Arguments of a run: short, crowded and with trouble."""
    least = draw(st.sampled_from([0, 1, 10, 30]))
    gap = st.sampled_from([0.0, 0.125, 0.5, 1.0, 3.0])
    gaps = draw(st.lists(gap, min_size=least, max_size=40))
    times = np.cumsum(gaps)
    size = len(gaps)
    slos = draw(st.lists(st.sampled_from([0.5, 1.0, 2.5, 6.0, 50.0]), min_size=size, max_size=size))
    floors = draw(st.lists(st.sampled_from([0.0, 0.0, 75.0, 80.0]), min_size=size, max_size=size))
    at = st.sampled_from([0.0, 0.25, 1.0, 2.0, 5.0, 9.0])
    spec = st.builds(
        WorkerSpec,
        NAMES,
        st.sampled_from(["cpu", "gpu"]),
        st.sampled_from([0.5, 1.0, 3.0]),
    )
    trouble = st.one_of(
        st.builds(Fail, at, NAMES), st.builds(Restart, at, NAMES), st.builds(Join, at, spec)
    )
    least = draw(st.sampled_from([0, 1, 1, 2]))
    workers = draw(st.lists(spec, min_size=least, max_size=3, unique_by=lambda w: w.name))
    known = {worker.name for worker in workers}
    events = []
    for event in sorted(draw(st.lists(trouble, max_size=6)), key=lambda event: event.at):
        if isinstance(event, Join):
            known.add(event.worker.name)
        elif event.worker not in known:
            continue
        events.append(event)
    return {
        "arrivals": times,
        "slo": np.array(slos),
        "min_accuracy": np.array(floors),
        "profile": PROFILE,
        "policy": draw(st.sampled_from([*POLICIES.values(), Hesitant])),
        "workers": workers,
        "events": events,
        "seed": draw(st.integers(0, 3)),
        "noise": draw(st.sampled_from([None, Lognormal(0.3), Exponential()])),
        "late": draw(st.sampled_from(["drop", "serve"])),
        "credits": draw(st.integers(1, 3)),
        "reserve": draw(st.sampled_from([0.0, 0.25])),
        "max_waiting": draw(st.sampled_from([None, 4])),
        "actuation": draw(st.sampled_from([0.0, 0.25])),
        "profiles": {"gpu": Profile.from_table([("small", 70.0, {1: 0.25, 4: 0.5}),
                                                ("large", 81.0, {1: 0.5, 4: 1.5})])},
    }  # fmt: skip


class Hesitant:
    """Waits for company, sheds when it is crowded, and ticks."""

    tick_period = 0.75

    def __init__(self, profile):
        self.profile = profile

    def choose(self, view, now):
        if len(view) == 1 and view.head.deadline - now > 3.0:
            return Wait(now + 0.5)
        return Choice(self.profile.smallest, 4, shed=int(len(view) > 6))

    def on_tick(self, view, now):
        pass


def alive_at_the_end(arguments):
    alive = {worker.name for worker in arguments["workers"]}
    for event in arguments["events"]:
        match event:
            case Fail(_, name):
                alive.discard(name)
            case Restart(_, name):
                alive.add(name)
            case Join(_, worker):
                alive.add(worker.name)
    return alive


def settle_one_each(outcomes):
    """Every query has one outcome, and it is in one batch that was not lost."""
    answered = outcomes.dropped == 0
    assert np.array_equal(answered, ~np.isnan(outcomes.finish))
    assert np.array_equal(answered, outcomes.dispatch >= 0)
    assert np.array_equal(answered, outcomes.subnet >= 0)
    made = outcomes.dispatches
    survived = ~np.isnan(made.finish)
    riders = np.bincount(outcomes.dispatch[answered], minlength=len(made))
    assert np.array_equal(riders, np.where(survived, made.size, 0))


@settings(max_examples=200, deadline=None)
@given(runs())
def test_every_query_gets_exactly_one_record_whatever_happens(arguments):
    log = []
    outcomes = simulate_arrays(**arguments, log=log)
    records = outcomes.records()
    assert [record.arrival for record in records] == arguments["arrivals"].tolist()
    for record in records:
        assert (record.finish is None) == (record.dropped is not None)
        assert record.dropped in DROPPED
        assert record.finish is None or record.finish >= record.arrival
    settle_one_each(outcomes)
    if "unanswered" in outcomes.drops:
        assert arguments["late"] == "serve"
        assert not alive_at_the_end(arguments)
    times = [arguments[-1] if name != "worker_joined" else arguments[2]
             for name, arguments, _ in log]  # fmt: skip
    assert times == sorted(times), "the clock ran backwards"


@settings(max_examples=100, deadline=None)
@given(runs())
def test_workers_run_one_batch_after_the_other(arguments):
    made = simulate_arrays(**arguments).dispatches
    assert np.all(made.decided <= made.start)
    for worker in range(len(made.workers)):
        mine = (made.worker == worker) & ~np.isnan(made.finish)
        assert np.all(made.finish[mine][:-1] <= made.start[mine][1:])
        assert np.all(made.start[mine] <= made.finish[mine])


@settings(max_examples=50, deadline=None)
@given(runs())
def test_the_same_arguments_give_the_same_run(arguments):
    first, second = [], []
    assert simulate(**arguments, log=first) == simulate(**arguments, log=second)
    assert first == second
