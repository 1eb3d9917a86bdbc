"""Synthetic workloads against the theory of their processes and the figures they imitate.

Bounds are five standard errors wide, and the seeds are fixed, so a failure is a wrong stream.
"""

from math import exp, pi, sqrt

import numpy as np
import pytest

from loadtest.arrivals import constant, gamma, trace_statistics
from loadtest.generators import (
    bursty,
    diurnal,
    maf_like,
    maf_popularity,
    maf_profile,
    mmpp,
    time_varying,
)


def between(times, start, stop):
    return int(np.sum((times >= start) & (times < stop)))


def dispersion(times, window, seconds):
    counts, _ = np.histogram(times, bins=round(seconds / window), range=(0.0, seconds))
    return counts.var() / counts.mean()


class TestBursty:
    def test_is_the_deterministic_base_and_the_gamma_variant_merged(self):
        times = bursty(1500.0, 4900.0, 10.0, 8.0, seed=1)
        expected = [*constant(1500.0, 10.0), *gamma(4900.0, 10.0, 8.0, seed=1)]
        assert times.tolist() == sorted(expected)

    @pytest.mark.parametrize("variant", [2950.0, 4900.0, 5550.0])
    @pytest.mark.parametrize("cv2", [2.0, 8.0])
    def test_rates_add_up_and_the_base_dilutes_the_burstiness(self, variant, cv2):
        """Over long windows only the variant's counts vary: by cv2 x their mean."""
        times = bursty(1500.0, variant, 300.0, cv2, seed=2)
        assert abs(len(times) - 300 * (1500 + variant)) < 5 * sqrt(cv2 * variant * 300)
        expected = cv2 * variant / (1500 + variant)
        found = dispersion(times, 0.5, 300.0)
        assert abs(found - expected) < 5 * expected * sqrt(2 / 600) + 0.03 * expected


class TestTimeVarying:
    def test_worked_by_hand(self):
        """1 q/s to 1 s, a ramp of 1 q/s² to 3 s, then 3 q/s: the n-th comes at count n."""
        times = time_varying(1.0, 3.0, 1.0, 4.0, cv2=0.0, start=1.0)
        ramp = [1 + (sqrt(2 * n - 1) - 1) for n in (2, 3, 4)]
        assert times == pytest.approx([0.0, 1.0, *ramp, 3.0, 3 + 1 / 3, 3 + 2 / 3])

    @pytest.mark.parametrize("tau", [250.0, 500.0, 5000.0])
    def test_counts_before_in_and_after_the_paper_s_ramps(self, tau):
        times = time_varying(2500.0, 7800.0, tau, 60.0, seed=3)
        length = 5300.0 / tau
        first, last = 30 - length / 2, 30 + length / 2  # the ramp is in the middle
        half = (2500 + 5150) / 2 * length / 2  # the first half of the ramp, up to the mean rate
        for start, stop, expected in (
            (0, first, 2500 * first),
            (first, 30, half),
            (first, last, 5150 * length),
            (last, 60, 7800 * (60 - last)),
        ):
            assert abs(between(times, start, stop) - expected) < 5 * sqrt(8 * expected) + 10

    def test_burstiness_is_the_same_before_and_after_the_ramp(self):
        times = time_varying(2500.0, 7400.0, 5000.0, 200.0, seed=4)
        for start in (0.0, 105.0):
            part = times[(times >= start) & (times < start + 95)] - start
            assert abs(dispersion(part, 0.5, 95.0) - 8) < 5 * 8 * sqrt(2 / 190) + 0.3

    def test_the_rate_can_fall(self):
        times = time_varying(3000.0, 1000.0, 200.0, 30.0, cv2=1.0, seed=5)
        assert abs(between(times, 0, 10) - 30_000) < 5 * sqrt(30_000)
        assert abs(between(times, 20, 30) - 10_000) < 5 * sqrt(10_000)

    @pytest.mark.parametrize("more", [{}, {"start": 5.0}, {"start": -1.0}])
    def test_a_ramp_that_does_not_fit_is_refused(self, more):
        with pytest.raises(ValueError, match="does not fit"):
            time_varying(2500.0, 7800.0, 250.0, 20.0 if not more else 25.0, **more)

    def test_tau_is_positive(self):
        with pytest.raises(ValueError, match="tau"):
            time_varying(2500.0, 1000.0, -250.0, 20.0)


