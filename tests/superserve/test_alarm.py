"""The alarm rings once, never early, for the time that was set last."""

import asyncio
from collections.abc import Callable
from typing import Self

import pytest

from superserve.alarm import Alarm
from tests.superserve.dispatching import Clock


class Timer:
    def __init__(self, at: float, callback: Callable[[], None]) -> None:
        self.at = at
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """Stands for the event loop: timers fire when the test says so, by its own clock."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.timers: list[Timer] = []
        self.rung: list[float] = []

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        assert delay >= 0
        self.timers.append(Timer(self.clock.now + delay, callback))
        return self.timers[-1]

    @property
    def live(self) -> list[Timer]:
        return [timer for timer in self.timers if not timer.cancelled]

    def fire(self, *, early: float = 0.0) -> Self:
        """Turn the clock to just ``early`` seconds before the next timer, and fire it."""
        (timer,) = self.live
        self.timers.remove(timer)
        self.clock.now = max(self.clock.now, timer.at - early)
        timer.callback()
        return self


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    loop = Loop()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: loop)
    return loop


@pytest.fixture
def alarm(loop: Loop) -> Alarm:
    return Alarm(loop.clock, lambda: loop.rung.append(loop.clock.now))


def test_it_rings_once_at_its_time(loop: Loop, alarm: Alarm):
    alarm.set(105.0)
    loop.fire()
    assert loop.rung == [105.0]
    assert loop.live == []


def test_a_time_that_has_passed_rings_at_the_next_turn_of_the_loop(loop: Loop, alarm: Alarm):
    alarm.set(99.0)
    assert [timer.at for timer in loop.live] == [100.0]
    loop.fire()
    assert loop.rung == [100.0]


def test_a_timer_that_fires_early_does_not_ring_but_waits_for_the_rest(loop: Loop, alarm: Alarm):
    alarm.set(105.0)
    loop.fire(early=0.25)
    assert loop.rung == []
    loop.fire()
    assert loop.rung == [105.0]


def test_a_timer_that_fires_a_hair_early_does_not_spin(loop: Loop, alarm: Alarm):
    alarm.set(105.0)
    loop.fire(early=1e-9)
    (timer,) = loop.live
    assert timer.at - loop.clock.now >= 0.0009


def test_a_later_time_takes_the_place_of_the_one_before_without_a_new_timer(
    loop: Loop, alarm: Alarm
):
    alarm.set(105.0)
    alarm.set(107.0)
    assert len(loop.timers) == 1
    loop.fire()
    assert loop.rung == []
    loop.fire()
    assert loop.rung == [107.0]


def test_an_earlier_time_takes_the_place_of_the_one_before(loop: Loop, alarm: Alarm):
    alarm.set(107.0)
    alarm.set(105.0)
    loop.fire()
    assert loop.rung == [105.0]
    assert loop.live == []


def test_a_cancelled_alarm_does_not_ring_and_can_be_set_again(loop: Loop, alarm: Alarm):
    alarm.set(105.0)
    alarm.cancel()
    assert loop.live == []
    alarm.set(106.0)
    loop.fire()
    assert loop.rung == [106.0]
