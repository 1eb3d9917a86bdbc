"""The dispatcher: every submit gets one answer or error, every slot is freed once and in time."""

import asyncio

import pytest

from superserve.errors import (
    DeadlineExceeded,
    InternalError,
    NotReady,
    Overloaded,
    Shed,
    WorkerLost,
)
from superserve.messages import Answer, Prediction
from tests.superserve.dispatching import PROFILE, Harness, always, run
from tests.superserve.fake_engine import SHAPE


def test_a_query_is_answered_with_what_its_batch_ran_on():
    async def main():
        async with Harness(always("large")) as h:
            task = h.submit(7, top_k=2)
            h.clock.now += 4.0
            h.pool.answer(h.pool.sent[0], inference=3.0)
            assert await task == Answer(
                predictions=(Prediction(7, 0.5), Prediction(8, 0.5)),
                subnet="large",
                accuracy=80.0,
                deadline_met=True,
                queue=1.0,
                inference=3.0,
                total=4.0,
                batch_size=1,
            )

    run(main())


def test_the_images_of_a_batch_are_those_of_its_queries():
    async def main():
        async with Harness() as h:
            tasks = [h.submit(pixel) for pixel in (5, 6, 7, 8)]
            h.pool.answer(h.pool.sent[0])
            h.pool.answer(h.pool.sent[1])
            answers = await asyncio.gather(*tasks)
            assert [answer.predictions[0].index for answer in answers] == [5, 6, 7, 8]
            assert [answer.batch_size for answer in answers] == [1, 3, 3, 3]

    run(main())


def test_each_query_of_a_batch_gets_as_many_classes_as_it_asked_for():
    async def main():
        async with Harness() as h:
            h.submit()
            tasks = [h.submit(1, top_k=top_k) for top_k in (1, 5, 3)]
            h.pool.answer(h.pool.sent[0])
            assert h.pool.sent[1].top_k == 5
            h.pool.answer(h.pool.sent[1])
            assert [len((await task).predictions) for task in tasks] == [1, 5, 3]

    run(main())


@pytest.mark.parametrize(("after", "met"), [(9.5, True), (10.0, True), (10.5, False)])
def test_a_deadline_is_met_by_an_answer_at_or_before_it(after: float, met: bool):
    async def main():
        async with Harness() as h:
            task = h.submit(slo=10.0)
            h.clock.now += after
            h.pool.answer(h.pool.sent[0])
            assert (await task).deadline_met is met

    run(main())


def test_a_slot_is_freed_by_the_answer_and_not_before():
    async def main():
        async with Harness() as h:
            task = h.submit()
            assert h.taken == 1
            h.pool.answer(h.pool.sent[0])
            assert h.taken == 0
            await task

    run(main())


def test_a_batch_that_fails_answers_its_queries_with_an_error_that_leaks_nothing():
    async def main():
        async with Harness() as h:
            task = h.submit()
            h.pool.fail(h.pool.sent[0])
            with pytest.raises(InternalError) as caught:
                await task
            assert "secret" not in str(caught.value)
            assert h.taken == 0
            again = h.submit()
            h.pool.answer(h.pool.sent[1])
            await again

    run(main())


def test_a_query_whose_worker_died_is_sent_to_another_and_keeps_its_slot():
    async def main():
        async with Harness(workers=("w0", "w1")) as h:
            task = h.submit(9)
            h.pool.lose("w0")
            first, second = h.pool.sent
            assert (first.dispatch.worker, second.dispatch.worker) == ("w0", "w1")
            assert first.slots == second.slots
            assert h.taken == 1
            h.pool.answer(second)
            assert (await task).predictions[0].index == 9
            assert h.taken == 0

    run(main())


def test_a_query_whose_worker_died_waits_for_its_return():
    async def main():
        async with Harness() as h:
            task = h.submit()
            h.pool.lose()
            assert not h.dispatcher.ready
            h.pool.join()
            assert h.dispatcher.ready
            h.pool.answer(h.pool.sent[1])
            await task

    run(main())


def test_a_query_that_killed_two_workers_is_not_given_to_a_third():
    async def main():
        async with Harness(workers=("w0", "w1", "w2")) as h:
            task = h.submit()
            h.pool.lose("w0")
            h.pool.lose("w1")
            with pytest.raises(WorkerLost):
                await task
            assert len(h.pool.sent) == 2
            assert h.taken == 0

    run(main())


