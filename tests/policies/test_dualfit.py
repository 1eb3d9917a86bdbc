"""DualFit and PaceFit: what the queue can afford, what it is worth, and what runs then."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.allowance import Allowance, sampled
from policies.dualfit import DualFit
from policies.pacefit import PaceFit
from policies.types import Profile, QueueView, Waiting
from tests.policies.hand import HAND, NOW, choose
from tests.policies.test_promises import profiles

BARE = Allowance(share=1.0, horizon=0.0, deviations=0.0, batches=0.0)
# Seconds at the batch sizes       1    2    4.  Full batches need 0.5, 1 and 2 s per query.
LINEAR = Profile.from_table(
    [
        ("small", 70.0, {1: 0.6, 2: 1.1, 4: 2.0}),
        ("mid", 80.0, {1: 1.1, 2: 2.1, 4: 4.0}),
        ("large", 85.0, {1: 2.1, 2: 4.1, 4: 8.0}),
    ]
)


def view(*slacks, capacity=1.0, rate=0.0, slo=0.0, dispersion=1.0):
    return QueueView(
        tuple(Waiting(NOW + slack) for slack in sorted(slacks)),
        arrival_rate=rate, slo=slo, capacity=capacity, dispersion=dispersion,
    )  # fmt: skip


def affordable(rule, queue, batch):
    return rule.affordable(queue, sampled(queue, NOW, batch), batch)


class TestAllowance:
    def test_an_empty_queue_can_afford_anything(self):
        assert affordable(BARE, view(), 4) == inf

    def test_the_whole_queue_shares_the_time_to_its_last_deadline(self):
        assert affordable(BARE, view(10, 10, 10, 10, 10), 4) == pytest.approx(10 / 5)

    def test_an_urgent_front_binds_before_the_whole_queue_does(self):
        """Eight within 3 s leave 3/8 s each, whatever comes after them."""
        queue = view(*[3.0] * 8, *[90.0] * 8)
        assert affordable(BARE, queue, 4) == pytest.approx(3 / 8)

    def test_it_grows_with_the_workers_and_with_the_share(self):
        queue = view(*[10.0] * 8, capacity=3.0)
        half = Allowance(share=0.5, horizon=0.0, deviations=0.0, batches=0.0)
        assert affordable(BARE, queue, 4) == pytest.approx(3 * 10 / 8)
        assert affordable(half, queue, 4) == pytest.approx(3 * 0.5 * 10 / 8)

    def test_queries_to_come_that_are_due_sooner_go_first(self):
        """SLO 2 s on average, 3 a second: in the 10 - 2 s in between come 24."""
        queue = view(*[10.0] * 8, rate=3.0, slo=2.0)
        assert affordable(BARE, queue, 8) == pytest.approx(10 / (8 + 24))

    def test_a_forecast_counts_the_arrivals_of_a_horizon_and_its_time(self):
        """Two SLOs of 5 s bring 2 · 10, and 3 standard deviations of sqrt(4 · 20) more."""
        rule = Allowance(share=1.0, horizon=2.0, deviations=3.0, batches=0.0)
        queue = view(*[5.0] * 8, rate=2.0, slo=5.0, dispersion=4.0)
        expected = (10 + 5) / (8 + 20 + 3 * 80**0.5)
        assert affordable(rule, queue, 8) == pytest.approx(expected)

    def test_batches_under_way_take_their_time_too(self):
        """Two workers with a batch of 8 each, but no more than the 8 that wait: 2 · 12 / (8 + 16)
        with all workers' batches, which for the whole queue come on top.
        """
        rule = Allowance(share=1.0, horizon=0.0, deviations=0.0, batches=1.0)
        queue = view(*[12.0] * 8, capacity=2.0)
        assert affordable(rule, queue, 8) == pytest.approx(2 * 12 / (8 + 16))

    @given(
        st.lists(st.floats(0.1, 50.0), min_size=1, max_size=60), st.floats(0.5, 8.0),
        st.integers(1, 16),
    )  # fmt: skip
    def test_fifo_at_the_affordable_pace_is_late_by_less_than_the_sampling_allows(
        self, slacks, capacity, batch
    ):
        """An oracle that reads every k: the sampled bound is at most twice the true one."""
        slacks = sorted(slacks)
        exact = min(
            capacity * slack / place
            for place, slack in enumerate(slacks, start=1)
            if place >= batch or place == len(slacks)
        )
        found = affordable(BARE, view(*slacks, capacity=capacity), batch)
        assert exact * 0.999 <= found <= 2.0 * exact * 1.001 + 1e-9

    @pytest.mark.parametrize(
        "wrong", [{"share": 0.0}, {"share": 1.1}, {"horizon": -1.0}, {"batches": -0.1}]
    )
    def test_impossible_knobs_are_refused(self, wrong):
        with pytest.raises(ValueError, match="share must be"):
            Allowance(**wrong)


PLAIN = {"share": 1.0, "horizon": 0.0, "deviations": 0.0, "batches": 0.0, "guard": 0.0}


class TestPaceFit:
    def test_the_pace_of_the_queue_picks_the_subnet(self):
        """8 wait for 9 s: 1.125 s each, so a batch of 4 may take 4.5 s: mid, which takes 4."""
        policy = PaceFit(LINEAR, **PLAIN)
        choice = policy.choose(view(*[9.0] * 8), NOW)
        assert (choice.subnet, choice.batch_size) == ("mid", 4)

    def test_the_slack_of_the_head_is_the_limit(self):
        """The queue could afford mid, but the head has 3 s only."""
        policy = PaceFit(LINEAR, **PLAIN)
        choice = policy.choose(view(3.0, *[90.0] * 7), NOW)
        assert (choice.subnet, choice.batch_size) == ("small", 4)

    def test_a_late_head_does_not_stop_it(self):
        choice = choose(PaceFit(LINEAR), 3, -1.0)
        assert (choice.subnet, choice.batch_size) == ("small", 3)


class TestDualFit:
    def test_with_time_for_all_the_most_accurate_runs(self):
        choice = DualFit(LINEAR, **PLAIN).choose(view(50.0, 50.0, 50.0), NOW)
        assert (choice.subnet, choice.batch_size, choice.shed) == ("large", 3, 0)

    def test_under_load_the_subnet_at_the_tangent_runs_in_a_full_batch(self):
        """40 wait for 30 s: 0.75 s each, the middle of the segment from small (0.5) to mid (1).

        Its slope is 10 percent per 0.5 s, a price of 20 per second: a full batch of small costs
        40 of price and is worth 4 · 70, of mid 80 and 4 · 80: alike, and the lower vertex runs.
        One more or one less second per query decides it.
        """
        policy = DualFit(LINEAR, **PLAIN)
        assert policy.choose(view(*[26.0] * 40), NOW).subnet == "small"
        assert policy.choose(view(*[34.0] * 40), NOW).subnet == "mid"

    def test_a_few_urgent_ones_run_on_their_own(self):
        """One query due in 1.2 s, fifteen have 20 s, 1.25 s each: a price of about 7.5.

        All four at once would have to run small (2 s do not fit 1.2 s; two of them take 1.1 s).
        The urgent one alone on mid takes 1.1 s, and the others then run as they like.
        """
        policy = DualFit(LINEAR, **PLAIN)
        choice = policy.choose(view(1.2, *[20.0] * 15), NOW)
        assert (choice.subnet, choice.batch_size, choice.shed) == ("mid", 1, 0)

    def test_in_overload_what_must_miss_anyway_is_shed(self):
        """2 queries a second at most; 60 wait within 10 s, so 40 of them must miss."""
        policy = DualFit(LINEAR, **PLAIN)
        choice = policy.choose(view(*[0.7 + i * 9.3 / 59 for i in range(60)]), NOW)
        assert choice.shed > 0
        assert (choice.subnet, choice.batch_size) == ("small", 4)

    def test_shedding_can_be_switched_off(self):
        policy = DualFit(LINEAR, shed=False)
        choice = policy.choose(view(*[0.7 + i * 9.3 / 59 for i in range(60)]), NOW)
        assert choice.shed == 0

    def test_a_feasible_queue_is_not_shed_for_throughput(self):
        """Eight with 0.7, 1.3, 1.9... s are served one after the other, late by nobody."""
        slacks = [0.7 + 0.7 * i for i in range(8)]
        assert DualFit(LINEAR, guard=0.0).choose(view(*slacks), NOW).shed == 0

    def test_the_floor_of_the_head_is_met(self):
        queue = QueueView(tuple(Waiting(NOW + 1.2, min_accuracy=75.0) for _ in range(40)))
        assert DualFit(LINEAR).choose(queue, NOW).subnet == "mid"

    def test_a_floor_makes_the_batch_no_larger_than_its_subnet_can_run_in_time(self):
        """Four would take 4 s on mid, two take 2.1 s: the head has 3 s."""
        queue = QueueView(tuple(Waiting(NOW + 3.0, min_accuracy=75.0) for _ in range(4)))
        choice = DualFit(LINEAR, guard=0.0).choose(queue, NOW)
        assert choice.subnet == "mid"
        assert choice.batch_size <= 2

    def test_a_late_head_does_not_stop_it(self):
        assert choose(DualFit(LINEAR), 3, -1.0) is not None

    def test_nothing_waits_nothing_runs(self):
        assert DualFit(HAND).choose(view(), NOW) is None

    @pytest.mark.parametrize("wrong", [{"guard": -0.1}, {"penalty": -1.0}])
    def test_impossible_knobs_are_refused(self, wrong):
        with pytest.raises(ValueError, match="must not be negative"):
            DualFit(HAND, **wrong)


@given(
    profiles(),
    st.lists(st.floats(-5.0, 60.0), min_size=1, max_size=80),
    st.floats(0.1, 9.0), st.floats(0.0, 100.0), st.floats(0.0, 20.0), st.booleans(),
)  # fmt: skip
def test_whatever_waits_the_choice_is_lawful_and_in_time_if_it_can_be(
    profile, slacks, capacity, rate, slo, shed
):
    queue = view(*slacks, capacity=capacity, rate=rate, slo=slo)
    for policy in (DualFit(profile, shed=shed), PaceFit(profile)):
        choice = policy.choose(queue, NOW)
        assert choice.subnet in profile.subnets
        assert 0 <= choice.shed < len(slacks)
        assert 1 <= choice.batch_size <= min(profile.max_batch, len(slacks) - choice.shed)
        slack = queue.waiting[choice.shed].deadline - NOW
        if profile.latencies[0][0] * 1.14 <= slack * 0.999:
            assert profile.latency(choice.subnet, choice.batch_size) <= slack


@given(profiles(), st.lists(st.floats(0.0, 60.0), min_size=1, max_size=40))
def test_with_twice_the_workers_no_less_can_be_afforded(profile, slacks):
    few, many = (view(*slacks, capacity=c) for c in (2.0, 4.0))
    batch = profile.max_batch
    assert affordable(Allowance(), many, batch) >= affordable(Allowance(), few, batch)
