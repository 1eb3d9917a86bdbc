"""Simulated runs against cases worked by hand, and what they tell."""

import math
from functools import partial
from math import nextafter

import numpy as np
import pytest

from loadtest.arrivals import gamma, poisson
from loadtest.paper_profile import PAPER_PROFILE
from loadtest.records import Record
from loadtest.report import summarise, timeline
from loadtest.simulate import simulate, simulate_arrays
from loadtest.simulation_noise import Empirical, Exponential, Lognormal
from loadtest.simulation_workers import Fail, Join, Restart, WorkerSpec
from policies import Choice, Profile, Wait
from policies.fixed import Fixed
from tests.loadtest.simulating import LONG, PROFILE, SOLO, Always, always, finishes, reasons

# One query, one worker, one policy.


def test_a_query_alone_takes_its_latency():
    assert simulate([0.5], 4.0, PROFILE, always("large"), workers=1) == [
        Record(arrival=0.5, deadline=4.5, finish=2.5, subnet="large", accuracy=80.0)
    ]


@pytest.mark.parametrize(
    "policy",
    ["fixed", Fixed, Fixed(PROFILE), partial(Fixed, subnet="largest"), "policies.fixed:Fixed"],
    ids=["name", "class", "instance", "factory", "import path"],
)
def test_a_policy_may_be_given_in_any_form(policy):
    assert finishes(simulate([0.0], LONG, PROFILE, policy, workers=1)) == [2.0]


def test_a_run_without_queries_has_no_records():
    outcomes = simulate_arrays([], 1.0, PROFILE, "default")
    assert (outcomes.records(), len(outcomes.dispatches), outcomes.mean_batch) == ([], 0, None)
    with pytest.raises(ValueError, match="no queries"):
        _ = outcomes.attainment


# The server.


def test_a_batch_takes_what_waits_and_the_rest_waits_for_it():
    # Four per batch and 2 s for it; the first goes alone (1 s: batch 1), the others have come by 1.
    records = simulate([0.0, 0.1, 0.2, 0.3, 0.4, 0.5], LONG, PROFILE, always(batch=4), workers=1)
    assert finishes(records) == [1.0, 3.0, 3.0, 3.0, 3.0, 4.0]


def test_the_earliest_deadline_goes_first():
    slos = [LONG, 9.0, 5.0, 7.0]
    records = simulate([0.0, 0.1, 0.2, 0.3], slos, SOLO, "fixed", workers=1)
    assert finishes(records) == [1.0, 4.0, 2.0, 3.0]


def test_what_cannot_be_served_in_time_is_dropped():
    # The second could start at 1 and be done at 2; it has until 1.9.
    records = simulate([0.0, 0.4], 1.5, SOLO, "fixed", workers=1)
    assert (finishes(records), reasons(records)) == ([1.0, None], [None, "expired"])


def test_late_queries_are_served_after_all_else_if_told_so():
    records = simulate([0.0, 0.4, 0.5], [9.0, 1.5, 9.0], SOLO, "fixed", workers=1, late="serve")
    assert finishes(records) == [1.0, 3.0, 2.0]
    assert [record.met for record in records] == [True, False, True]


def test_a_floor_raises_the_subnet():
    records = simulate([0.0, 9.0], LONG, PROFILE, always(), workers=1, min_accuracy=[0.0, 75.0])
    assert [record.subnet for record in records] == ["small", "large"]


def test_a_full_queue_refuses():
    records = simulate([0.0, 0.1, 0.2], LONG, SOLO, "fixed", workers=1, max_waiting=1)
    assert reasons(records) == [None, None, "full"]


def test_a_policy_may_shed_and_sees_priorities_and_residuals():
    policy = always("only", shed=1)
    # The first is shed at 0 and leaves nothing to run.
    records = simulate([0.0, 0.5], LONG, SOLO, policy, workers=2, priority=[7, 0])
    assert reasons(records) == ["shed", "shed"]
    assert policy.views[0][1][0].priority == 7

    policy = Always(Choice("only", 1))
    simulate([0.0, 0.25], LONG, SOLO, policy, workers=2)
    # The planned residual of the other worker, which began at 0 and takes 1 s.
    assert [worker.residual for worker in policy.views[1][2]] == [0.75, 0.0]


