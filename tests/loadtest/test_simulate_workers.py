"""Simulated workers: actuation, loading, speeds, device types, failures and joins, by hand."""

import numpy as np
import pytest

from loadtest.simulate import simulate, simulate_arrays
from loadtest.simulation_workers import Fail, Join, Restart, WorkerSpec
from policies import Choice, Profile
from tests.loadtest.simulating import LONG, PROFILE, SOLO, Always, Script, always, finishes, reasons


@pytest.mark.parametrize(
    ("actuation", "expected"), [(0.0, [1.0, 11.0, 22.0, 31.0]), (0.5, [1.0, 11.0, 22.5, 31.5])]
)
def test_actuation_is_paid_for_every_change_of_the_subnet(actuation, expected):
    policy = Script("small", "small", "large", "small")
    records = simulate([0, 10, 20, 30], LONG, PROFILE, policy, workers=1, actuation=actuation)
    assert finishes(records) == expected


@pytest.mark.parametrize(
    ("resident", "loaded", "expected"),
    [
        (1, (), [4.0, 11.0, 26.0, 34.0]),  # 3 + 1, 1, 4 + 2, 3 + 1
        (2, (), [4.0, 11.0, 26.0, 31.0]),  # the small one is still there
        (1, ("small",), [1.0, 11.0, 26.0, 34.0]),
        (2, ("large", "small"), [1.0, 11.0, 22.0, 31.0]),
    ],
)
def test_loading_is_paid_for_a_subnet_that_is_not_resident(resident, loaded, expected):
    policy = Script("small", "small", "large", "small")
    records = simulate(
        [0, 10, 20, 30],
        LONG,
        PROFILE,
        policy,
        workers=[WorkerSpec("w", loaded=loaded)],
        loading={"small": 3.0, "large": 4.0},
        resident=resident,
    )
    assert finishes(records) == expected


@pytest.mark.parametrize(
    ("resident", "order", "loaded"),
    [
        (2, "abacb", [1, 1, 0, 1, 1]),  # c pushes out b, not a
        (3, "abcba", [1, 1, 1, 0, 0]),  # b, used again, takes no second place
    ],
)
def test_the_least_recently_used_subnet_makes_room(resident, order, loaded):
    profile = Profile.from_table([(name, 70.0 + i, {1: 1.0 + i}) for i, name in enumerate("abc")])
    outcomes = simulate_arrays(
        [0, 10, 20, 30, 40],
        LONG,
        profile,
        Script(*order),
        workers=1,
        loading=dict.fromkeys("abc", 5.0),
        resident=resident,
    )
    needed = [profile.latency(name, 1) for name in order]
    assert (outcomes.latency - needed).tolist() == [5.0 * each for each in loaded]


def test_a_batch_takes_what_is_true_and_not_what_is_planned():
    true = Profile.from_table([("only", 75.0, {1: 3.0})])
    outcomes = simulate_arrays([0.0], 2.0, SOLO, "fixed", workers=1, true_profile=true)
    [record] = outcomes.records()
    assert (record.finish, record.met) == (3.0, False)
    assert outcomes.attainment == 0.0


def test_a_slow_worker_takes_longer():
    workers = [WorkerSpec("slow", speed=0.25), WorkerSpec("fast", speed=2.0)]
    assert finishes(simulate([0.0, 0.0], LONG, SOLO, "fixed", workers)) == [4.0, 0.5]


def test_each_device_type_has_its_profile_planned_and_true():
    slow = Profile.from_table([("only", 75.0, {1: 4.0})])
    truth = Profile.from_table([("only", 75.0, {1: 5.0})])
    workers = [WorkerSpec("a", "cpu"), WorkerSpec("b", "gpu"), WorkerSpec("c", "old")]
    outcomes = simulate_arrays(
        [0.0, 0.0, 0.0],
        LONG,
        SOLO,
        "fixed",
        workers,
        profiles={"gpu": slow, "old": slow, "unused": SOLO},
        true_profile={"old": truth},
    )
    assert outcomes.finish.tolist() == [1.0, 4.0, 5.0]
    assert [outcomes.dispatches.workers[i] for i in outcomes.dispatches.worker] == ["a", "b", "c"]


