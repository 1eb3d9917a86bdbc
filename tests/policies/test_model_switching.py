"""Model-Switching and the load meter, against queueing theory and decisions worked out by hand."""

from heapq import heappush, heapreplace
from math import exp, factorial, inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.load_meter import LoadMeter
from policies.model_switching import (
    LoadTable,
    ModelSwitching,
    effective_accuracy,
    erlang_c,
    load_table,
)
from policies.types import Choice, Profile, QueueView, Waiting
from tests.policies.hand import HAND, NOW, choose
from tests.policies.test_promises import profiles


def view(rate=0.0, capacity=1.0, slo=0.0, deadlines=()):
    waiting = tuple(Waiting(deadline) for deadline in deadlines)
    return QueueView(waiting, arrival_rate=rate, capacity=capacity, slo=slo)


def run(policy, rate, begin, seconds, **options):
    """Tick as the scheduler would; when it ends."""
    for step in range(round(seconds / policy.tick_period)):
        policy.on_tick(view(rate, **options), begin + step * policy.tick_period)
    return begin + seconds


def subnet(policy):
    return choose(policy, 1, 1e6).subnet


def test_a_window_ends_with_the_mean_of_what_was_seen():
    meter = LoadMeter(0.2)
    rates = [0.0, 8.0, 0.0, 4.0, 0.0, 9.0, 0.0, 2.0, 5.0]
    ends = [meter.sample(view(rate), 0.05 * i) for i, rate in enumerate(rates)]
    assert [i for i, end in enumerate(ends) if end] == [4, 8]
    assert meter.rate == pytest.approx((9 + 0 + 2 + 5) / 4)


def test_after_idle_time_the_second_look_that_sees_arrivals_is_the_first_estimate():
    meter = LoadMeter(1.0)
    ends = [meter.sample(view(rate), 0.05 * i) for i, rate in enumerate([0.0, 3.0, 7.0, 9.0])]
    assert ends == [False, False, True, False]
    assert meter.rate == 7.0


def test_a_window_without_arrivals_means_idle_time():
    meter = LoadMeter(0.1)
    for step in range(6):
        meter.sample(view(5.0), 0.05 * step)
    for step in range(6, 10):
        meter.sample(view(0.0), 0.05 * step)
    assert meter.rate == 0.0


def test_an_even_stream_is_measured_without_bias():
    """The view's rate: each arrival adds 40, which decays with 25 ms."""
    meter, gap = LoadMeter(1.0), 0.0031
    arrivals = np.arange(0.0, 3.0, gap)
    for step in range(60):
        past = 0.05 * step - arrivals
        rate = 40.0 * np.exp(-past[past >= 0] / 0.025).sum()
        meter.sample(view(float(rate)), 0.05 * step)
    assert meter.rate == pytest.approx(1 / gap, rel=0.02)


def test_the_slo_is_a_mean_that_moves_only_when_it_is_off_by_a_tenth():
    meter = LoadMeter(0.1)
    seen = []
    for step, slo in enumerate([0.0, 2.0, 2.0, 2.1, 2.4, 2.6]):
        meter.sample(view(1.0, slo=slo), 0.05 * step)
        seen.append(meter.slo)
    # 2.0 is the early estimate; the windows after it have the means 2.05 and 2.5.
    assert seen == [0.0, 2.0, 2.0, 2.0, 2.0, pytest.approx(2.5)]


@pytest.mark.parametrize("slo", [-1.0, inf])
def test_a_budget_that_makes_no_sense_is_no_slo(slo):
    meter = LoadMeter(0.1)
    for step in range(6):
        meter.sample(view(1.0, slo=slo), 0.05 * step)
    assert meter.slo == 0.0


@pytest.mark.parametrize("window", [0.0, -1.0, inf])
def test_a_window_is_a_positive_time(window):
    with pytest.raises(ValueError, match="positive number of seconds"):
        LoadMeter(window)


@pytest.mark.parametrize("servers", [1, 2, 5, 30])
@pytest.mark.parametrize("load", [0.0, 0.1, 0.9])
def test_erlang_c_is_the_textbook_formula(servers, load):
    offered = load * servers
    waiting = offered**servers / factorial(servers) / (1 - load)
    everyone = sum(offered**k / factorial(k) for k in range(servers)) + waiting
    assert erlang_c(servers, np.array([offered]))[0] == pytest.approx(waiting / everyone)


ONE = Profile.from_table([("only", 100.0, {1: 1.0})])