def test_a_query_whose_worker_died_too_late_for_another_try_is_told_so():
    async def main():
        async with Harness(workers=("w0", "w1")) as h:
            task = h.submit(slo=10.0)
            h.clock.now += 9.5
            h.pool.lose("w0")
            with pytest.raises(WorkerLost):
                await task
            assert h.taken == 0

    run(main())


def test_the_late_answer_of_a_worker_given_up_for_dead_changes_nothing():
    async def main():
        async with Harness(workers=("w0", "w1")) as h:
            task = h.submit(3)
            h.pool.lose("w0")
            stale, live = h.pool.sent
            h.pool.answer(stale)
            await h.settle()
            assert not task.done()
            assert h.taken == 1
            h.pool.answer(live)
            await task
            h.pool.answer(live)
            h.pool.fail(stale)
            assert h.taken == 0

    run(main())


def test_a_client_that_goes_away_while_its_query_waits_frees_the_slot_at_once():
    async def main():
        async with Harness() as h:
            running, waiting = h.submit(), h.submit()
            await h.settle()
            waiting.cancel()
            await h.settle()
            assert waiting.cancelled()
            assert h.taken == 1
            h.pool.answer(h.pool.sent[0])
            await running
            assert len(h.pool.sent) == 1

    run(main())


def test_a_client_that_goes_away_while_its_query_runs_frees_the_slot_when_the_batch_returns():
    async def main():
        async with Harness() as h:
            task = h.submit()
            await h.settle()
            task.cancel()
            await h.settle()
            assert task.cancelled()
            assert h.taken == 1
            h.pool.answer(h.pool.sent[0])
            assert h.taken == 0

    run(main())


def test_a_slot_is_not_leaked_by_a_task_that_is_cancelled_before_its_first_step():
    async def main():
        async with Harness() as h:
            task = h.submit()
            task.cancel()
            await h.settle()
            assert task.cancelled()
            h.pool.answer(h.pool.sent[0])
            assert h.taken == 0

    run(main())


def test_a_client_that_goes_away_just_as_its_answer_comes_leaves_nothing_behind():
    async def main():
        async with Harness() as h:
            task = h.submit()
            await h.settle()
            h.pool.answer(h.pool.sent[0])
            task.cancel()
            await h.settle()
            assert task.cancelled()
            assert h.taken == 0

    run(main())


def test_a_query_that_no_subnet_can_answer_in_time_is_told_at_once():
    async def main():
        async with Harness() as h:
            with pytest.raises(DeadlineExceeded, match="within 900 ms"):
                await h.submit(slo=0.9)
            assert h.taken == 0

    run(main())


def test_a_waiting_query_is_told_when_its_time_is_up_without_any_other_event():
    async def main():
        async with Harness() as h:
            task = h.submit(slo=50.0)
            waiting = h.submit(slo=1.01)  # hopeless in 10 ms: the smallest subnet takes 1 s
            h.clock.now += 0.02
            with pytest.raises(DeadlineExceeded):
                await waiting
            assert not task.done()

    run(main())


def test_a_query_that_the_policy_sheds_is_told_when_to_come_back():
    """The worker has just begun the next batch, which takes 1 s, and nothing else waits."""

    async def main():
        async with Harness(always("small", 1)) as h:
            h.submit()
            shed, kept = h.submit(), h.submit()
            h.dispatcher.set_policy(always("small", 1, shed=1), "shedding")
            h.pool.answer(h.pool.sent[0])
            with pytest.raises(Shed) as caught:
                await shed
            assert caught.value.retry_after == pytest.approx(1.0)
            assert not kept.done()

    run(main())


def test_a_query_that_finds_too_many_waiting_is_overloaded():
    async def main():
        async with Harness(max_waiting=1) as h:
            h.submit()
            h.submit()
            with pytest.raises(Overloaded) as caught:
                await h.submit()
            # The worker is free in 1 s; then the one that waits takes 1 / (4 queries in 2 s).
            assert caught.value.retry_after == pytest.approx(1.5)
            assert h.taken == 2

    run(main())