def test_the_policy_does_not_see_what_is_kept_in_reserve():
    policy = always("only")
    simulate([2.0], 10.0, SOLO, policy, workers=1, reserve=0.25)
    assert policy.views[0][0] == 2.0 + 0.25 * 10.0


def test_a_policy_that_waits_is_asked_again_at_its_time():
    class Patient:
        def choose(self, view, now):
            return Wait(3.0) if now < 3.0 else Choice("only", 1)

    [record] = simulate([0.5], LONG, SOLO, Patient(), workers=1)
    assert record.finish == pytest.approx(4.0, abs=1e-12)


def test_a_policy_that_ticks_does_so_at_its_period_and_the_run_still_ends():
    class Ticking(Always):
        tick_period = 0.5

        def __init__(self):
            super().__init__(Choice("only", 1))
            self.ticks = []

        def on_tick(self, view, now):
            self.ticks.append(now)

    policy = Ticking()
    records = simulate([0.0], LONG, SOLO, policy, workers=1)
    assert finishes(records) == [1.0]
    assert policy.ticks == pytest.approx([0.0, 0.5], abs=1e-9)


def test_with_two_credits_the_next_batch_is_given_before_the_last_is_done():
    outcomes = simulate_arrays([0.0, 0.25, 0.5], LONG, SOLO, "fixed", workers=1, credits=2)
    made = outcomes.dispatches
    assert made.decided.tolist() == [0.0, 0.25, 1.0]
    assert made.start.tolist() == [0.0, 1.0, 2.0]
    assert made.finish.tolist() == [1.0, 2.0, 3.0]


# What happens at one time.


def test_completions_come_before_failures():
    records = simulate([0.0], LONG, SOLO, "fixed", workers=1, events=[Fail(1.0, "w0")])
    assert finishes(records) == [1.0]


def test_completions_come_before_arrivals():
    # At 1 the first is done, so that the second runs and leaves its place to the third.
    records = simulate([0.0, 0.5, 1.0], LONG, SOLO, "fixed", workers=1, max_waiting=1)
    assert finishes(records) == [1.0, 2.0, 3.0]


def test_failures_and_joins_come_before_arrivals_in_the_order_given():
    fail, join = Fail(1.0, "w0"), Restart(1.0, "w0")
    run = partial(simulate, [1.0], LONG, SOLO, "fixed", workers=1)
    assert reasons(run(events=[fail])) == ["no_worker"]
    assert finishes(run(events=[fail, join])) == [2.0]
    assert reasons(run(events=[join, fail])) == ["no_worker"]


def test_arrivals_come_before_the_alarm():
    class UntilOne:
        def choose(self, view, now):
            return Wait(1.0) if now < 1.0 else Choice("only", 1)

    log = []
    after = nextafter(1.0, 2.0)  # the scheduler wakes right after the time asked for
    simulate([0.5, after], LONG, SOLO, UntilOne(), workers=1, log=log)
    # The arrival does what the alarm was for and sets the next one: there is no tick.
    assert [name for name, arguments, _ in log if arguments[-1] == after] == ["arrive"]


# Noise.


def test_noise_multiplies_latencies_and_repeats_with_its_seed():
    times = np.arange(200) * 100.0
    run = partial(simulate_arrays, times, LONG, SOLO, "fixed", workers=1)
    first = run(seed=1, noise=Lognormal(0.5)).latency
    assert np.array_equal(first, run(seed=1, noise=Lognormal(0.5)).latency)
    assert not np.array_equal(first, run(seed=2, noise=Lognormal(0.5)).latency)
    # Logarithms of 200 factors: mean 0 and deviation 0.5, with standard errors of 0.035 and 0.025.
    assert np.log(first).mean() == pytest.approx(0.0, abs=0.14)
    assert np.log(first).std() == pytest.approx(0.5, abs=0.1)