@pytest.mark.parametrize(
    ("load", "slo", "expected", "why"),
    [
        (0.5, 0.9, 0.0, "a batch takes 1"),
        (0.5, 1.0, 50.0, "those that do not wait, 1 - rho"),
        (0.5, 2.0, 100 - 50 * exp(-1.0), "the wait decays with 2 (1 - rho) / l = 1"),
        (0.8, 6.0, 100 - 80 * exp(-2.0), "it decays with 0.4"),
        (1.0, 1e9, 0.0, "the queue grows without end"),
        (0.5, inf, 100.0, "without an SLO nothing is late"),
    ],
)
def test_the_share_in_time_for_one_worker_without_batches(load, slo, expected, why):
    found = effective_accuracy(ONE, np.array([load]), 1, slo)
    assert found[0, 0] == pytest.approx(expected), why


def test_the_mean_wait_is_that_of_m_d_1():
    """Pollaczek and Khinchine: rho l / (2 (1 - rho))."""
    load, waits = 0.7, np.linspace(0.0, 40.0, 40001)
    late = [
        1 - effective_accuracy(ONE, np.array([load]), 1, 1 + t)[0, 0] / 100 for t in waits[::40]
    ]
    assert np.trapezoid(late, waits[::40]) == pytest.approx(load / (2 * (1 - load)), rel=1e-3)


def wait_of_m_d_c(servers, load, customers, seed):
    """Simulated: when the earliest free of ``servers`` takes customers one time unit each."""
    gaps = np.random.default_rng(seed).exponential(1 / (load * servers), customers)
    free: list[float] = []
    for _ in range(servers):
        heappush(free, 0.0)
    waits = []
    for at in gaps.cumsum().tolist():
        start = max(at, free[0])
        heapreplace(free, start + 1.0)
        waits.append(start - at)
    return np.array(waits)


@pytest.mark.parametrize(("servers", "load"), [(2, 0.7), (8, 0.8), (64, 0.9)])
def test_the_share_in_time_is_near_that_of_a_simulated_m_d_c_queue(servers, load):
    waits = wait_of_m_d_c(servers, load, 50_000, seed=1)
    for limit in (0.25, 0.5, 1.0):
        found = effective_accuracy(ONE, np.array([load * servers]), servers, 1 + limit)[0, 0]
        assert found / 100 == pytest.approx(np.mean(waits <= limit), abs=0.05)


@settings(deadline=None)
@given(profiles(), st.integers(1, 6), st.floats(0.01, 3.0), st.floats(0.1, 40.0))
def test_the_sum_over_the_places_in_a_batch_is_what_the_docstring_says(profile, workers, load, slo):
    """Query by query instead of in closed form."""
    expected = []
    for accuracy, row in zip(profile.accuracies, profile.latencies, strict=True):
        best = 0.0
        for b, latency in zip(profile.batch_sizes, row, strict=True):
            rho = load * latency / (b * workers)
            if rho >= 0.999999:
                continue
            waits = erlang_c(workers, np.array([rho * workers]))[0]
            mean = latency / (workers * (1 - rho)) * (1 / b) / 2
            slacks = [slo - latency - (b - i) / load for i in range(1, b + 1)]
            share = sum(1 - waits * exp(-left / mean) for left in slacks if left >= 0) / b
            best = max(best, share)
        expected.append(accuracy * best)
    if all(
        abs(load * t / (b * workers) - 1) > 1e-5
        for row in profile.latencies
        for b, t in zip(profile.batch_sizes, row, strict=True)
    ):
        found = effective_accuracy(profile, np.array([load]), workers, slo)[0]
        # A place in a batch may have no time left by rounding alone.
        assert found == pytest.approx(expected, abs=1e-6) or any(
            abs((slo - t) * load - round((slo - t) * load)) < 1e-6
            for row in profile.latencies
            for t in row
        )


# One worker, four loads up to what small serves in batches of 4, 1.6. With all the time in the
# world only capacity counts: large serves 4 / 13 = 0.31, mid 0.727 (at 0.8 it does not keep up).
def test_without_a_deadline_the_table_holds_the_most_accurate_that_keeps_up():
    table = load_table(HAND, 1, inf, 4)
    assert table.loads == pytest.approx((0.4, 0.8, 1.2, 1.6))
    assert table.subnets == ("mid", "small", "small", "small")


def test_a_deadline_that_only_the_smallest_can_meet_leaves_only_that():
    assert set(load_table(HAND, 1, 1.9, 8).subnets) == {"small"}


def test_where_no_deadline_can_be_met_the_fastest_is_left():
    assert set(load_table(HAND, 4, 0.5, 3).subnets) == {"small"}


def test_the_table_grows_with_the_workers():
    assert load_table(HAND, 3, inf, 4).loads == pytest.approx((1.2, 2.4, 3.6, 4.8))
    assert load_table(HAND, 3, inf, 4).subnets == ("mid", "small", "small", "small")


