"""Between the scheduler and its policies: what they see, when they are asked, how they fail."""

import random
from math import inf, nextafter

import pytest

from policies.types import Choice, Profile, QueueView, Wait
from superserve.messages import Complete, Dispatch, DropReason, Query, Wake
from superserve.pairing import PolicyError
from superserve.scheduler import Scheduler
from tests.superserve.scheduling import (
    PROFILE,
    Always,
    always,
    drops,
    fill,
    ids,
    only,
    query,
    scheduler,
    wait,
)

QUICK = {("", "cpu"): Profile.from_table([("small", 70.0, {1: 0.01})])}


class TestAdmission:
    def test_without_a_worker_a_query_is_dropped(self):
        assert drops(scheduler(workers=0).arrive(query(0), 0.0)) == [(0, DropReason.NO_WORKER)]

    def test_when_too_many_wait_a_query_is_dropped(self):
        made = scheduler(max_waiting=1)
        commands = fill(made, query(0), query(1), query(2))  # one runs, one waits
        assert drops(commands) == [(2, DropReason.FULL)]

    def test_a_policy_may_refuse_at_arrival(self):
        class Picky(Always):
            def admit(self, view, waiting):
                return len(view) < 1 or waiting.priority > 0

        made = scheduler(lambda _: Picky(None))
        commands = fill(made, query(0), query(1), Query(2, 0.0, 9.0, priority=1))
        assert drops(commands) == [(1, DropReason.REFUSED)]

    def test_one_policy_that_admits_is_enough(self):
        class Ask(Always):
            def __init__(self, profile):
                super().__init__(None)
                self.yes = "large" in profile.subnets

            def admit(self, view, waiting):
                return self.yes

        small = Profile.from_table([("small", 70.0, {1: 1.0})])
        made = Scheduler({("", "cpu"): small, ("", "gpu"): PROFILE}, Ask)
        made.worker_joined("c", "cpu", 0.0)
        assert drops(fill(made, query(0))) == [(0, DropReason.REFUSED)]
        made.worker_joined("g", "gpu", 0.0)
        assert drops(fill(made, query(1))) == []

    def test_an_unknown_model_is_refused_with_the_known_ones(self):
        with pytest.raises(ValueError, match="no model 'cats'; there are "):
            scheduler().arrive(query(0, model="cats"), 0.0)

    def test_an_id_that_waits_already_is_refused(self):
        made = scheduler(wait)
        made.arrive(query(0), 0.0)
        with pytest.raises(ValueError, match="query 0 already waits"):
            made.arrive(query(0), 0.0)
        assert made.waiting == 1


TWO_MODELS = {("a", "cpu"): PROFILE, ("b", "cpu"): PROFILE}


class TestSeveralModels:
    def test_the_model_with_the_most_urgent_head_goes_first(self):
        made = scheduler(always(batch=4), profiles=TWO_MODELS)
        fill(made, query(0, model="a"), query(1, 30.0, model="a"), query(2, 20.0, model="b"))
        (dispatch,) = only(Dispatch, made.worker_free("w0", 0, 1.0))
        assert (dispatch.model, [q.id for q in dispatch.queries]) == ("b", [2])

    def test_a_policy_that_waits_lets_the_next_model_go(self):
        policies = iter([Always(None), Always(Choice("small", 1))])
        made = scheduler(lambda _: next(policies), profiles=TWO_MODELS)
        commands = fill(made, query(0, 10.0, model="a"), query(1, 20.0, model="b"))
        assert ids(commands) == [[1]]

    def test_a_model_that_is_shed_whole_lets_the_next_one_go(self):
        policies = iter([Always(Choice("small", 1, shed=9)), Always(Choice("small", 1))])
        made = scheduler(wait, profiles=TWO_MODELS)
        fill(made, query(0, 10.0, model="a"), query(1, 20.0, model="b"))
        made.set_policy(lambda _: next(policies))
        assert ids(made.tick(0.0)) == [[1]]

    def test_a_model_without_a_worker_does_not_block_the_others(self):
        made = scheduler(profiles={("a", "cpu"): PROFILE, ("b", "gpu"): PROFILE})
        assert drops(fill(made, query(0, model="b"))) == [(0, DropReason.NO_WORKER)]
        assert ids(fill(made, query(1, model="a"))) == [[1]]

    def test_each_pair_of_model_and_device_type_has_a_policy_of_its_own(self):
        made = []
        other = Profile.from_table([("s", 50.0, {1: 1.0})])
        Scheduler({("a", "cpu"): PROFILE, ("a", "gpu"): other, ("b", "cpu"): PROFILE}, made.append)
        assert made == [PROFILE, other, PROFILE]


