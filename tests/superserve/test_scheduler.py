"""The scheduler's events: who gets what when, and what becomes of each query."""

from math import inf

import pytest

from policies.types import Choice
from superserve.messages import Complete, Dispatch, DropReason, Fail
from superserve.scheduler import Scheduler
from tests.superserve.scheduling import (
    Always,
    always,
    drops,
    fill,
    ids,
    only,
    query,
    scheduler,
)


class TestDispatch:
    def test_an_idle_worker_gets_the_query_at_once(self):
        (dispatch,) = only(Dispatch, scheduler().arrive(query(7), 3.0))
        expected = Dispatch(0, "w0", "", "small", 70.0, (query(7),), start=3.0, finish=4.0)
        assert dispatch == expected

    def test_what_waits_goes_out_by_deadline_when_a_worker_is_free(self):
        made = scheduler(always(batch=2))
        fill(made, query(0), query(1, 30.0), query(2, 20.0), query(3, 40.0))
        assert ids(made.worker_free("w0", 0, 1.0)) == [[2, 1]]

    def test_a_batch_beyond_what_waits_is_what_waits(self):
        made = scheduler(always(batch=4))
        fill(made, query(0), query(1), query(2))
        assert ids(made.worker_free("w0", 0, 1.0)) == [[1, 2]]

    def test_a_batch_between_profiled_sizes_is_planned_as_the_next_larger(self):
        made = scheduler(always(batch=3))
        fill(made, *map(query, range(4)))
        (dispatch,) = only(Dispatch, made.worker_free("w0", 0, 1.0))
        assert (dispatch.start, dispatch.finish) == (1.0, 3.5)

    def test_dispatches_have_ids_of_their_own(self):
        commands = fill(scheduler(workers=3), query(0), query(1), query(2))
        assert [d.id for d in only(Dispatch, commands)] == [0, 1, 2]

    def test_workers_are_used_in_the_order_of_joining(self):
        commands = fill(scheduler(workers=3), query(0), query(1), query(2))
        assert [d.worker for d in only(Dispatch, commands)] == ["w0", "w1", "w2"]

    def test_a_worker_that_joins_finds_work(self):
        made = scheduler(workers=1)
        fill(made, query(0), query(1))
        assert ids(made.worker_joined("late", "cpu", 1.0)) == [[1]]

    def test_a_result_completes_its_dispatch_before_the_next_one_goes_out(self):
        made = scheduler()
        (first,) = only(Dispatch, fill(made, query(0), query(1)))
        done, following = made.worker_free("w0", 0, 1.0)[:2]
        assert done == Complete(first, 1.0)
        assert [q.id for q in following.queries] == [1]

    def test_a_failed_dispatch_fails_and_gives_its_credit_back(self):
        made = scheduler()
        (first,) = only(Dispatch, fill(made, query(0), query(1)))
        failed, following = made.dispatch_failed("w0", 0, 1.0)[:2]
        assert failed == Fail(first, 1.0)
        assert [q.id for q in following.queries] == [1]

    def test_a_policy_that_waits_is_asked_again_at_the_next_event(self):
        policy = Always(None)
        made = scheduler(lambda _: policy)
        assert ids(fill(made, query(0))) == []
        policy.choice = Choice("small", 2)
        assert ids(fill(made, query(1))) == [[0, 1]]