def test_a_device_type_that_no_worker_has_does_not_keep_a_query_waiting():
    slow = Profile.from_table([("only", 75.0, {1: 4.0})])
    # Only a device that is not there could serve it in time: it is hopeless at once.
    records = simulate(
        [0.0], 2.0, SOLO, "fixed", [WorkerSpec("a", "gpu")], profiles={"gpu": slow}, late="drop"
    )
    assert reasons(records) == ["expired"]


# Failures and joins.


def test_the_batch_of_a_lost_worker_runs_again_elsewhere():
    log = []
    outcomes = simulate_arrays(
        [0.0], LONG, PROFILE, always("large"), workers=2, events=[Fail(0.5, "w0")], log=log
    )
    assert outcomes.finish.tolist() == [2.5]
    answers = [arguments for name, arguments, _ in log if name == "worker_free"]
    assert answers == [("w1", 1, 2.5)]  # the dead do not answer
    assert outcomes.dispatch.tolist() == [1]
    assert np.isnan(outcomes.dispatches.finish[0])
    assert outcomes.dispatches.worker.tolist() == [0, 1]


def test_it_goes_before_those_with_later_deadlines():
    # w1 is busy with the second until 2; the third waits with a later deadline than the first.
    records = simulate(
        [0.0, 0.0, 0.25], [10.0, 20.0, 30.0], PROFILE, always("large"), workers=2,
        events=[Fail(0.5, "w0")],
    )  # fmt: skip
    assert finishes(records) == [4.0, 2.0, 6.0]


def test_a_query_that_loses_two_workers_is_given_up():
    records = simulate(
        [0.0], LONG, PROFILE, always("large"), workers=3, events=[Fail(1, "w0"), Fail(2, "w1")]
    )
    assert reasons(records) == ["worker_lost"]


def test_without_workers_queries_are_refused_until_one_joins():
    joining = Join(2.0, WorkerSpec("new"))
    records = simulate([1.0, 2.0], LONG, SOLO, "fixed", workers=0, events=[joining])
    assert (finishes(records), reasons(records)) == ([None, 3.0], ["no_worker", None])


def test_a_restarted_worker_serves_on_and_pays_for_its_cold_start():
    events = [Fail(0.5, "w0"), Restart(3.0, "w0")]
    options = {"workers": 1, "events": events, "loading": {"only": 0.5}}
    assert finishes(simulate([0.0], LONG, SOLO, "fixed", **options)) == [4.5]


def test_a_restart_of_a_live_worker_loses_its_batch():
    outcomes = simulate_arrays(
        [0.0], LONG, SOLO, "fixed", workers=1, events=[Restart(0.5, "w0"), Fail(5.0, "w0")]
    )
    assert (outcomes.finish.tolist(), len(outcomes.dispatches)) == ([1.5], 2)


def test_a_join_may_replace_a_worker_by_a_faster_one():
    events = [Join(0.5, WorkerSpec("w0", speed=4.0)), Fail(2.0, "w0"), Restart(3.0, "w0")]
    records = simulate([0.0, 4.0], LONG, SOLO, "fixed", workers=1, events=events)
    assert finishes(records) == [0.75, 4.25]


def test_what_nobody_can_serve_any_more_is_left_unanswered():
    class Ticking(Always):
        tick_period = 0.5

        def on_tick(self, view, now):
            pass

    # Told to serve the late, and no worker will ever come back.
    options = {"workers": 1, "events": [Fail(0.5, "w0")], "late": "serve"}
    records = simulate([0.0, 0.25], 9.0, SOLO, Ticking(Choice("only", 1)), **options)
    assert reasons(records) == ["unanswered", "unanswered"]
