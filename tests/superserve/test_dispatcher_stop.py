"""The dispatcher stops: who has a slot is answered, nobody else gets one, no slot is leaked."""

import asyncio

import pytest

from superserve.errors import NotReady
from tests.superserve.dispatching import Harness, always, run
from tests.superserve.fake_engine import SHAPE


def test_a_stopping_server_refuses_new_images():
    async def main():
        async with Harness() as h:
            h.submit()
            stopping = asyncio.create_task(h.dispatcher.stop(drain=10.0))
            await h.settle()
            assert not h.dispatcher.ready
            with pytest.raises(NotReady, match="shutting down"):
                h.dispatcher.reserve()
            h.pool.answer(h.pool.sent[0])
            await stopping

    run(main())


def test_a_stopping_server_answers_what_has_a_slot_and_then_stops():
    """One runs, one waits, one is still being decoded; all three are answered."""

    async def main():
        async with Harness(always("small", 1)) as h:
            running, waiting = h.submit(), h.submit()
            decoding = h.dispatcher.reserve()
            stopping = asyncio.create_task(h.dispatcher.stop(drain=10.0))
            await h.settle()
            submitted = asyncio.create_task(
                h.dispatcher.submit(decoding, model="fake", shape=SHAPE, arrival=100.0, slo=50.0)
            )
            for i in range(3):
                assert not h.pool.stopped
                h.pool.answer(h.pool.sent[i])
            await asyncio.gather(running, waiting, submitted)
            await stopping
            assert h.pool.stopped

    run(main())


def test_what_is_not_done_when_the_drain_ends_is_answered_not_ready():
    """Its slots are freed once the pool has stopped: until then a worker may read them."""

    async def main():
        async with Harness(always("small", 1)) as h:
            tasks = [h.submit(), h.submit()]
            await h.dispatcher.stop(drain=0.01)
            for task in tasks:
                with pytest.raises(NotReady):
                    await task
            assert h.pool.taken_when_stopped == 2
            assert h.taken == 0

    run(main())


def test_an_image_decoded_after_the_stop_is_not_ready_and_frees_its_slot():
    async def main():
        async with Harness() as h:
            slot = h.dispatcher.reserve()
            await h.dispatcher.stop(drain=0.0)
            with pytest.raises(NotReady):
                h.dispatcher.submit(slot, model="fake", shape=SHAPE, arrival=100.0, slo=50.0)
            assert h.taken == 0

    run(main())


def test_events_after_the_stop_are_ignored():
    async def main():
        async with Harness() as h:
            h.submit()
            await h.dispatcher.stop(drain=0.0)
            h.pool.answer(h.pool.sent[0])
            h.pool.lose()
            await h.dispatcher.stop(drain=0.0)

    run(main())