class TestDeviceTypes:
    SLOW = Profile.from_table([("small", 70.0, {1: 10.0, 2: 15.0, 4: 25.0})])

    def test_a_slow_device_does_not_take_what_it_would_serve_late(self):
        made = Scheduler({("", "cpu"): self.SLOW, ("", "gpu"): PROFILE}, always())
        made.worker_joined("c", "cpu", 0.0)
        assert ids(fill(made, query(0, 5.0), query(1, 50.0))) == [[1]]
        assert ids(made.worker_joined("g", "gpu", 1.0)) == [[0]]

    def test_a_query_is_hopeless_when_the_fastest_device_is_too_slow(self):
        made = Scheduler({("", "cpu"): self.SLOW, ("", "gpu"): PROFILE}, always())
        made.worker_joined("c", "cpu", 0.0)
        fill(made, query(0, 5.0))
        assert drops(made.tick(3.9)) == []
        assert drops(made.tick(4.1)) == [(0, DropReason.EXPIRED)]


class TestView:
    def asked(self, **options):
        policy = Always(None)
        return policy, scheduler(lambda _: policy, **options)

    def test_a_policy_sees_what_waits_in_edf_order(self):
        policy, made = self.asked()
        fill(made, query(0, 30.0), query(1, 20.0))
        view, _ = policy.asked[-1]
        assert isinstance(view, QueueView)
        assert [w.deadline for w in view.waiting] == [20.0, 30.0]

    def test_a_policy_sees_when_each_worker_is_done(self):
        policy, made = self.asked(workers=2)
        policy.choice = Choice("small", 1)
        fill(made, query(0), now=5.0)
        policy.choice = None
        fill(made, query(1), now=5.25)
        view, _ = policy.asked[-1]
        assert [(w.name, w.residual) for w in view.workers] == [("w0", 0.75), ("w1", 0.0)]

    def test_a_policy_is_not_shown_what_the_worker_would_serve_late(self):
        """The worker is busy until 1, so that nothing due before 2 can be met there."""
        policy, made = self.asked(credits=2)
        policy.choice = Choice("small", 1)
        fill(made, query(0))
        policy.choice = None
        fill(made, query(1, 1.9), query(2, 2.0))
        view, _ = policy.asked[-1]
        assert [w.deadline for w in view.waiting] == [2.0]

    def test_a_policy_is_told_when_the_batch_would_start(self):
        policy, made = self.asked(credits=2)
        policy.choice = Choice("small", 1)
        fill(made, query(0), query(1), now=5.0)
        assert [now for _, now in policy.asked] == [5.0, 6.0]

    def test_a_policy_sees_the_load(self):
        policy, made = self.asked()
        fill(made, *map(query, range(10)), now=1.0)
        view, _ = policy.asked[-1]
        assert view.arrival_rate == pytest.approx(10 / 0.025)
        assert view.dispersion == 1.0

    def test_workers_that_cannot_serve_the_model_are_not_shown(self):
        policy = Always(None)
        profiles = {("a", "cpu"): PROFILE, ("b", "gpu"): PROFILE}
        made = scheduler(lambda _: policy, profiles=profiles)
        made.worker_joined("g", "gpu", 0.0)
        fill(made, query(0, model="a"))
        view, _ = policy.asked[-1]
        assert [w.name for w in view.workers] == ["w0"]


