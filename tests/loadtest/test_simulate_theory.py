"""Simulated queues against queueing theory, which knows nothing of schedulers.

A long SLO and a fixed subnet turn the server into a queue that theory can solve. The tolerances
are several standard errors of the simulated estimate, which are said where they matter.
"""

from heapq import heapreplace
from math import exp, factorial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.arrivals import constant, gamma, poisson
from loadtest.simulate import simulate_arrays
from loadtest.simulation_noise import Exponential, Lognormal
from loadtest.simulation_workers import Fail, Restart
from policies import Profile
from superserve.messages import Complete, Drop

SERVICE = 0.001  # seconds
SINGLE = Profile.from_table([("only", 75.0, {1: SERVICE})])
FOREVER = 1e6
QUERIES = 40_000


def served(times, profile=SINGLE, slo=FOREVER, **options):
    return simulate_arrays(times, slo, profile, "fixed", **options)


def waits(outcomes):
    """Seconds from arrival to the start of the batch [N]."""
    return outcomes.dispatches.start[outcomes.dispatch] - outcomes.arrival


def test_evenly_spaced_arrivals_never_wait_below_capacity():
    """D/D/1 at a load of 0.8: every query takes exactly its service time."""
    outcomes = served(constant(800.0, 2.0), workers=1)
    assert len(outcomes) == 1600
    assert np.array_equal(outcomes.finish, outcomes.arrival + SERVICE)


def test_evenly_spaced_arrivals_pile_up_above_capacity():
    """D/D/1 at a load of 1.25: query n is done at (n + 1) services, so its wait grows by 0.2 ms."""
    outcomes = served(constant(1250.0, 1.0), workers=1)
    expected = SERVICE * np.arange(1, 1251)
    np.testing.assert_allclose(outcomes.finish, expected, rtol=1e-12)


@pytest.mark.parametrize(("load", "tolerance"), [(0.5, 0.08), (0.8, 0.14)])
def test_md1_waits_as_pollaczek_and_khinchine_say(load, tolerance):
    rate = load / SERVICE
    wait = waits(served(poisson(rate, QUERIES / rate, seed=1), workers=1))
    assert np.mean(wait > 0) == pytest.approx(load, rel=0.04)
    # Over seeds this mean deviates by 2 percent at a load of 0.5, by 3.5 percent at 0.8.
    assert wait.mean() == pytest.approx(load * SERVICE / (2 * (1 - load)), rel=tolerance)


def test_mg1_waits_as_pollaczek_and_khinchine_say():
    """Wait = arrival rate x E[S^2] / 2 (1 - load), with lognormal service times."""
    sigma, rate = 0.8, 400.0
    mean, square = SERVICE * exp(sigma**2 / 2), SERVICE**2 * exp(2 * sigma**2)
    expected = rate * square / (2 * (1 - rate * mean))
    times = poisson(rate, QUERIES / rate, seed=2)
    wait = waits(served(times, workers=1, noise=Lognormal(sigma), seed=2))
    assert np.mean(wait > 0) == pytest.approx(rate * mean, rel=0.04)
    assert wait.mean() == pytest.approx(expected, rel=0.12)  # deviates by 3 percent over seeds


def erlang_c(servers, offered):
    """The probability that an arrival of an M/M/c queue must wait."""
    below = sum(offered**k / factorial(k) for k in range(servers))
    at = offered**servers / factorial(servers) * servers / (servers - offered)
    return at / (below + at)


@pytest.mark.parametrize(("servers", "load"), [(1, 0.6), (4, 0.7)])
def test_mmc_waits_as_erlang_says(servers, load):
    """The share that waits, the mean wait, and the share that waits longer than a service."""
    rate = load * servers / SERVICE
    times = poisson(rate, QUERIES / rate, seed=4)
    wait = waits(served(times, workers=servers, noise=Exponential(), seed=4))
    some = erlang_c(servers, load * servers)
    drain = servers / SERVICE - rate
    # Over seeds these deviate by 2, 5 and 5 percent with four servers.
    assert np.mean(wait > 0) == pytest.approx(some, rel=0.06)
    assert wait.mean() == pytest.approx(some / drain, rel=0.15)
    assert np.mean(wait > SERVICE) == pytest.approx(some * exp(-drain * SERVICE), rel=0.2)


def kiefer_wolfowitz(times, services, servers):
    """When each query is done if the first server to be free takes the one longest waiting."""
    free = [0.0] * servers
    finish = []
    for time, service in zip(times, services, strict=True):
        finish.append(max(time, free[0]) + service)
        heapreplace(free, finish[-1])
    return finish