class TestDiurnal:
    def test_counts_are_the_integral_of_the_sinusoid(self):
        """Of 1000 (1 - 0.8 cos(2 pi t / 60)) in twelve parts, against its antiderivative."""
        times = diurnal(1000.0, 60.0, 0.8, seed=6)
        edges = np.linspace(0.0, 60.0, 13)
        expected = np.diff(1000 * (edges - 0.8 * 60 / (2 * pi) * np.sin(2 * pi * edges / 60)))
        counts = np.histogram(times, edges)[0]
        assert np.all(np.abs(counts - expected) < 5 * np.sqrt(expected))

    def test_every_period_is_alike(self):
        times = diurnal(500.0, 40.0, 1.0, period=10.0, seed=7)
        for start in range(0, 40, 10):
            assert abs(between(times, start, start + 10) - 5000) < 5 * sqrt(5000)
            assert between(times, start + 2.5, start + 7.5) > 2 * between(times, start, start + 2.5)

    def test_without_swing_it_is_a_constant_rate(self):
        assert diurnal(8.0, 2.0, 0.0, cv2=0.0) == pytest.approx(constant(8.0, 2.0))

    @pytest.mark.parametrize("more", [{"swing": 1.1}, {"swing": -0.1}, {"period": 0.0}])
    def test_arguments_that_make_no_sense_are_refused(self, more):
        with pytest.raises(ValueError, match=r"swing|period"):
            diurnal(10.0, 5.0, **more)


class TestMmpp:
    RATES, STAYS = (900.0, 100.0), (0.4, 1.2)

    def variation(self, window):
        """Fischer and Meier-Hellstern's index of dispersion of counts after ``window`` seconds."""
        (r1, r2), (leave1, leave2) = self.RATES, (1 / self.STAYS[0], 1 / self.STAYS[1])
        both = leave1 + leave2
        rate = (r1 * leave2 + r2 * leave1) / both
        excess = 2 * (r1 - r2) ** 2 * leave1 * leave2 / (both**3 * rate)
        return 1 + excess * (1 - (1 - exp(-both * window)) / (both * window)), rate

    @pytest.mark.parametrize("window", [0.05, 0.5, 8.0])
    def test_dispersion_is_that_of_the_theory(self, window):
        """The error allows for neighbouring windows being correlated."""
        times = mmpp(*self.RATES, *self.STAYS, 8000.0, seed=8)
        expected, rate = self.variation(window)
        independent = 8000 / max(window, 1.0)
        assert abs(dispersion(times, window, 8000.0) - expected) < 5 * expected * sqrt(
            3 / independent
        )
        long_run, _ = self.variation(1e6)
        assert abs(len(times) - rate * 8000) < 5 * sqrt(long_run * rate * 8000)

    def test_the_limit_named_in_the_docstring_is_the_theory_s(self):
        (r1, r2), (on, off) = self.RATES, self.STAYS
        limit = 1 + 2 * (r1 - r2) ** 2 * (on * off) ** 2 / ((on + off) ** 2 * (r1 * on + r2 * off))
        assert limit == pytest.approx(self.variation(1e9)[0])

    def test_equal_rates_are_poisson(self):
        found = trace_statistics(mmpp(500.0, 500.0, 1.0, 1.0, 400.0, seed=9), 400.0)
        assert abs(found.idc_1s - 1) < 5 * sqrt(2 / 400)

    def test_the_first_state_is_drawn_from_the_stationary_law(self):
        """On for a quarter of the time, so at the start in a quarter of 400 runs."""
        starts_on = sum(len(mmpp(1e4, 0.0, 1.0, 3.0, 0.001, seed=s)) > 0 for s in range(400))
        assert abs(starts_on - 100) < 5 * sqrt(400 * 0.25 * 0.75)

    @pytest.mark.parametrize("arguments", [(1.0, 1.0, 0.0, 1.0, 1.0), (1.0, 1.0, 1.0, 1.0, -1.0)])
    def test_arguments_that_make_no_sense_are_refused(self, arguments):
        with pytest.raises(ValueError, match="must be"):
            mmpp(*arguments)


