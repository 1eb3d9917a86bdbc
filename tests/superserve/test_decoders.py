"""In which order images are decoded, and what becomes of those that nobody waits for."""

import threading
from concurrent.futures import CancelledError

import pytest

from superserve.server.decoders import Decoders


@pytest.fixture
def decoders():
    decoders = Decoders(1)
    yield decoders
    decoders.close()


def occupy(decoders):
    """Keep the only thread busy; returns what ends that."""
    go_on, begun = threading.Event(), threading.Event()

    def wait():
        begun.set()
        assert go_on.wait(10)

    decoders.submit(0.0, wait)
    assert begun.wait(10)
    return go_on


def test_the_most_urgent_job_runs_first_and_equals_in_order(decoders):
    done = []
    go_on = occupy(decoders)
    deadlines = [5.0, 1.0, 3.0, 1.0]
    futures = [
        decoders.submit(deadline, lambda job=job: done.append(job))
        for job, deadline in enumerate(deadlines)
    ]
    go_on.set()
    for future in futures:
        future.result(10)
    assert done == [1, 3, 2, 0]


def test_a_cancelled_job_never_runs(decoders):
    done = []
    go_on = occupy(decoders)
    cancelled = decoders.submit(1.0, lambda: done.append("cancelled"))
    kept = decoders.submit(2.0, lambda: done.append("kept"))
    assert cancelled.cancel()
    go_on.set()
    kept.result(10)
    assert done == ["kept"]


def test_an_exception_reaches_whoever_waits_and_the_thread_lives_on(decoders):
    def fail():
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        decoders.submit(1.0, fail).result(10)
    decoders.submit(1.0, lambda: None).result(10)


def test_close_finishes_what_runs_and_cancels_what_waits():
    decoders = Decoders(1)
    go_on = occupy(decoders)
    waiting = decoders.submit(1.0, lambda: None)
    closing = threading.Thread(target=decoders.close)
    closing.start()
    with pytest.raises(CancelledError):
        waiting.result(10)
    go_on.set()
    closing.join(10)
    assert not closing.is_alive()
