"""Arrival streams against the theory of renewal and Poisson processes.

Bounds are five standard errors wide, and the seeds are fixed, so a failure is a wrong stream.
"""

from math import isnan, nan, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.arrivals import (
    constant,
    from_counts,
    gamma,
    linear,
    phases,
    poisson,
    shrink,
    trace_statistics,
)


def gaps_of(times):
    return np.diff(times, prepend=0.0)


def squared_variation(values):
    return values.var() / values.mean() ** 2


def per_bin(times, bins, seconds):
    return np.histogram(times, bins=bins, range=(0.0, seconds))[0]


def assert_exponential(gaps):
    """Kolmogorov-Smirnov distance to the law with mean 1, at the 1e-5 level."""
    n = len(gaps)
    expected = 1 - np.exp(-np.sort(gaps))
    distance = np.max(np.abs(expected - (np.arange(n) + 0.5) / n))
    assert distance < sqrt(-np.log(1e-5 / 2) / 2) / sqrt(n)


def assert_poisson_counts(found, expected):
    """Pearson's statistic, which has mean n and variance 2n + sum of 1/expected."""
    expected = np.asarray(expected, dtype=float)
    statistic = np.sum((found - expected) ** 2 / expected)
    error = sqrt(2 * len(expected) + np.sum(1 / expected))
    assert abs(statistic - len(expected)) < 5 * error


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
    assert_exponential(100.0 * gaps_of(poisson(100.0, 200.0, seed=4)))


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


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_arguments_that_are_no_numbers_are_refused(bad):
    with pytest.raises(ValueError, match="finite"):
        poisson(bad, 1.0)
    with pytest.raises(ValueError, match="finite"):
        gamma(1.0, 1.0, cv2=bad)


class TestLinear:
    def test_rising_rate_worked_by_hand(self):
        """From 0 to 4 per second in 2 s the cumulative rate is t squared."""
        times = linear([(0.0, 0.0), (2.0, 4.0)], cv2=0.0)
        assert times == pytest.approx([0.0, 1.0, sqrt(2), sqrt(3)])

    def test_falling_rate_worked_by_hand(self):
        """From 4 to 0 per second in 2 s the cumulative rate is 4t - t squared."""
        times = linear([(0.0, 4.0), (2.0, 0.0)], cv2=0.0)
        assert times == pytest.approx([0.0, 2 - sqrt(3), 2 - sqrt(2), 1.0])

    def test_a_jump_is_two_knots_at_one_time(self):
        times = linear([(0.0, 2.0), (1.0, 2.0), (1.0, 1.0), (3.0, 1.0)], cv2=0.0)
        assert times == pytest.approx([0.0, 0.5, 1.0, 2.0])

    def test_before_the_first_knot_the_rate_is_that_knots(self):
        assert linear([(2.0, 3.0)], cv2=0.0) == pytest.approx(np.arange(6) / 3)

    def test_cumulative_rate_turns_the_stream_into_unit_poisson(self):
        """The time-rescaling theorem, with the integral of the rate written out here."""
        times = linear([(0.0, 100.0), (10.0, 900.0), (20.0, 500.0)], seed=10)
        up = 100 * times + 40 * times**2
        after = times - 10
        down = 5000 + 900 * after - 20 * after**2
        assert_exponential(gaps_of(np.where(times < 10, up, down)))

    def test_counts_follow_the_integral_of_the_rate(self):
        times = linear([(0.0, 0.0), (30.0, 3000.0)], seed=11)
        edges = np.linspace(0.0, 30.0, 31)
        assert_poisson_counts(per_bin(times, 30, 30.0), np.diff(50 * edges**2))

    @pytest.mark.parametrize("knots", [[], [(0.0, 5.0)], [(0.0, 0.0), (4.0, 0.0)]])
    def test_nothing_to_send_is_an_empty_stream(self, knots):
        assert len(linear(knots)) == 0

    @pytest.mark.parametrize("knots", [[(1.0, 1.0), (0.5, 1.0)], [(-1.0, 1.0)], [(1.0, -1.0)]])
    def test_knots_that_make_no_sense_are_refused(self, knots):
        with pytest.raises(ValueError, match=r"ascend|negative"):
            linear(knots)


