"""What the scheduler keeps whatever a policy says: expiry, floors, shedding."""

from math import inf, nextafter

import pytest

from policies.types import Profile
from superserve.messages import Dispatch, DropReason, Wake
from tests.superserve.scheduling import (
    PROFILE,
    always,
    drops,
    fill,
    ids,
    only,
    query,
    scheduler,
    wait,
)


class TestExpiry:
    def test_a_query_that_no_subnet_can_answer_in_time_is_dropped(self):
        made = scheduler(wait)
        fill(made, query(0, 5.0))
        assert drops(made.tick(4.0)) == []  # small alone takes 1: just in time
        assert drops(made.tick(4.1)) == [(0, DropReason.EXPIRED)]

    def test_a_query_that_is_hopeless_when_it_comes_is_dropped_at_once(self):
        assert drops(scheduler().arrive(query(0, 5.0), 4.5)) == [(0, DropReason.EXPIRED)]

    def test_a_wake_is_set_for_the_first_moment_at_which_the_head_is_hopeless(self):
        made = scheduler(wait)
        (wake,) = only(Wake, fill(made, query(0, 5.0)))
        assert wake == Wake(nextafter(4.0, inf))
        assert drops(made.tick(wake.at)) == [(0, DropReason.EXPIRED)]

    def test_a_wake_stands_until_an_earlier_one_is_needed(self):
        made = scheduler(wait)
        fill(made, query(0, 50.0))
        assert only(Wake, fill(made, query(1, 60.0))) == []
        assert only(Wake, fill(made, query(2, 40.0))) == [Wake(nextafter(39.0, inf))]

    def test_a_tick_that_came_too_early_sets_the_wake_again(self):
        made = scheduler(wait)
        fill(made, query(0, 50.0))
        assert made.tick(10.0) == [Wake(nextafter(49.0, inf))]

    def test_the_next_wake_is_set_when_the_first_is_spent(self):
        made = scheduler(wait)
        fill(made, query(0, 50.0), query(1, 60.0))
        commands = made.tick(nextafter(49.0, inf))
        assert commands[1:] == [Wake(nextafter(59.0, inf))]

    def test_an_event_that_comes_before_an_overdue_tick_sets_the_next_wake(self):
        made = scheduler(wait)
        fill(made, query(0, 50.0))
        commands = made.arrive(query(1, 60.0), 49.5)
        assert drops(commands) == [(0, DropReason.EXPIRED)]
        assert only(Wake, commands) == [Wake(nextafter(59.0, inf))]

    def test_a_floor_that_only_a_slow_subnet_meets_expires_earlier(self):
        """Large alone takes 4, so at 16 the second is hopeless, and the head is not."""
        made = scheduler(wait)
        fill(made, query(0, 19.0), query(1, 20.0, floor=80.0))
        assert drops(made.tick(16.1)) == [(1, DropReason.EXPIRED)]

    def test_a_wake_is_set_for_a_floor_behind_the_head(self):
        made = scheduler(wait)
        assert fill(made, query(0, 19.0), query(1, 20.0, floor=80.0)) == [
            Wake(nextafter(18.0, inf)),
            Wake(nextafter(16.0, inf)),
        ]

    def test_a_query_with_a_floor_that_was_served_does_not_expire(self):
        made = scheduler()
        assert ids(fill(made, query(0, 20.0, floor=80.0))) == [[0]]
        assert drops(made.tick(19.0)) == []

    def test_a_query_without_a_deadline_never_expires(self):
        made = scheduler(wait)
        assert fill(made, query(0, inf)) == []
        assert made.tick(1e12) == []
        assert made.waiting == 1


class TestServeLate:
    def serving(self, make_policy=None, **options):
        return scheduler(make_policy, late="serve", **options)

    def test_a_hopeless_query_waits_until_nothing_else_does(self):
        made = self.serving(always(batch=1))
        fill(made, query(0), query(1, 1.5), query(2, 50.0))
        assert ids(made.worker_free("w0", 0, 2.0)) == [[2]]
        assert ids(made.worker_free("w0", 1, 3.0)) == [[1]]

    def test_late_queries_run_on_the_smallest_subnet_in_the_largest_batch(self):
        made = self.serving(always("large", 1))
        fill(made, query(0), *(query(id_, 2.0) for id_ in range(1, 7)))
        (dispatch,) = only(Dispatch, made.worker_free("w0", 0, 4.0))
        assert dispatch.subnet == "small"
        assert [q.id for q in dispatch.queries] == [1, 2, 3, 4]

    def test_late_queries_keep_their_floors(self):
        made = self.serving(always("small", 1))
        fill(made, query(0), query(1, 4.0, floor=75.0), query(2, 5.0, floor=80.0), query(3, 5.0))
        made.tick(4.5)
        (dispatch,) = only(Dispatch, made.worker_free("w0", 0, 6.0))
        assert dispatch.subnet in {"mid", "large"}
        assert all(q.min_accuracy <= dispatch.accuracy for q in dispatch.queries)

    def test_of_several_models_the_one_that_is_late_for_longest_goes_first(self):
        made = self.serving(profiles={("a", "cpu"): PROFILE, ("b", "cpu"): PROFILE})
        fill(made, query(0, model="a"), query(1, 3.0, model="a"), query(2, 2.0, model="b"))
        assert ids(made.worker_free("w0", 0, 5.0)) == [[2]]

    def test_a_policy_that_waits_for_more_keeps_the_late_ones_waiting(self):
        made = self.serving(wait)
        fill(made, query(0, 1.5), query(1, 50.0))
        assert ids(made.tick(1.0)) == []
        assert repr(made) == "<Scheduler 2 waiting, 0 in flight | workers: 0 busy, 1 idle>"

    def test_a_late_query_can_be_cancelled(self):
        made = self.serving(always(batch=1))
        fill(made, query(0), query(1, 1.5))
        made.tick(1.0)
        assert drops(made.cancel(1, 1.2)) == [(1, DropReason.CANCELLED)]
        assert ids(made.worker_free("w0", 0, 2.0)) == []

    def test_a_late_query_of_a_lost_worker_is_tried_once_more(self):
        made = self.serving(workers=2)
        fill(made, query(0, 0.5), now=1.0)
        (again,) = only(Dispatch, made.worker_lost("w0", 2.0))
        assert [q.id for q in again.queries] == [0]
        assert drops(made.worker_lost("w1", 3.0)) == [(0, DropReason.WORKER_LOST)]


