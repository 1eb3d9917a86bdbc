"""The one timer behind the scheduler's `Wake`: cheap to set anew thousands of times a second."""

import asyncio
from collections.abc import Callable
from math import inf

# The event loop's timers may ring early by their resolution; rung anew sooner, they would spin.
_RESOLUTION = 0.001


class Alarm:
    """Calls back once, at or soon after the time set last; times are those of ``clock``.

    Setting it later leaves the loop's timer where it is: it rings, finds that it is too early, and
    is set for the rest. Nearly every new time is later, so nearly every one costs an assignment.
    """

    __slots__ = ("_at", "_clock", "_loop", "_ring", "_rings_at", "_timer")

    def __init__(self, clock: Callable[[], float], ring: Callable[[], None]) -> None:
        self._clock = clock
        self._ring = ring
        self._loop = asyncio.get_running_loop()
        self._at = inf
        self._rings_at = inf
        self._timer: asyncio.TimerHandle | None = None

    def set(self, at: float) -> None:
        self._at = at
        if at < self._rings_at:
            self._arm(at - self._clock())

    def cancel(self) -> None:
        self._at = self._rings_at = inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, delay: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._rings_at = self._at
        self._timer = self._loop.call_later(max(delay, 0.0), self._rung)

    def _rung(self) -> None:
        self._timer = None
        self._rings_at = inf
        early = self._at - self._clock()
        if early > 0:
            self._arm(max(early, _RESOLUTION))
        else:
            self._at = inf
            self._ring()
