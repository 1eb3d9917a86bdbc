"""What a decision costs in real time; the one place where a simulation looks at a real clock."""

import time
from collections.abc import Callable, MutableSequence

from policies.types import Choice, Policy, Profile, QueueView, Wait, Waiting


class Timed:
    """A policy that decides as the one that it holds, and notes the seconds of each `choose`."""

    def __init__(self, policy: Policy, seconds: MutableSequence[float]) -> None:
        self._policy = policy
        self._note = seconds.append
        # The scheduler looks the optional methods up by name: show only those that are there.
        if hasattr(policy, "admit"):
            self.admit: Callable[[QueueView, Waiting], bool] = policy.admit
        if hasattr(policy, "on_tick"):
            self.on_tick: Callable[[QueueView, float], None] = policy.on_tick
            self.tick_period: float = getattr(policy, "tick_period", 0.0)

    def __repr__(self) -> str:
        return f"<Timed {self._policy!r}>"

    def choose(self, view: QueueView, now: float) -> Choice | Wait | None:
        start = time.perf_counter()
        choice = self._policy.choose(view, now)
        self._note(time.perf_counter() - start)
        return choice


def timed(
    make_policy: Callable[[Profile], Policy], seconds: MutableSequence[float]
) -> Callable[[Profile], Policy]:
    """The same policies; ``seconds`` collects how long each decision took."""
    return lambda profile: Timed(make_policy(profile), seconds)