@settings(deadline=None)
@given(profiles(), st.integers(1, 8), st.floats(0.1, 40.0))
def test_at_a_higher_load_the_table_never_has_a_more_accurate_subnet(profile, workers, slo):
    """True without batches, where each subnet's share in time falls with the load."""
    profile = Profile(
        profile.subnets,
        profile.accuracies,
        profile.batch_sizes[:1],
        tuple(row[:1] for row in profile.latencies),
    )
    if profile.batch_sizes != (1,):
        return
    found = effective_accuracy(profile, np.linspace(0.01, 5.0, 50), workers, slo)
    assert (np.diff(found, axis=0) <= 1e-9).all()


@pytest.mark.parametrize(
    ("load", "expected"),
    [(0.0, "large"), (1.0, "large"), (1.1, "mid"), (2.0, "mid"), (2.1, "small"), (9.0, "small")],
)
def test_a_load_counts_as_the_next_one_up(load, expected):
    assert LoadTable((1.0, 2.0, 3.0), ("large", "mid", "small")).at(load) == expected


def test_all_workers_change_over_at_the_end_of_a_window():
    policy = ModelSwitching(HAND, levels=4)
    # The early look is at 0.05, so that windows end at 1.05 and 2.05.
    now = run(policy, 0.39, 0.0, 2.1)
    assert subnet(policy) == "mid"
    now = run(policy, 1.5, now, 0.9)
    assert subnet(policy) == "mid"
    run(policy, 1.5, now, 0.15)
    assert subnet(policy) == "small"


def test_the_table_is_for_the_workers_that_there_are_unless_they_are_given():
    policy = ModelSwitching(HAND, levels=4)
    run(policy, 0.79, 0.0, 2.0, capacity=2.0)
    assert subnet(policy) == "mid"
    policy = ModelSwitching(HAND, levels=4, workers=1)
    run(policy, 0.79, 0.0, 2.0, capacity=2.0)
    assert subnet(policy) == "small"


@pytest.mark.parametrize(("given", "seen", "expected"), [(None, 1.9, "small"), (1e6, 1.9, "mid")])
def test_the_slo_is_that_of_what_arrives_unless_it_is_given(given, seen, expected):
    policy = ModelSwitching(HAND, levels=4, slo=given)
    run(policy, 0.39, 0.0, 2.0, slo=seen)
    assert subnet(policy) == expected


def test_before_the_first_arrivals_the_smallest_subnet_serves():
    policy = ModelSwitching(HAND)
    assert subnet(policy) == "small"
    run(policy, 0.0, 0.0, 3.0)
    assert subnet(policy) == "small"


def test_in_idle_time_nothing_changes():
    policy = ModelSwitching(HAND, levels=4)
    now = run(policy, 0.39, 0.0, 2.0)
    run(policy, 0.0, now, 3.0)
    assert subnet(policy) == "mid"


# mid takes 2, 3.2 and 5.5 seconds for 1, 2 and 4; deadlines are 1 second apart.
@pytest.mark.parametrize(
    ("queue", "slack", "expected", "why"),
    [
        (4, 5.5, ("mid", 4, 0), "four fit"),
        (4, 2.0, ("mid", 2, 2), "four need 5.5, then three fill two and need 3.2: 4.0"),
    ],
)
def test_batches_are_filled_with_early_drop(queue, slack, expected, why):
    policy = ModelSwitching(HAND, levels=4)
    run(policy, 0.39, 0.0, 2.0)
    assert choose(policy, queue, slack) == Choice(*expected), why


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0.0}, "positive number of seconds"),
        ({"workers": 0}, "workers must be 1 or more"),
        ({"slo": -1.0}, "slo must be positive"),
        ({"levels": 0}, "levels must be 1 or more"),
    ],
)
def test_model_switching_refuses_options_without_a_meaning(options, message):
    with pytest.raises(ValueError, match=message):
        ModelSwitching(HAND, **options)


@settings(deadline=None)
@given(
    profiles(),
    st.floats(0.0, 100.0),
    st.floats(0.0, 20.0),
    st.floats(0.0, 9.0),
    st.integers(0, 40),
    st.floats(0.0, 60.0),
)
def test_whatever_happens_there_is_a_lawful_answer(profile, rate, slo, capacity, queue, slack):
    policy = ModelSwitching(profile, window=0.1, levels=8)
    for step in range(6):
        policy.on_tick(view(rate, capacity, slo), 0.05 * step)
        decision = choose(policy, queue, slack) if queue else policy.choose(view(rate), NOW)
        if queue:
            profile.latency(decision.subnet, decision.batch_size)  # it is profiled
            assert decision.shed <= queue
        else:
            assert decision is None
