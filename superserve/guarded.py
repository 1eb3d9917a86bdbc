"""Keeps a policy's bug from becoming the server's: where it fails, the smallest subnet serves."""

import logging
from collections.abc import Callable

from policies.types import Choice, Policy, Profile, QueueView, Wait, Waiting

MakePolicy = Callable[[Profile], Policy]

log = logging.getLogger(__name__)


class Guarded:
    """A policy that never fails. It asks the real one first, every time.

    Where that one raises or answers what its profile does not have, this one serves as many as fit
    one batch with the smallest subnet, admits, and logs the traceback, once for each kind of
    failure: a bug that shows at every decision must not drown the log.
    """

    def __init__(self, policy: Policy, profile: Profile, known: set[tuple[str, str]]) -> None:
        """``known`` collects the kinds of failure that have been logged."""
        self._policy = policy
        self._profile = profile
        self._known = known
        self._fallback = Choice(profile.smallest, profile.max_batch)
        self._admit: Callable[[QueueView, Waiting], bool] | None = getattr(policy, "admit", None)
        self._on_tick: Callable[[QueueView, float], None] | None = getattr(policy, "on_tick", None)
        # The scheduler looks the optional methods up by name: show only those that are there.
        if self._admit is not None:
            self.admit = self._guarded_admit
        if self._on_tick is not None:
            self.on_tick = self._guarded_on_tick
            self.tick_period: float = getattr(policy, "tick_period", 0.0)

    def __repr__(self) -> str:
        return f"<Guarded {self._policy!r}>"

    def choose(self, view: QueueView, now: float) -> Choice | Wait | None:
        try:
            choice = self._policy.choose(view, now)
            if isinstance(choice, Wait):
                if not choice.until > now:
                    raise ValueError(f"{choice} is over at {now}")
            elif choice is not None:
                self._profile.latency(choice.subnet, choice.batch_size)  # raises if it has none
        except Exception as error:
            # A policy may be anyone's code: nothing that it raises may stop the server.
            self._report("choose", error)
            return self._fallback
        return choice

    def _guarded_admit(self, view: QueueView, waiting: Waiting) -> bool:
        assert self._admit is not None
        try:
            return bool(self._admit(view, waiting))
        except Exception as error:
            self._report("admit", error)
            return True

    def _guarded_on_tick(self, view: QueueView, now: float) -> None:
        assert self._on_tick is not None
        try:
            self._on_tick(view, now)
        except Exception as error:
            self._report("on_tick", error)

    def _report(self, method: str, error: Exception) -> None:
        kind = (method, type(error).__qualname__)
        if kind not in self._known:
            self._known.add(kind)
            log.error(
                "the policy %r failed in %s; the smallest subnet serves where it does: %s",
                self._policy, method, error, exc_info=error,
            )  # fmt: skip


def guarded(make_policy: MakePolicy) -> MakePolicy:
    """The same policies, guarded; what fails alike in several of them is logged once."""
    known: set[tuple[str, str]] = set()
    return lambda profile: Guarded(make_policy(profile), profile, known)
