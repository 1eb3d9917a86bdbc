"""Sending a load from a thread of its own, so that showing it does not make it late."""

import asyncio
import gc
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager

from loadtest.client import Load, LoadGenerator

SWITCH_INTERVAL = 0.0005  # seconds for which another thread may hold the interpreter; usually 5 ms


def send_in_background(
    generator: LoadGenerator, show: Callable[[LoadGenerator], None], *, every: float
) -> tuple[Load, bool]:
    """The load, and whether Ctrl-C ended it before its time.

    ``show`` is called in the calling thread about every ``every`` seconds, and once at the end.
    """
    interrupted = False
    with _steady(), ThreadPoolExecutor(1) as thread:
        running = thread.submit(asyncio.run, generator.run())
        try:
            while not wait([running], every).done:
                show(generator)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            generator.stop()
        load = running.result()
    show(generator)
    return load, interrupted


@contextmanager
def _steady() -> Iterator[None]:
    """Keep the interpreter from stalling the sender.

    A garbage collection among all that a program has loaded takes tens of milliseconds; a run is
    short enough to do without.
    """
    interval, collecting = sys.getswitchinterval(), gc.isenabled()
    sys.setswitchinterval(SWITCH_INTERVAL)
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
        sys.setswitchinterval(interval)