class TestTicks:
    class Ticking(Always):
        tick_period = 2.0

        def __init__(self):
            super().__init__(None)
            self.ticks = []

        def on_tick(self, view, now):
            self.ticks.append(now)

    def test_a_policy_is_ticked_at_its_period(self):
        policy, now = self.Ticking(), 0.0
        made = Scheduler({("", "cpu"): PROFILE}, lambda _: policy)
        commands = made.worker_joined("w0", "cpu", 10.0)
        for _ in range(3):
            (wake,) = only(Wake, commands)
            now = wake.at
            commands = made.tick(now)
        assert [round(t, 9) for t in policy.ticks] == [10.0, 12.0, 14.0]

    def test_a_tick_in_between_is_not_passed_on(self):
        policy = self.Ticking()
        made = Scheduler({("", "cpu"): PROFILE}, lambda _: policy)
        made.tick(10.0)
        made.tick(11.0)
        assert policy.ticks == [10.0]

    def test_a_new_policy_is_ticked_from_the_next_event_on(self):
        made = scheduler()
        policy = self.Ticking()
        made.set_policy(lambda _: policy)
        (wake,) = only(Wake, made.tick(5.0))
        assert policy.ticks == [5.0]
        assert wake.at == pytest.approx(7.0)

    def test_on_tick_without_a_period_is_refused(self):
        class Endless(Always):
            def on_tick(self, view, now):
                pass

        with pytest.raises(ValueError, match="needs a positive tick_period"):
            scheduler(lambda _: Endless(None))


class TestPolicyAtRunTime:
    def test_a_new_policy_decides_from_the_next_event_on(self):
        made = scheduler(wait)
        fill(made, query(0))
        made.set_policy(always("mid"))
        assert [d.subnet for d in only(Dispatch, made.tick(0.5))] == ["mid"]

    def test_a_policy_that_cannot_be_built_leaves_the_old_one(self):
        made = scheduler(always("mid"))
        with pytest.raises(ZeroDivisionError):
            made.set_policy(lambda _: 1 / 0)
        (dispatch,) = only(Dispatch, fill(made, query(0)))
        assert dispatch.subnet == "mid"


class TestPolicyErrors:
    @pytest.mark.parametrize(
        ("choice", "message"),
        [
            (Choice("huge", 1), "Always chose .*'huge'.*small, mid, large"),
            (Choice("small", 5), r"Always chose .*batch_size=5.*outside 1\.\.4"),
            (("small", 1), "answered .* no Choice"),
        ],
    )
    def test_a_choice_that_the_profile_does_not_have_is_an_error(self, choice, message):
        with pytest.raises(PolicyError, match=message):
            fill(scheduler(lambda _: Always(choice)), query(0))

    def test_what_a_policy_raises_is_named_and_kept_as_the_cause(self):
        class Broken(Always):
            def choose(self, view, now):
                raise ZeroDivisionError

        with pytest.raises(PolicyError, match="Always failed in choose") as caught:
            fill(scheduler(lambda _: Broken(None)), query(0))
        assert isinstance(caught.value.__cause__, ZeroDivisionError)

    def test_a_policy_error_is_a_value_error(self):
        assert issubclass(PolicyError, ValueError)

    def test_nothing_is_lost_by_a_policy_error(self):
        """The result that came with the error is completed by the next event."""
        made = scheduler()
        (first,) = only(Dispatch, fill(made, query(0), query(1), query(2, 1.5)))
        made.set_policy(lambda _: Always(Choice("huge", 1)))
        with pytest.raises(PolicyError):
            made.worker_free("w0", 0, 1.0)
        made.set_policy(always())
        commands = made.tick(1.0)
        assert only(Complete, commands) == [Complete(first, 1.0)]
        assert drops(commands) == [(2, DropReason.EXPIRED)]
        assert ids(commands) == [[1]]

    def test_a_query_that_admit_failed_on_is_accepted(self):
        class Broken(Always):
            def admit(self, view, waiting):
                raise ZeroDivisionError

        made = scheduler(lambda _: Broken(None))
        with pytest.raises(PolicyError, match="failed in admit"):
            made.arrive(query(0), 0.0)
        made.set_policy(always())
        assert ids(made.tick(0.0)) == [[0]]

    def test_a_tick_that_failed_is_named(self):
        class Broken(Always):
            tick_period = 1.0

            def on_tick(self, view, now):
                raise ZeroDivisionError

        with pytest.raises(PolicyError, match="failed in on_tick"):
            scheduler(lambda _: Broken(None), workers=0).tick(0.0)