class TestFloors:
    def test_the_head_raises_the_subnet_to_the_cheapest_that_meets_its_floor(self):
        (dispatch,) = only(Dispatch, fill(scheduler(), query(0, floor=71.0)))
        assert (dispatch.subnet, dispatch.accuracy) == ("mid", 75.0)

    def test_a_floor_never_lowers_the_subnet(self):
        (dispatch,) = only(Dispatch, fill(scheduler(always("large")), query(0, floor=71.0)))
        assert dispatch.subnet == "large"

    @pytest.mark.parametrize(
        ("deadline", "expected"),
        [(6.6, [1, 2, 3, 4]), (6.4, [1, 2]), (4.3, [1, 2]), (4.1, [1]), (3.1, [1])],
    )
    def test_the_batch_shrinks_to_what_the_raised_subnet_finishes_in_time(self, deadline, expected):
        """From 1 on: mid takes 2.0, 3.2 and 5.5 seconds for 1, 2 and 4."""
        made = scheduler(always("small", 4))
        fill(made, query(0), query(1, deadline, floor=75.0), query(2), query(3), query(4))
        assert ids(made.worker_free("w0", 0, 1.0)) == [expected]

    def test_those_whose_floor_is_not_met_wait_for_their_turn(self):
        made = scheduler(always("small", 4))
        fill(made, query(0), query(1, 50.0), query(2, 60.0, floor=80.0), query(3, 70.0))
        assert ids(made.worker_free("w0", 0, 1.0)) == [[1, 3]]
        assert ids(made.worker_free("w0", 1, 2.0)) == [[2]]

    def test_the_cheapest_subnet_for_a_floor_may_be_a_more_accurate_one(self):
        """A profile that nobody has filtered: mid meets the floor, and large is faster."""
        profile = Profile.from_table(
            [("small", 70.0, {1: 1.0}), ("mid", 75.0, {1: 9.0}), ("large", 80.0, {1: 4.0})]
        )
        made = scheduler(always(batch=1), profiles={("", "cpu"): profile})
        (dispatch,) = only(Dispatch, fill(made, query(0, 5.0, floor=75.0)))
        assert dispatch.subnet == "large"

    def test_a_floor_above_every_subnet_is_refused_and_changes_nothing(self):
        made = scheduler()
        with pytest.raises(ValueError, match=r"no subnet of '' reaches 80\.1 percent"):
            made.arrive(query(0, floor=80.1), 0.0)
        assert made.waiting == 0

    def test_a_device_without_the_subnet_leaves_the_query_to_another(self):
        partial = Profile.from_table([("small", 70.0, {1: 1.0, 2: 1.5, 4: 2.5})])
        profiles = {("", "cpu"): partial, ("", "gpu"): PROFILE}
        made = scheduler(profiles=profiles)
        commands = fill(made, query(0, 50.0, floor=80.0), query(1, 60.0))
        assert ids(commands) == [[1]]
        assert ids(made.worker_joined("g", "gpu", 1.0)) == [[0]]


class TestShedding:
    def test_shed_heads_are_dropped_and_the_batch_is_what_follows(self):
        made = scheduler(always(batch=2, shed=0))
        fill(made, query(0), *(query(id_, 10.0 + id_) for id_ in range(1, 6)))
        made.set_policy(always(batch=2, shed=2))
        commands = made.worker_free("w0", 0, 1.0)
        assert drops(commands) == [(1, DropReason.SHED), (2, DropReason.SHED)]
        assert ids(commands) == [[3, 4]]

    def test_shedding_all_leaves_the_worker_idle(self):
        made = scheduler(always(shed=9))
        assert drops(fill(made, query(0))) == [(0, DropReason.SHED)]
        assert repr(made) == "<Scheduler 0 waiting, 0 in flight | workers: 0 busy, 1 idle>"

    def test_the_head_after_shedding_is_the_one_whose_floor_counts(self):
        made = scheduler(always("small", 1, shed=1))
        made.set_policy(wait)
        fill(made, query(0, 10.0), query(1, 20.0, floor=75.0))
        made.set_policy(always("small", 1, shed=1))
        (dispatch,) = only(Dispatch, made.tick(1.0))
        assert (dispatch.subnet, [q.id for q in dispatch.queries]) == ("mid", [1])
