"""The load statistics against the streams whose rate and dispersion are known."""

import math
import random

import pytest

from superserve.load_statistics import DISPERSION_MEMORY, RATE_MEMORY, WINDOW, LoadStatistics


def after(times):
    statistics = LoadStatistics()
    for time in times:
        statistics.arrive(time)
    return statistics


def gamma_stream(rate, cv2, seconds, seed):
    """Arrival times with independent gamma gaps of this squared coefficient of variation."""
    rng, now, times = random.Random(seed), 0.0, []
    while now < seconds:
        now += rng.gammavariate(1 / cv2, cv2 / rate)
        times.append(now)
    return times


def test_before_the_first_arrival_nothing_is_known():
    statistics = LoadStatistics()
    assert statistics.rate(5.0) == 0.0
    assert statistics.dispersion(5.0) == 1.0


@pytest.mark.parametrize("rate", [400.0, 2000.0])
def test_the_rate_of_an_even_stream_is_found(rate):
    times = [i / rate for i in range(int(rate))]
    # Just after an arrival the estimate is high by half an arrival's share.
    assert after(times).rate(times[-1] + 0.5 / rate) == pytest.approx(rate, rel=0.01)


def test_the_rate_fades_with_its_memory():
    statistics = after([i / 1000 for i in range(1000)])
    now = statistics.rate(1.0)
    assert statistics.rate(1.0 + RATE_MEMORY) == pytest.approx(now / math.e)


def test_asking_for_the_rate_does_not_change_it():
    statistics = after([0.0, 0.001, 0.002])
    assert [statistics.rate(0.1) for _ in range(3)] == [statistics.rate(0.1)] * 3


def test_an_even_stream_has_no_dispersion():
    statistics = after([i * WINDOW / 4 + WINDOW / 8 for i in range(4000)])
    assert statistics.dispersion(4000 * WINDOW / 4) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(("cv2", "expected"), [(1.0, 1.0), (4.0, 4.0)])
def test_the_dispersion_of_a_renewal_stream_is_that_of_its_gaps(cv2, expected):
    """For windows much longer than a gap the index of dispersion tends to CV^2 (renewal theory)."""
    found = []
    for seed in range(20):
        times = gamma_stream(20_000.0, cv2, 3.0, seed)
        found.append(after(times).dispersion(times[-1]))
    assert sum(found) / len(found) == pytest.approx(expected, rel=0.1)


def test_a_burst_after_silence_counts_the_silence():
    """One window with 10 arrivals among n: mean 10/n, variance about 100/n, so the ratio is ~10."""
    statistics = after([1.0 + i * WINDOW / 20 for i in range(10)])
    later = statistics.dispersion(1.0 + DISPERSION_MEMORY)
    assert later == pytest.approx(10.0, rel=0.05)


def test_a_clock_that_stands_still_or_steps_back_does_no_harm():
    statistics = after([1.0, 1.0, 0.5, 1.0])
    assert 0 < statistics.rate(1.0) <= 4 / RATE_MEMORY
    assert math.isfinite(statistics.dispersion(0.2))


def test_years_of_silence_are_forgotten_without_rounding_trouble():
    statistics = after([i / 100 for i in range(100)])
    assert statistics.rate(1e9) == 0.0
    assert statistics.dispersion(1e9) == 1.0
    statistics.arrive(1e9)
    assert statistics.rate(1e9) == pytest.approx(1 / RATE_MEMORY)