class TestFromCounts:
    def test_counts_without_scaling_are_as_many_arrivals(self):
        assert from_counts([2, 0, 1], 1.0, cv2=0.0).tolist() == [0.0, 0.5, 2.0]

    def test_mean_rate_is_over_the_whole_run(self):
        """Six queries in three seconds, two thirds of them in the first."""
        times = from_counts([2, 0, 1], 1.0, mean_rate=2.0, cv2=0.0)
        assert times == pytest.approx([0.0, 0.25, 0.5, 0.75, 2.0, 2.5])

    def test_seconds_stretch_the_bins_and_keep_their_rates(self):
        times = from_counts([2, 0, 1], 1.0, seconds=6.0, cv2=0.0)
        assert times == pytest.approx([0.0, 0.5, 1.0, 1.5, 4.0, 5.0])

    def test_shrinking_a_day_keeps_the_share_of_every_minute(self):
        minutes = np.random.default_rng(12).integers(1, 1000, 1440)
        times = from_counts(minutes, 60.0, mean_rate=6400.0, seconds=120.0, seed=13)
        expected = 6400 * 120 * minutes / minutes.sum()
        assert_poisson_counts(per_bin(times, 1440, 120.0), expected)

    def test_expected_count_of_each_bin_holds_for_bursty_streams_too(self):
        """The mean over 200 seeds; a count has variance cv2 x mean, about."""
        counts, cv2 = np.array([100.0, 400.0, 0.0, 50.0, 300.0]), 8.0
        runs = [per_bin(from_counts(counts, 1.0, cv2=cv2, seed=s), 5, 5.0) for s in range(200)]
        error = np.sqrt(cv2 * counts / len(runs))
        assert np.all(np.abs(np.mean(runs, axis=0) - counts) <= 5 * error)

    @pytest.mark.parametrize("cv2", [0.5, 1.0, 8.0])
    def test_burstiness_in_operational_time_is_the_same_at_every_rate(self, cv2):
        """Counts of cells that all expect 400 have dispersion cv2, whatever the rate there."""
        counts = np.array([400, 1600, 100, 6000])
        times = from_counts(np.repeat(counts, 400), 1.0, cv2=cv2, seed=14)
        operational = np.interp(
            times, np.arange(1601), np.insert(np.cumsum(np.repeat(counts, 400)), 0, 0)
        )
        cells = np.bincount((operational / 400).astype(int))
        for part in np.split(cells[: 400 * 20], [400, 2000, 2100]):
            error = cv2 * sqrt(2 / len(part))
            assert abs(part.var() / part.mean() - cv2) < 5 * error + 0.03 * cv2

    @pytest.mark.parametrize("counts", [[], [0, 0]])
    def test_no_counts_are_an_empty_stream(self, counts):
        assert len(from_counts(counts, 60.0, seconds=5.0)) == 0

    @pytest.mark.parametrize("counts", [[], [0, 0]])
    def test_silence_cannot_be_scaled_to_a_rate(self, counts):
        with pytest.raises(ValueError, match="cannot be scaled"):
            from_counts(counts, 60.0, mean_rate=5.0)

    @pytest.mark.parametrize(
        ("counts", "bin_seconds", "mean_rate"),
        [([1, -1], 1.0, None), ([[1]], 1.0, None), ([1], 0.0, None), ([1], 1.0, -1.0)],
    )
    def test_arguments_that_make_no_sense_are_refused(self, counts, bin_seconds, mean_rate):
        with pytest.raises(ValueError, match=r"negative|positive|sequence"):
            from_counts(counts, bin_seconds, mean_rate=mean_rate)

    @given(
        counts=st.lists(st.integers(0, 50), max_size=30),
        seconds=st.floats(0.01, 100.0),
        cv2=st.sampled_from([0.0, 0.3, 1.0, 8.0]),
        seed=st.integers(0, 99),
    )
    def test_any_counts_give_an_ordered_repeatable_stream_without_arrivals_in_empty_bins(
        self, counts, seconds, cv2, seed
    ):
        times = from_counts(counts, 1.0, seconds=seconds, cv2=cv2, seed=seed)
        assert np.all(np.diff(times) >= 0)
        assert np.all((times >= 0) & (times < seconds))
        assert np.array_equal(times, from_counts(counts, 1.0, seconds=seconds, cv2=cv2, seed=seed))
        width = seconds / max(len(counts), 1)
        into_bin = times / width - np.floor(times / width)
        clear = (into_bin > 1e-6) & (
            into_bin < 1 - 1e-6
        )  # of the borders, which rounding may cross
        assert all(counts[int(time / width)] > 0 for time in times[clear])


