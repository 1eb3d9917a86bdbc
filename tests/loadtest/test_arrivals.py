"""Arrival streams against the theory of renewal and Poisson processes.

Bounds are five standard errors wide, and the seeds are fixed, so a failure is a wrong stream.
"""

from math import sqrt

import numpy as np
import pytest

from loadtest.arrivals import constant, gamma, phases, poisson


def gaps_of(times):
    return np.diff(times, prepend=0.0)


def squared_variation(values):
    return values.var() / values.mean() ** 2


def dispersion(times, window, seconds):
    """Variance over mean of the counts per window."""
    counts, _ = np.histogram(times, bins=int(seconds / window), range=(0.0, seconds))
    return counts.var() / counts.mean()


def test_constant_is_one_query_per_period_from_zero():
    assert constant(4.0, 1.0).tolist() == [0.0, 0.25, 0.5, 0.75]


@pytest.mark.parametrize("cv2", [0.0, 0.5, 1.0, 2.0, 8.0])
def test_streams_ascend_within_the_run(cv2):
    times = gamma(300.0, 10.0, cv2, seed=1)
    assert np.all(np.diff(times) >= 0)
    assert times[0] >= 0
    assert times[-1] < 10.0


@pytest.mark.parametrize("cv2", [0.5, 1.0, 2.0, 8.0])
def test_count_is_rate_times_seconds(cv2):
    """The count of a renewal stream has mean rate x T and, for large T, variance cv2 x mean."""
    expected = 200.0 * 500.0
    assert abs(len(gamma(200.0, 500.0, cv2, seed=2)) - expected) < 5 * sqrt(cv2 * expected)


@pytest.mark.parametrize("cv2", [0.5, 1.0, 2.0, 8.0])
def test_gaps_have_the_asked_variation(cv2):
    gaps = gaps_of(gamma(200.0, 500.0, cv2, seed=3))
    # The sample variance of a gamma law of shape k = 1/cv2 has relative variance (2 + 6/k)/n.
    error = cv2 * sqrt((2 + 6 * cv2 + 4 * cv2) / len(gaps))
    assert abs(squared_variation(gaps) - cv2) < 5 * error


def test_poisson_gaps_are_exponential():
    """Kolmogorov-Smirnov distance to 1 - exp(-rate x gap), at the 1e-5 level."""
    rate = 100.0
    gaps = np.sort(gaps_of(poisson(rate, 200.0, seed=4)))
    n = len(gaps)
    expected = 1 - np.exp(-rate * gaps)
    distance = np.max(np.abs(expected - (np.arange(n) + 0.5) / n))
    assert distance < sqrt(-np.log(1e-5 / 2) / 2) / sqrt(n)


@pytest.mark.parametrize("cv2", [1.0, 4.0])
def test_dispersion_of_counts_tends_to_the_variation_of_gaps(cv2):
    """For a renewal stream the index of dispersion of counts tends to CV^2 for long windows."""
    times = gamma(1000.0, 1000.0, cv2, seed=5)
    found = dispersion(times, window=0.5, seconds=1000.0)
    assert abs(found - cv2) < 5 * cv2 * sqrt(2 / 2000) + 0.02 * cv2


def test_each_phase_is_poisson_at_its_own_rate():
    steps = [(200.0, 50.0), (100.0, 400.0), (300.0, 20.0)]
    times = phases(steps, seed=6)
    start = 0.0
    for seconds, rate in steps:
        inside = times[(times >= start) & (times < start + seconds)] - start
        assert abs(len(inside) - seconds * rate) < 5 * sqrt(seconds * rate)
        assert abs(dispersion(inside, 0.5, seconds) - 1.0) < 5 * sqrt(2 / (seconds / 0.5))
        start += seconds


def test_a_phase_of_rate_zero_is_silent():
    times = phases([(1.0, 100.0), (2.0, 0.0), (1.0, 100.0), (1.0, 0.0)], seed=7)
    assert not np.any((times >= 1.0) & (times < 3.0))
    assert not np.any(times >= 4.0)
    assert np.any(times < 1.0)
    assert np.any((times >= 3.0) & (times < 4.0))


def test_time_change_of_a_constant_stream():
    """Worked by hand: two per second for 1 s, then one per second for 2 s."""
    assert phases([(1.0, 2.0), (2.0, 1.0)], cv2=0.0).tolist() == [0.0, 0.5, 1.0, 2.0]


def test_the_seed_decides_the_stream():
    assert np.array_equal(poisson(50.0, 5.0, seed=8), poisson(50.0, 5.0, seed=8))
    assert not np.array_equal(poisson(50.0, 5.0, seed=8), poisson(50.0, 5.0, seed=9))


@pytest.mark.parametrize("steps", [[], [(0.0, 10.0)], [(10.0, 0.0)]])
def test_nothing_to_send_is_an_empty_stream(steps):
    assert len(phases(steps)) == 0


def test_negative_arguments_are_refused():
    with pytest.raises(ValueError, match="negative"):
        poisson(-1.0, 1.0)
    with pytest.raises(ValueError, match="negative"):
        gamma(1.0, 1.0, cv2=-0.1)