def test_measured_factors_are_drawn_from_those_that_were_measured():
    times = np.arange(300) * 100.0
    outcomes = simulate_arrays(
        times, LONG, SOLO, "fixed", workers=1, noise=Empirical((0.5, 2.0, 4.0))
    )
    values, counts = np.unique(outcomes.latency.round(9), return_counts=True)
    assert values.tolist() == [0.5, 2.0, 4.0]
    assert counts.min() > 60  # of 100 expected each, with a deviation of 8


def test_noise_does_not_repeat_the_numbers_that_made_the_arrivals():
    times = poisson(0.001, 1e6, seed=5)
    options = {"workers": 1, "noise": Exponential(), "seed": 5}
    services = simulate_arrays(times, 1e9, SOLO, "fixed", **options).dispatches
    gaps, taken = np.diff(times), services.finish - services.start
    for shift in range(3):
        together = np.corrcoef(gaps[: 900 - shift], taken[shift:900])[0, 1]
        assert abs(together) < 0.15  # standard error 1 / sqrt(900) = 0.033


# What it tells.


def busy_run(**options):
    times = gamma(900.0, 2.0, cv2=4.0, seed=3)
    slos = np.where(np.arange(len(times)) % 3, 0.036, 0.018)
    options = {"workers": 1, "noise": Lognormal(0.2), "seed": 3} | options
    return simulate_arrays(times, slos, PAPER_PROFILE, "slackfit", **options)


def test_the_measures_are_those_of_the_report():
    outcomes = busy_run()
    report = summarise(outcomes.records())
    assert 0.2 < report.attainment < 1.0  # else this would compare trivialities
    assert report.late > 0
    assert outcomes.attainment == report.attainment
    assert outcomes.mean_accuracy == pytest.approx(report.mean_accuracy)
    assert outcomes.effective_accuracy == pytest.approx(report.effective_accuracy)
    assert outcomes.utility() == pytest.approx(report.utility)
    assert outcomes.utility(penalty=0.0) == pytest.approx(report.effective_accuracy)
    assert outcomes.drops == report.dropped
    assert np.nanmax(outcomes.latency) == report.latency.max
    answered = report.met + report.late
    assert outcomes.mean_batch == answered / len(outcomes.dispatches)


@pytest.mark.parametrize("seconds", [2.0, 2.25])
def test_the_series_are_those_of_the_report(seconds):
    outcomes = busy_run()
    series = outcomes.series(0.5, seconds)
    windows = timeline(outcomes.records(), 0.5, seconds)
    assert series.start.tolist() == [window.start for window in windows]
    assert series.queries.tolist() == [window.queries for window in windows]
    assert series.met.tolist() == [window.met for window in windows]
    assert series.rate.tolist() == [window.rate for window in windows]
    for index, window in enumerate(windows):
        if window.attainment is None:
            assert np.isnan(series.attainment[index])
        else:
            assert series.attainment[index] == window.attainment
            assert series.mean_accuracy[index] == pytest.approx(window.mean_accuracy)
    made = outcomes.dispatches
    third = (made.decided >= 1.0) & (made.decided < 1.5)
    assert series.mean_batch[2] == pytest.approx(made.size[third].mean())


def test_series_end_with_the_last_arrival_unless_told_otherwise():
    outcomes = simulate_arrays([0.0, 1.0], LONG, SOLO, "fixed", workers=1)
    assert outcomes.series(0.5).queries.tolist() == [1, 0, 1]
    with pytest.raises(ValueError, match="no windows"):
        outcomes.series(0.5, 1.0)


def test_nothing_met_is_the_worst_utility():
    outcomes = simulate_arrays([0.0], 0.5, SOLO, "fixed", workers=1)
    assert (outcomes.mean_accuracy, outcomes.utility()) == (None, -100.0)
    assert outcomes.drops == {"expired": 1}