class TestShrink:
    RECORDED = (0.0, 1.0, 1.5, 4.0)

    def test_at_its_own_length_and_rate_the_recording_comes_back(self):
        recorded = gamma(50.0, 20.0, cv2=4.0, seed=15)
        assert shrink(recorded, cv2=0.0) == pytest.approx(recorded)

    def test_time_is_scaled_affinely(self):
        assert shrink(self.RECORDED, 1.0, 4.0, span=5.0, cv2=0.0) == pytest.approx(
            [0.0, 0.2, 0.3, 0.8]
        )

    def test_replicas_lie_between_a_recorded_arrival_and_the_next(self):
        """Twice as many, worked by hand; the last gap goes on to the end of the span."""
        times = shrink(self.RECORDED, 5.0, 8 / 5, span=5.0, cv2=0.0)
        assert times == pytest.approx([0.0, 0.5, 1.0, 1.25, 1.5, 2.75, 4.0, 4.5])

    def test_thinning_leaves_out_every_other_one(self):
        assert shrink(self.RECORDED, 5.0, 2 / 5, span=5.0, cv2=0.0) == pytest.approx([0.0, 1.5])

    def test_the_span_goes_one_mean_gap_past_the_last_arrival(self):
        """Four arrivals from 0 to 3 s: 4 s at 1 q/s."""
        times = shrink([0.0, 1.0, 2.0, 3.0], 8.0, cv2=0.0)
        assert times == pytest.approx(np.arange(8.0))

    def test_simultaneous_arrivals_stay_a_clump(self):
        times = shrink([0.0, 2.0, 2.0, 2.0, 3.0], span=4.0, cv2=0.0)
        assert times.tolist() == [0.0, 2.0, 2.0, 2.0, 3.0]

    @pytest.mark.parametrize("each", [0.25, 1.0, 10.0])
    def test_dispersion_of_the_recording_is_multiplied(self, each):
        """Counts of a Poisson recording (I = 1), each arrival k new ones: I becomes k + cv2."""
        recorded = poisson(100.0, 2000.0, seed=16)
        times = shrink(recorded, 2000.0, 100.0 * each, span=2000.0, cv2=1.0, seed=17)
        found = dispersion(times, 1.0, 2000.0)
        assert abs(found - (each + 1)) < 5 * (each + 1) * sqrt(2 / 2000)

    def test_rate_profile_is_kept(self):
        """The silence is one gap, so it expects what one recorded arrival stands for: one."""
        recorded = phases([(10.0, 300.0), (10.0, 0.0), (10.0, 1200.0)], cv2=0.0)
        times = shrink(recorded, 3.0, 5000.0, span=30.0, seed=18)
        assert np.sum((times > 1.001) & (times < 1.999)) < 7
        counts = per_bin(times, 3, 3.0)
        assert_poisson_counts(counts[[0, 2]], [3000, 12000])

    def test_with_bins_only_their_counts_matter(self):
        one = shrink([0.1, 0.2, 1.9], 1.0, 90.0, span=2.5, bin_seconds=1.0, seed=19)
        other = shrink([0.6, 0.9, 1.1], 1.0, 90.0, span=2.5, bin_seconds=1.0, seed=19)
        assert np.array_equal(one, other)
        assert np.array_equal(
            one, from_counts([2, 1, 0], 1.0, mean_rate=90.0, seconds=1.0, seed=19)
        )

    def test_no_arrivals_are_an_empty_stream(self):
        assert len(shrink([], 5.0)) == 0
        assert len(shrink(self.RECORDED, 5.0, 0.0)) == 0

    @pytest.mark.parametrize(
        ("times", "more", "words"),
        [
            ([], {"mean_rate": 5.0}, "cannot be scaled"),
            ([1.0, 0.5], {}, "ascend"),
            ([-1.0, 0.5], {}, "negative"),
            ([0.0], {}, "span"),
            ([0.0, 9.0], {"span": 5.0}, "beyond"),
            ([0.0, 1.0], {"cv2": -1.0}, "negative"),
            ([0.0, 1.0], {"bin_seconds": 0.0}, "positive"),
        ],
    )
    def test_arguments_that_make_no_sense_are_refused(self, times, more, words):
        with pytest.raises(ValueError, match=words):
            shrink(times, **more)

    @given(
        gaps=st.lists(st.floats(0.0, 10.0), min_size=2, max_size=30),
        seconds=st.floats(0.01, 100.0),
        mean_rate=st.floats(0.0, 50.0),
        cv2=st.sampled_from([0.0, 0.3, 1.0, 8.0]),
        seed=st.integers(0, 99),
    )
    def test_any_recording_gives_an_ordered_stream_within_the_run(
        self, gaps, seconds, mean_rate, cv2, seed
    ):
        recorded = np.cumsum(gaps)
        times = shrink(recorded, seconds, mean_rate, span=recorded[-1] + 1.0, cv2=cv2, seed=seed)
        assert np.all(np.diff(times) >= 0)
        assert np.all((times >= 0) & (times < seconds))