class TestCredits:
    def test_a_worker_never_holds_more_dispatches_than_its_credits(self):
        made = scheduler(always(batch=1), credits=2)
        assert ids(fill(made, *map(query, range(4)))) == [[0], [1]]

    def test_a_second_dispatch_is_planned_behind_the_first(self):
        made = scheduler(always(batch=1), credits=2)
        _, second = only(Dispatch, fill(made, query(0), query(1), now=5.0))
        assert (second.start, second.finish) == (6.0, 7.0)

    def test_an_idle_worker_goes_before_a_busy_one_with_a_credit(self):
        made = scheduler(always(batch=1), workers=2, credits=2)
        commands = fill(made, *map(query, range(4)))
        assert [d.worker for d in only(Dispatch, commands)] == ["w0", "w1", "w0", "w1"]

    def test_a_busy_worker_is_not_offered_what_it_would_serve_late(self):
        """It is busy until 1; the head is due at 1.9, so no subnet could be done with it there."""
        made = scheduler(always(batch=1), credits=2)
        assert ids(fill(made, query(0), query(1, 1.9), query(2, 2.0))) == [[0], [2]]

    def test_a_busy_worker_is_asked_although_an_idle_one_was_refused(self):
        """Their batches would start at other times."""

        class NotBeforeOne(Always):
            def choose(self, view, now):
                return self.choice if now >= 1.0 else None

        made = scheduler(always(batch=1), workers=1, credits=2)
        fill(made, query(0))
        made.set_policy(lambda _: NotBeforeOne(Choice("small", 1)))
        made.worker_joined("w1", "cpu", 0.0)
        (dispatch,) = only(Dispatch, fill(made, query(1)))
        assert (dispatch.worker, dispatch.start) == ("w0", 1.0)

    def test_what_a_busy_worker_could_not_serve_in_time_goes_to_an_idle_one(self):
        made = scheduler(always(batch=1), credits=2)
        fill(made, query(0), query(1, 1.9))
        assert ids(made.worker_joined("w1", "cpu", 0.5)) == [[1]]

    def test_no_credit_at_all_is_refused(self):
        with pytest.raises(ValueError, match="at least one credit"):
            scheduler().worker_joined("w9", "cpu", 0.0, credits=0)


class TestDeadAndUndead:
    def test_nothing_goes_to_a_lost_worker(self):
        made = scheduler()
        made.worker_lost("w0", 1.0)
        assert drops(fill(made, query(0))) == [(0, DropReason.NO_WORKER)]

    def test_a_lost_worker_leaves_its_queries_to_the_others(self):
        made = scheduler(workers=2)
        fill(made, query(0), query(1))
        made.worker_free("w1", 1, 0.5)
        assert ids(made.worker_lost("w0", 0.6)) == [[0]]

    def test_queries_of_a_lost_worker_wait_again_by_deadline(self):
        made = scheduler(always(batch=1), workers=1)
        fill(made, query(0, 20.0), query(1, 30.0))
        made.worker_lost("w0", 1.0)
        assert repr(made) == "<Scheduler 2 waiting, 0 in flight | workers: 0 busy, 0 idle>"
        assert ids(made.worker_joined("w0", "cpu", 2.0)) == [[0]]

    def test_a_query_that_two_workers_died_with_is_given_up(self):
        made = scheduler(workers=2)
        fill(made, query(0))
        made.worker_lost("w0", 1.0)
        assert drops(made.worker_lost("w1", 2.0)) == [(0, DropReason.WORKER_LOST)]

    def test_a_query_that_can_be_late_only_is_not_tried_again(self):
        made = scheduler(workers=2)
        fill(made, query(0, 5.0))
        assert drops(made.worker_lost("w0", 4.5)) == [(0, DropReason.WORKER_LOST)]

    def test_the_memory_of_a_loss_ends_with_the_answer(self):
        """An id that comes again is another query."""
        made = scheduler(workers=2)
        fill(made, query(0))
        (again,) = only(Dispatch, made.worker_lost("w0", 1.0))
        made.worker_free("w1", again.id, 2.0)
        fill(made, query(0), now=3.0)
        assert drops(made.worker_lost("w1", 3.5)) == []

    def test_the_memory_of_a_loss_ends_with_a_drop(self):
        made = scheduler()
        fill(made, query(0))
        made.worker_lost("w0", 1.0)
        made.cancel(0, 1.0)
        made.worker_joined("w0", "cpu", 2.0)
        fill(made, query(0), now=3.0)
        assert drops(made.worker_lost("w0", 3.5)) == []

    def test_the_late_answer_of_a_lost_worker_changes_nothing(self):
        made = scheduler(workers=2)
        fill(made, query(0))
        made.worker_lost("w0", 1.0)
        before = repr(made)
        assert made.worker_free("w0", 0, 2.0) == []
        assert made.dispatch_failed("w0", 0, 2.0) == []
        assert repr(made) == before

    def test_the_late_answer_of_a_worker_that_came_back_changes_nothing(self):
        made = scheduler()
        fill(made, query(0))
        made.worker_lost("w0", 1.0)
        (again,) = only(Dispatch, made.worker_joined("w0", "cpu", 2.0))
        assert made.worker_free("w0", 0, 2.5) == []
        assert only(Complete, made.worker_free("w0", again.id, 3.0)) == [Complete(again, 3.0)]

    def test_a_second_answer_to_one_dispatch_changes_nothing(self):
        made = scheduler()
        fill(made, query(0))
        made.worker_free("w0", 0, 1.0)
        assert made.worker_free("w0", 0, 1.1) == []

    def test_a_name_that_joins_again_has_lost_what_it_held(self):
        made = scheduler()
        fill(made, query(0))
        (again,) = only(Dispatch, made.worker_joined("w0", "cpu", 1.0))
        assert again.id == 1
        assert [q.id for q in again.queries] == [0]

    def test_losing_an_unknown_worker_is_nothing(self):
        assert scheduler().worker_lost("nobody", 1.0) == []

    def test_a_device_type_without_a_profile_is_refused(self):
        with pytest.raises(ValueError, match="no profile for the device type 'tpu'"):
            scheduler().worker_joined("w9", "tpu", 0.0)

    @pytest.mark.parametrize(
        ("now", "grace", "expected"), [(1.0, 0.0, []), (1.1, 0.0, ["w0"]), (1.1, 0.2, [])]
    )
    def test_a_worker_is_overdue_after_its_plan_and_the_grace(self, now, grace, expected):
        made = scheduler()
        fill(made, query(0))
        assert made.overdue(now, grace) == expected