def test_the_slack_is_what_the_head_has_left_when_the_batch_is_to_start():
    outcomes = simulate_arrays([0.0, 0.5, 0.5], [9.0, 4.0, 8.0], SOLO, "fixed", workers=1)
    assert outcomes.dispatches.slack.tolist() == [9.0, 3.5, 6.5]
    assert outcomes.dispatches.size.tolist() == [1, 1, 1]
    assert outcomes.dispatches.accuracy.tolist() == [75.0] * 3


def test_decisions_are_timed_if_asked_for_and_are_the_same():
    seconds = []
    timed = busy_run(decisions=seconds)
    assert len(seconds) >= len(timed.dispatches)
    assert all(each > 0 for each in seconds)
    assert timed.records() == busy_run().records()


def test_a_timed_policy_keeps_its_optional_methods():
    class Picky(Always):
        def admit(self, view, waiting):
            return waiting.priority > 0

    policy = Picky(Choice("only", 1))
    records = simulate([0, 9], LONG, SOLO, policy, priority=[0, 1], workers=1, decisions=[])
    assert reasons(records) == ["refused", None]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arrivals": [1.0, 0.5]}, "ascend"),
        ({"arrivals": [-1.0]}, "from 0"),
        ({"arrivals": [math.nan]}, "finite"),
        ({"arrivals": 1.0}, "array"),
        ({"slo": [1.0, 2.0, 3.0]}, "broadcast"),
        ({"slo": math.inf}, "slo must be finite"),
        ({"workers": -1}, "-1 workers"),
        ({"workers": [WorkerSpec("a"), WorkerSpec("a")]}, "names of their own"),
        ({"events": [Fail(1.0, "w9")]}, "no such worker"),
        ({"events": [Restart(1.0, "x"), Join(2.0, WorkerSpec("x"))]}, "no such worker by then"),
        ({"events": [Fail(-1.0, "w0")]}, "from 0"),
        ({"actuation": -0.1}, "less than no time"),
        ({"loading": {"small": -1.0}}, "less than no time"),
        ({"loading": {"smal": 1.0}}, "no profile has: smal"),
        ({"resident": 0}, "at least one"),
        ({"true_profile": SOLO}, "true profile of cpu"),
        ({"true_profile": Profile.from_table([("small", 70, {1: 1}), ("large", 80, {1: 2})])},
         "true profile of cpu"),
        ({"policy": "nonesuch"}, "no policy 'nonesuch'"),
        ({"policy": Fixed(PROFILE), "workers": [WorkerSpec("a"), WorkerSpec("b", "gpu")]},
         "policy of its own"),
        ({"min_accuracy": 99.0}, "no subnet"),
        ({"credits": 0}, "credit"),
        ({"late": "never"}, "late must be"),
    ],
)  # fmt: skip
def test_arguments_that_make_no_run_are_refused(changes, message):
    arguments = {"arrivals": [0.0, 1.0], "slo": 1.0, "profile": PROFILE, "policy": "fixed"}
    with pytest.raises(ValueError, match=message):
        simulate(**(arguments | changes))


@pytest.mark.parametrize(
    "build",
    [
        lambda: Lognormal(-0.1),
        lambda: Empirical(()),
        lambda: Empirical((1.0, -1.0)),
        lambda: WorkerSpec("w", speed=0.0),
    ],
)
def test_impossible_noise_and_workers_are_refused(build):
    with pytest.raises(ValueError, match=r"negative|positive"):
        build()


def test_the_papers_profile_has_its_end_points():
    assert PAPER_PROFILE.accuracies == (73.82, 76.69, 77.64, 78.25, 79.44, 80.16)
    assert PAPER_PROFILE.latency("73.82", 1) == pytest.approx(0.00141)
    assert PAPER_PROFILE.latency("80.16", 16) == pytest.approx(0.0307)
    # Linear in between: (1.41 * 8 + 7.35 * 7) / 15 for a batch of 8.
    assert PAPER_PROFILE.latency("73.82", 8) == pytest.approx((1.41 * 8 + 7.35 * 7) / 15e3)
    assert PAPER_PROFILE.pareto() == PAPER_PROFILE