class TestStatistics:
    def test_worked_by_hand(self):
        found = trace_statistics([0.0, 0.05, 0.06, 1.5], 2.0, peak_window=0.1)
        gaps = np.array([0.05, 0.01, 1.44])
        assert found.count == 4
        assert found.seconds == 2.0
        assert found.mean_rate == 2.0
        assert found.peak_rate == pytest.approx(30.0)  # three within 100 ms
        assert found.peak_window == 0.1
        assert found.cv2 == pytest.approx(gaps.var() / 0.25)
        assert found.idc_1s == pytest.approx(1.0)  # counts 3 and 1: variance 2, mean 2

    def test_a_window_does_not_contain_its_end(self):
        assert trace_statistics([0.0, 1.0, 2.0], 3.0, peak_window=1.0).peak_rate == 1.0

    def test_the_peak_is_found_wherever_the_window_starts(self):
        """Two clumps on both sides of a whole second: 4 in a window, though never 3 per bin."""
        assert trace_statistics([0.9, 0.95, 1.05, 1.1], 2.0, peak_window=1.0).peak_rate == 4.0

    def test_poisson_has_dispersion_one_at_every_window(self):
        found = trace_statistics(poisson(2000.0, 200.0, seed=20), 200.0)
        for value, window in ((found.idc_36ms, 0.036), (found.idc_100ms, 0.1), (found.idc_1s, 1.0)):
            assert abs(value - 1) < 5 * sqrt(2 * window / 200)
        assert abs(found.cv2 - 1) < 5 * sqrt(12 / 400_000)

    def test_dispersion_of_a_gamma_stream_rises_to_the_variation_of_its_gaps(self):
        found = trace_statistics(gamma(2000.0, 400.0, cv2=8.0, seed=21), 400.0)
        assert found.idc_36ms < found.idc_100ms
        assert abs(found.idc_1s - 8.0) < 5 * 8 * sqrt(2 / 400)

    def test_a_constant_stream_has_no_variation(self):
        found = trace_statistics(constant(100.0, 10.0), 10.0)
        assert found.cv2 == pytest.approx(0.0, abs=1e-20)
        assert found.idc_1s == pytest.approx(0.0, abs=1e-3)

    def test_too_few_arrivals_have_no_variation_to_tell(self):
        found = trace_statistics([])
        assert found.count == 0
        assert found.peak_rate == 0.0
        assert isnan(found.mean_rate)
        assert isnan(found.cv2)
        assert isnan(found.idc_36ms)
        assert isnan(trace_statistics([0.5], 0.9).idc_1s)

    @pytest.mark.parametrize(
        ("times", "seconds", "window"),
        [([1.0, 0.0], 2.0, 0.1), ([1.0], 0.5, 0.1), ([1.0], 2.0, 0.0), ([nan], 2.0, 0.1)],
    )
    def test_arguments_that_make_no_sense_are_refused(self, times, seconds, window):
        with pytest.raises(ValueError, match=r"ascend|beyond|positive|finite"):
            trace_statistics(times, seconds, peak_window=window)