class TestCancel:
    def test_a_query_that_waits_is_dropped(self):
        made = scheduler()
        fill(made, query(0), query(1), query(2))
        assert drops(made.cancel(1, 0.5)) == [(1, DropReason.CANCELLED)]
        assert ids(made.worker_free("w0", 0, 1.0)) == [[2]]

    def test_a_query_in_flight_completes_with_its_batch(self):
        made = scheduler()
        (dispatch,) = only(Dispatch, fill(made, query(0)))
        assert made.cancel(0, 0.5) == []
        assert made.worker_free("w0", 0, 1.0) == [Complete(dispatch, 1.0)]

    def test_an_unknown_query_is_nothing(self):
        assert scheduler().cancel(9, 0.0) == []


class TestDrainTime:
    @pytest.mark.parametrize(
        ("workers", "queries", "now", "expected", "why"),
        [
            (1, 0, 0.0, 0.0, "nothing to do"),
            (1, 1, 0.25, 0.75, "the one in flight has 0.75 to go"),
            (1, 9, 0.25, 0.75 + 8 * 2.5 / 4, "8 wait, small serves 4 in 2.5"),
            (2, 9, 0.25, 0.75 + 7 * 2.5 / 8, "2 in flight, 7 wait for two workers"),
        ],
    )
    def test_time_to_serve_what_waits(self, workers, queries, now, expected, why):
        made = scheduler(always(batch=1), workers=workers)
        fill(made, *map(query, range(queries)))
        assert made.drain_time(now, "") == pytest.approx(expected), why

    def test_without_a_worker_it_never_drains(self):
        assert scheduler(workers=0).drain_time(0.0, "") == inf

    def test_an_unknown_model_is_an_error(self):
        with pytest.raises(KeyError):
            scheduler().drain_time(0.0, "cats")


class TestConstruction:
    def test_repr_tells_the_state(self):
        made = scheduler(workers=3)
        fill(made, query(0), query(1))
        fill(made, query(2), query(3), query(4))
        assert repr(made) == "<Scheduler 2 waiting, 3 in flight | workers: 3 busy, 0 idle>"
        assert (made.waiting, made.in_flight) == (2, 3)

    def test_no_profile_is_refused(self):
        with pytest.raises(ValueError, match="at least one profile"):
            Scheduler({}, always())

    def test_an_unknown_rule_for_the_late_is_refused(self):
        with pytest.raises(ValueError, match="drop or serve"):
            scheduler(late="forget")