class TestAPolicyThatWaits:
    def test_is_asked_again_at_the_time_it_named(self):
        class UntilTen:
            def choose(self, view, now):
                return Wait(10.0) if now < 10.0 else Choice("small", 4)

        made = scheduler(lambda _profile: UntilTen())
        (wake,) = only(Wake, made.arrive(query(0), 1.0))
        assert wake.at == nextafter(10.0, inf)
        assert ids(made.tick(wake.at)) == [[0]]

    def test_is_asked_again_at_the_next_event(self):
        class ForTwo:
            def choose(self, view, now):
                return Choice("small", 2) if len(view) == 2 else Wait(50.0)

        made = scheduler(lambda _profile: ForTwo())
        assert ids(made.arrive(query(0), 1.0)) == []
        assert ids(made.arrive(query(1), 2.0)) == [[0, 1]]

    def test_may_wait_for_a_moment_that_rounds_to_none_on_the_servers_clock(self):
        """With a reserve the policy's clock is ahead, and its numbers are larger."""

        class AMoment:
            def choose(self, view, now):
                return Wait(nextafter(now, inf))

        draw = random.Random(0)
        for _ in range(300):
            arrival = draw.uniform(0.25, 0.35)
            asked = query(0, arrival + draw.uniform(0.2, 0.25), arrival=arrival)
            made = scheduler(lambda _profile: AMoment(), reserve=0.35, profiles=QUICK)
            (wake,) = only(Wake, made.arrive(asked, arrival))
            assert arrival < wake.at < arrival + 1e-5

    def test_may_not_wait_for_the_past(self):
        made = scheduler(lambda _profile: Always(Wait(1.0)))
        with pytest.raises(PolicyError, match="which is over at 1"):
            made.arrive(query(0), 1.0)

    def test_knows_which_worker_asks_and_what_is_active_on_it(self):
        class OneEach:
            def choose(self, view, now):
                active = {worker.name: worker.subnet for worker in view.workers}
                return Choice("mid" if active[view.asking] == "small" else "small", 1)

        made = scheduler(lambda _profile: OneEach(), workers=2)
        first, second = only(Dispatch, fill(made, query(0), query(1)))
        assert (first.worker, second.worker) == ("w0", "w1")
        assert first.subnet == second.subnet == "small"
        made.worker_free("w1", second.id, 1.0)
        (third,) = only(Dispatch, made.arrive(query(2), 1.0))
        assert (third.worker, third.subnet) == ("w1", "mid")


def test_the_reserve_is_held_back_from_the_policy():
    """Of a budget of 100 s a quarter is held back: the head seems to be due that much sooner."""
    slacks = []

    class Noting:
        def choose(self, view, now):
            slacks.append(view.head.deadline - now)
            return Choice("small", 1)

    made = scheduler(lambda _profile: Noting(), reserve=0.25)
    made.arrive(query(0, deadline=100.0), 0.0)
    assert slacks == [75.0]
