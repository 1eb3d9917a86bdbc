"""Ends a peer in order on SIGTERM, with every process that it started."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from types import FrameType

from superserve.errors import ConfigError

PATIENCE = 3.0  # seconds for a child to end by itself


@contextmanager
def stopping_in_order() -> Iterator[None]:
    """SIGTERM unwinds the body like Ctrl-C and ends it quietly, and later ones change nothing.

    The message of a `ConfigError` becomes the last words of the process.
    """
    hear_sigterm()
    try:
        with suppress(KeyboardInterrupt):
            yield
    except ConfigError as error:
        sys.exit(error.message)


def hear_sigterm() -> None:
    """As `stopping_in_order` does; again for a library that took the signal for itself."""
    signal.signal(signal.SIGTERM, _interrupt)


def hear_sigterm_no_more() -> None:
    """Cleaning up must not be interrupted."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def end_children() -> None:
    """Those of `multiprocessing` that are left: Python would wait for them at its own end."""
    children = multiprocessing.active_children()
    for child in children:
        child.terminate()
    for child in children:
        child.join(PATIENCE)
        if child.is_alive():
            child.kill()
            child.join()


def descendants(pid: int) -> list[int]:
    """The processes that this one started, and those started by them, as Linux tells."""
    children = [
        int(child)
        for file in Path(f"/proc/{pid}/task").glob("*/children")
        for child in _text(file).split()
    ]
    return [*children, *chain.from_iterable(map(descendants, children))]


def kill(processes: Iterable[int]) -> None:
    """Those that are still there."""
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""  # it ended meanwhile


def _interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  signal's signature
    hear_sigterm_no_more()
    raise KeyboardInterrupt
