"""The load of the demonstration, from profiles whose numbers can be checked by hand."""

import pytest

from loadtest.demo_plan import comfortable_slo, make_plan
from policies.types import Profile

# In batches of 4: small 1000/s, large 100/s.
PROFILE = Profile.from_table([("small", 90.0, {1: 0.002, 4: 0.004}),
                              ("large", 98.0, {1: 0.020, 4: 0.040})])  # fmt: skip
# small only 1.5 times as fast as large: the burst cannot be double.
FLAT = Profile.from_table([("small", 90.0, {4: 0.010}), ("large", 98.0, {4: 0.015})])


def rates(plan):
    return [phase.rate for phase in plan.phases]


def test_capacity_is_the_largest_batch_over_its_latency():
    plan = make_plan(PROFILE)
    assert plan.largest_capacity == pytest.approx(100.0)
    assert plan.smallest_capacity == pytest.approx(1000.0)


def test_calm_burst_calm():
    plan = make_plan(PROFILE)
    assert rates(plan) == pytest.approx([30.0, 200.0, 30.0])
    assert [phase.seconds for phase in plan.phases] == pytest.approx([8.0, 10.0, 12.0])
    assert [phase.start for phase in plan.phases] == pytest.approx([0.0, 8.0, 18.0])
    assert plan.overloads


def test_workers_multiply_capacity():
    assert rates(make_plan(PROFILE, workers=3)) == pytest.approx([90.0, 600.0, 90.0])


def test_the_burst_stays_within_half_of_what_the_smallest_subnet_can_serve():
    assert rates(make_plan(PROFILE, burst_factor=50.0))[1] == pytest.approx(500.0)


def test_a_burst_that_the_largest_subnet_can_serve_is_told():
    plan = make_plan(FLAT)
    assert rates(plan)[1] == pytest.approx(200.0)
    assert not plan.overloads


@pytest.mark.parametrize(
    ("latency", "slo"),
    [(0.040, 0.100), (0.0401, 0.105), (0.012, 0.030), (0.002, 0.025)],
    ids=["two and a half batches", "rounded up to 5 ms", "no step too many", "never below 25 ms"],
)
def test_slo_is_comfortable_for_the_largest_subnet(latency, slo):
    assert comfortable_slo(Profile.from_table([("s", 90.0, {4: latency})])) == pytest.approx(slo)


def test_an_slo_that_is_asked_for_is_kept():
    assert make_plan(PROFILE, slo=0.0123).slo == 0.0123


def test_seconds_scale_the_phases():
    plan = make_plan(PROFILE, seconds=3.0)
    assert [phase.seconds for phase in plan.phases] == pytest.approx([0.8, 1.0, 1.2])
    assert plan.seconds == pytest.approx(3.0)


def test_the_phase_of_a_time():
    plan = make_plan(PROFILE)
    names = [plan.phase_at(time).name for time in (0.0, 7.9, 8.0, 17.9, 18.0, 99.0)]
    assert names == ["calm", "calm", "burst", "burst", "calm again", "calm again"]


def test_arrivals_follow_the_phases():
    plan = make_plan(PROFILE)
    times = plan.arrivals(seed=1)
    burst = ((times >= 8.0) & (times < 18.0)).sum()
    assert abs(burst - 2000) < 5 * 2000**0.5
    assert abs(len(times) - burst - 600) < 5 * 600**0.5


@pytest.mark.parametrize("wrong", [{"seconds": 0.0}, {"slo": 0.0}, {"burst_factor": -1.0},
                                   {"workers": 0}])  # fmt: skip
def test_senseless_plans_are_refused(wrong):
    with pytest.raises(ValueError, match="positive"):
        make_plan(PROFILE, **wrong)