def test_when_all_slots_are_taken_the_retry_time_is_computed_from_what_waits():
    """One runs for 1 s, three wait: four queries take 2 s, so 1 s + 3 x 0.5 s."""

    async def main():
        async with Harness(slots=4) as h:
            for _ in range(4):
                h.submit()
            with pytest.raises(Overloaded) as caught:
                h.dispatcher.reserve()
            assert caught.value.retry_after == pytest.approx(2.5)

    run(main())


def test_without_a_worker_no_slot_is_given():
    async def main():
        async with Harness() as h:
            h.pool.lose()
            with pytest.raises(NotReady, match="no worker"):
                h.dispatcher.reserve()

    run(main())


def test_a_query_submitted_after_the_last_worker_died_is_not_ready():
    async def main():
        async with Harness() as h:
            slot = h.dispatcher.reserve()
            h.pool.lose()
            with pytest.raises(NotReady):
                await h.dispatcher.submit(slot, model="fake", shape=SHAPE, arrival=100.0, slo=9.0)
            assert h.taken == 0

    run(main())


def test_a_slot_reserved_but_never_submitted_is_released():
    async def main():
        async with Harness(slots=1) as h:
            h.dispatcher.release(h.dispatcher.reserve())
            assert h.taken == 0

    run(main())


@pytest.mark.parametrize(
    "wrong", [{"model": "other"}, {"shape": (3, 2, 1)}, {"min_accuracy": 80.5}], ids=repr
)
def test_a_query_that_the_server_should_have_refused_is_a_value_error_and_frees_its_slot(wrong):
    async def main():
        async with Harness() as h:
            with pytest.raises(ValueError, match=r"fake|other"):
                h.submit(**wrong)
            assert h.taken == 0

    run(main())


def test_a_worker_that_is_overdue_is_abandoned_once_in_each_life():
    """A batch is planned to take 1 s, and the grace is 2 s."""

    async def main():
        async with Harness(hang_grace=2.0) as h:
            h.submit(slo=500.0)
            for seconds, abandoned in [(2.9, []), (0.2, ["w0"]), (0.2, ["w0"])]:
                h.clock.now += seconds
                h.dispatcher._watch()
                assert h.pool.abandoned == abandoned
            h.pool.lose("w0")
            h.pool.join("w0")
            h.clock.now += 3.1
            h.dispatcher._watch()
            assert h.pool.abandoned == ["w0", "w0"]

    run(main())


def test_a_worker_with_two_credits_is_sent_the_next_batch_before_the_answer():
    async def main():
        async with Harness(always("small", 1), credits=2) as h:
            h.submit(), h.submit(), h.submit()
            assert len(h.pool.sent) == 2
            assert [status.in_flight for status in h.dispatcher.workers] == [2]

    run(main())


def test_a_worker_that_died_is_shown_with_the_reason():
    async def main():
        async with Harness(workers=("w0", "w1")) as h:
            h.pool.lose("w0")
            lost, live = h.dispatcher.workers
            assert (lost.connected, lost.losses, lost.last_loss) == (
                False, 1, "was killed by SIGKILL",
            )  # fmt: skip
            assert (live.connected, live.losses) == (True, 0)
            h.pool.join("w0")
            assert [status.connected for status in h.dispatcher.workers] == [True, True]
            assert repr(h.dispatcher) == (
                "<Dispatcher running, 0 unanswered | <WorkerBoard 2 of 2 connected>>"
            )

    run(main())


def test_the_metrics_count_each_query_once():
    async def main():
        async with Harness(always("small", 1)) as h:
            h.submit(slo=5.0), h.submit(slo=0.5)
            late = h.submit(slo=5.0)
            h.pool.answer(h.pool.sent[0])
            h.clock.now += 6.0
            h.pool.answer(h.pool.sent[1])
            assert not (await late).deadline_met
            snapshot = h.dispatcher.metrics.snapshot()
            assert {name: snapshot[name] for name in ("arrived", "met", "late", "dropped")} == {
                "arrived": 3, "met": 1, "late": 1, "dropped": {"expired": 1},
            }  # fmt: skip

    run(main())


def test_models_are_those_that_the_workers_serve():
    async def main():
        async with Harness() as h:
            assert list(h.dispatcher.models) == ["fake"]
            assert h.dispatcher.models["fake"].preprocessing.shape == SHAPE
            assert PROFILE.smallest in h.dispatcher.models["fake"].subnets

    run(main())