class TestMafLike:
    @pytest.mark.parametrize(
        ("share_of_functions", "share_of_invocations"),
        [(1e-4, 0.31), (1e-3, 0.64), (1e-2, 0.92), (1e-1, 0.995)],
    )
    def test_popularity_is_about_that_of_the_published_figure(
        self, share_of_functions, share_of_invocations
    ):
        """Figure 5b of the data set's own analysis, curve of functions; within 0.05."""
        shares = maf_popularity(32_700)
        top = shares[: round(32_700 * share_of_functions)].sum()
        assert abs(top - share_of_invocations) < 0.05
        assert shares.sum() == pytest.approx(1.0)
        assert np.all(np.diff(shares) <= 0)

    @pytest.mark.parametrize("day", range(5))
    def test_the_busiest_twelve_minutes_stand_where_the_paper_s_peak_does(self, day):
        profile = maf_profile(day)
        twelve = np.convolve(profile, np.ones(12) / 12, "valid")
        assert profile.shape == (1440,)
        assert np.all(profile > 0)
        assert profile.mean() == pytest.approx(1.0)
        assert twelve.max() == pytest.approx(8750 / 6400)

    @pytest.mark.parametrize("day", range(5))
    def test_hours_swing_as_in_the_published_figure(self, day):
        """Figure 4: hours within 0.8 to 1.3 of the mean, a first harmonic of 5 to 20 %."""
        hours = maf_profile(day).reshape(24, 60).mean(axis=1)
        wave = 2 * np.mean(hours * np.exp(2j * pi * np.arange(24) / 24))
        assert hours.min() > 0.8
        assert hours.max() < 1.3
        assert 0.05 < abs(wave) < 0.2

    @pytest.mark.parametrize("day", range(3))
    def test_shrunk_to_two_minutes_it_has_the_paper_s_mean_and_peak(self, day):
        """6400 q/s, and 8750 q/s in the highest second, where chance adds to 8750 a little."""
        found = trace_statistics(maf_like(day=day, seed=10), 120.0, peak_window=1.0)
        assert abs(found.mean_rate - 6400) < 5 * sqrt(6400 / 120)
        assert 8750 - 3 * sqrt(8750) < found.peak_rate < 8750 + 5 * sqrt(8750)

    def test_seeds_repeat_one_day_and_days_differ(self):
        minutes = np.linspace(0.0, 120.0, 1441)
        one, again, other = (
            np.histogram(maf_like(seed=seed, day=day), minutes)[0]
            for seed, day in ((1, 0), (2, 0), (1, 1))
        )
        assert np.corrcoef(one, again)[0, 1] > 0.85
        assert np.corrcoef(one, other)[0, 1] < 0.85

    def test_a_peak_below_the_daily_swing_is_refused(self):
        with pytest.raises(ValueError, match="peak"):
            maf_profile(peak_to_mean=1.1)

    def test_a_day_without_functions_is_refused(self):
        with pytest.raises(ValueError, match="function"):
            maf_profile(functions=0)


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: bursty(100.0, 300.0, 5.0, 4.0, seed),
        lambda seed: time_varying(100.0, 300.0, 100.0, 5.0, 8.0, seed),
        lambda seed: diurnal(300.0, 5.0, 0.5, 2.0, seed),
        lambda seed: mmpp(900.0, 50.0, 0.5, 0.5, 5.0, seed),
        lambda seed: maf_like(2.0, 1000.0, 4.0, seed),
    ],
    ids=["bursty", "time_varying", "diurnal", "mmpp", "maf_like"],
)
def test_streams_ascend_within_the_run_and_the_seed_decides_them(make):
    times = make(11)
    assert np.all(np.diff(times) >= 0)
    assert times[0] >= 0
    assert times[-1] < 5.0
    assert np.array_equal(times, make(11))
    assert not np.array_equal(times, make(12))
