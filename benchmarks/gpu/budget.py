"""Which phase runs for how long, so that what matters most is known when the time is up. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

GRACE = 5.0
"""Seconds between the end of a phase's own work and the moment when it is ended."""

Status = Literal["done", "wrong", "failed", "ended", "left out"]


@dataclass(frozen=True, slots=True)
class Phase:
    """``least`` seconds are what a start is worth, ``most`` what it may take.

    For a phase with ``kept``, its least is kept back from all that come before it.
    """

    name: str
    least: float
    most: float
    kept: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a phase went. ``wrong``: it ran, and found something that is not as it should be."""

    phase: str
    status: Status
    seconds: float = 0.0
    reason: str = ""


Launch = Callable[[Phase, float], tuple[Status, str]]
"""Run a phase for at most so many seconds; how it went, and why."""


def run_phases(
    phases: Sequence[Phase],
    total: float,
    launch: Launch,
    clock: Callable[[], float],
    report: Callable[[Outcome], None] = lambda _: None,
) -> list[Outcome]:
    """Every phase in turn, whatever became of those before it, within ``total`` seconds."""
    start, outcomes = clock(), list[Outcome]()
    for index, phase in enumerate(phases):
        kept = sum(later.least for later in phases[index + 1 :] if later.kept)
        began = clock()
        left = total - (began - start) - kept
        if left < phase.least:
            reason = f"{left:.0f} s were left, and it needs {phase.least:.0f}"
            outcome = Outcome(phase.name, "left out", 0.0, reason)
        else:
            status, reason = launch(phase, min(phase.most, left))
            outcome = Outcome(phase.name, status, clock() - began, reason)
        outcomes.append(outcome)
        report(outcome)
    return outcomes


class Deadline:
    """A phase's own sense of time: it starts nothing that would not be finished."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._end = clock() + seconds
        self._longest: dict[str, float] = {}

    @property
    def left(self) -> float:
        return self._end - self._clock()

    def allows(self, kind: str, first: float) -> bool:
        """Whether there is time for one more of a kind: a fifth more than the longest so far.

        ``first`` is what the first one is taken to need.
        """
        return self.left >= 1.2 * self._longest.get(kind, first)

    def took(self, kind: str, seconds: float) -> None:
        """How long one of a kind was."""
        self._longest[kind] = max(seconds, self._longest.get(kind, 0.0))