@pytest.mark.parametrize("servers", [1, 3, 8])
def test_every_finish_of_a_bursty_gdc_queue_is_exact(servers):
    times = gamma(0.9 * servers / SERVICE, 3.0 / servers, cv2=6.0, seed=6)
    outcomes = served(times, workers=servers)
    expected = kiefer_wolfowitz(times.tolist(), [SERVICE] * len(times), servers)
    assert outcomes.finish.tolist() == expected


@pytest.mark.parametrize("servers", [1, 3, 8])
def test_every_finish_of_a_bursty_ggc_queue_is_exact(servers):
    times = gamma(0.9 * servers / SERVICE, 3.0 / servers, cv2=6.0, seed=6)
    outcomes = served(times, workers=servers, noise=Exponential(), seed=6)
    made = outcomes.dispatches
    assert outcomes.dispatch.tolist() == list(range(len(times)))  # first come, first served
    expected = kiefer_wolfowitz(times.tolist(), (made.finish - made.start).tolist(), servers)
    np.testing.assert_allclose(outcomes.finish, expected, rtol=1e-12)


def bulk_sizes(largest, mean):
    """How often a batch has each size from 1, if a free worker takes up to ``largest`` waiting.

    The number that a starting batch leaves behind is a Markov chain: during the service a Poisson
    number joins it, with this ``mean``, and the next batch takes what it can; it takes the first
    one to come if there is none.
    """
    states = 200
    poisson_terms = [exp(-mean)]
    for k in range(1, states):
        poisson_terms.append(poisson_terms[-1] * mean / k)
    chain = np.zeros((states, states))
    size = np.zeros((states, largest + 1))
    for left in range(states):
        for joined, share in enumerate(poisson_terms[: states - left]):
            waiting = max(left + joined, 1)
            taken = min(waiting, largest)
            chain[left, waiting - taken] += share
            size[left, taken] += share
    stationary = np.full(states, 1 / states)
    for _ in range(3000):
        stationary = stationary @ chain
        stationary /= stationary.sum()
    return (stationary @ size)[1:]


@pytest.mark.parametrize("load", [0.4, 0.85])
def test_batches_have_the_sizes_of_the_bulk_service_queue(load):
    """M/D/1 with batches up to 4, each taking one service whatever its size."""
    profile = Profile.from_table([("only", 75.0, {4: SERVICE})])
    rate = 4 * load / SERVICE
    outcomes = served(poisson(rate, QUERIES / rate, seed=8), profile, workers=1)
    shares = np.bincount(outcomes.dispatches.size, minlength=5)[1:] / len(outcomes.dispatches)
    expected = bulk_sizes(4, 4 * load)
    assert expected.sum() == pytest.approx(1.0)
    # 12,000 to 25,000 batches, mildly correlated: standard errors up to 0.007.
    np.testing.assert_allclose(shares, expected, atol=0.025)
    assert outcomes.mean_batch == pytest.approx(expected @ [1, 2, 3, 4], rel=0.03)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from([300.0, 900.0, 3000.0]),
    st.sampled_from(["drop", "serve"]),
)
def test_littles_law_holds_on_every_path(seed, rate, late):
    """The integral of the number in the system over time is the sum of the times spent in it.

    The one is counted from the scheduler's events, the other from the outcomes.
    """
    log = []
    outcomes = simulate_arrays(
        gamma(rate, 0.2, cv2=4.0, seed=seed),
        0.02,
        Profile.from_table([("a", 70.0, {1: 0.002, 8: 0.008}), ("b", 80.0, {1: 0.004, 8: 0.02})]),
        "slackfit",
        workers=2,
        noise=Lognormal(0.3),
        seed=seed,
        late=late,
        events=[Fail(0.05, "w0"), Restart(0.1, "w0")],
        log=log,
    )
    inside, integral, last = 0, 0.0, 0.0
    left = {}  # when a query was dropped
    for name, arguments, commands in log:
        now = arguments[2] if name in {"worker_joined", "worker_free"} else arguments[-1]
        integral += inside * (now - last)
        last = now
        inside += name == "arrive"
        for command in commands:
            if isinstance(command, Complete):
                inside -= len(command.dispatch.queries)
            elif isinstance(command, Drop):
                inside -= 1
                left[command.query.id] = command.now
    assert inside == 0
    spent = np.nansum(outcomes.latency) + sum(
        at - outcomes.arrival[query] for query, at in left.items()
    )
    assert integral == pytest.approx(spent)
