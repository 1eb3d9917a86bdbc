"""Clipper: a batch limit found by additive increase and multiplicative decrease."""

from policies.fixed import find_subnet
from policies.types import Choice, Profile, QueueView, Wait


class Clipper:
    """Clipper (NSDI'17), section 4.3: one model, whatever waits up to a batch limit, and a limit
    that grows by ``increase`` after a batch within the latency objective and is multiplied by
    ``backoff`` after one beyond it (AIMD). Deadlines play no part; `Fixed` is Clipper+, which
    the SuperServe paper runs in its place and which looks at them.

    With ``batch_delay`` (seconds), a batch that is not full waits until its first query has waited
    that long ("delayed batching", section 4.3.2).

    ``slo`` (seconds) is the objective, for the time of a batch alone. Without it, it is the most
    that a query waiting at a tick had left, and there is no step before one was seen. ``subnet``
    is as for `Fixed`.

    Reduced: a policy does not hear of single batches, so that there is one step per tick at which
    some worker is busy, judged by the profiled time of a batch of the limit. As theirs it settles
    into a saw-tooth at the largest batch within the objective. Clipper's released code has replaced
    AIMD by a regression (``src/libclipper/src/containers.cpp``).
    """

    tick_period = 0.01  # seconds, about one batch

    def __init__(
        self,
        profile: Profile,
        subnet: str | int = "largest",
        slo: float | None = None,
        increase: int = 1,
        backoff: float = 0.9,
        batch_delay: float = 0.0,
    ) -> None:
        if increase < 1 or not 0 < backoff < 1:
            raise ValueError(f"AIMD needs increase >= 1 and 0 < backoff < 1: {increase}, {backoff}")
        self._profile = profile
        self._subnet = find_subnet(profile, str(subnet))
        self._slo = slo
        self._seen = 0.0
        self._increase = increase
        self._backoff = backoff
        self._batch_delay = batch_delay
        self.limit = 1  # the batch limit of now

    def __repr__(self) -> str:
        return f"Clipper(subnet={self._subnet!r}, limit={self.limit})"

    @property
    def _objective(self) -> float:
        return self._seen if self._slo is None else self._slo

    def choose(self, view: QueueView, now: float) -> Choice | Wait | None:
        """O(1)."""
        if not view.waiting:
            return None
        if self._batch_delay and self._objective and len(view) < self.limit:
            until = view.head.deadline - self._objective + self._batch_delay
            if until > now:
                return Wait(until)
        return Choice(self._subnet, self.limit)

    def on_tick(self, view: QueueView, now: float) -> None:
        """One step of AIMD, if a batch runs."""
        if view.waiting:
            self._seen = max(self._seen, view.waiting[-1].deadline - now)
        if not self._objective or not any(worker.residual for worker in view.workers):
            return
        if self._profile.latency(self._subnet, self.limit) <= self._objective:
            self.limit = min(self.limit + self._increase, self._profile.max_batch)
        else:
            self.limit = max(1, int(self.limit * self._backoff))
