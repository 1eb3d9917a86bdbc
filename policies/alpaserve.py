"""AlpaServe: refuse at arrival what would be late, and batch in powers of two."""

from bisect import bisect_right
from heapq import heapify, heapreplace

from policies.fixed import Fixed, find_subnet
from policies.nexus import limited
from policies.types import Choice, Profile, QueueView, Waiting


class AlpaServe:
    """The run-time scheduling of AlpaServe (OSDI'23) for one model, of which each worker holds a
    whole replica; its placement and its model parallelism have no place here.

    - ``admit`` (``alpa_serve/controller.py``): a query is refused at its arrival if it is
      predicted to finish after its deadline. What waits before it is laid onto the workers in full
      batches, each onto the one that is free first, beginning from what they hold now; the query
      is in the batch after these. That one counts as full too, since others will join it.
    - ``choose`` (the batching of ``alpa_serve/simulator/controller.py``): the largest batch that
      is a power of two, filled, and in time for the head. A head that could not even be served
      alone is given up.

    ``subnet`` is as for `Fixed`. ``max_batch`` caps the batch; with 1, this is the published
    system without batching. Theirs refuses at arrival only then; with batching it gives up at the
    head only, and a queue of queries just in time keeps the batches small. First come, first
    served is earliest deadline first as long as all have one SLO.

    What a query has until its deadline is ``slo`` (seconds), since ``admit`` sees no clock.
    Without it, it is the most that a query waiting at a tick had left, which falls short of the
    SLO by the age of the youngest query; until a first one was seen, all are admitted.
    """

    tick_period = 0.05  # seconds

    def __init__(
        self,
        profile: Profile,
        subnet: str | int = "largest",
        max_batch: int | None = None,
        slo: float | None = None,
    ) -> None:
        most = profile.max_batch if max_batch is None else max_batch
        self._subnet = find_subnet(profile, str(subnet))
        self._profile = limited(profile, lambda size: size <= most and size.bit_count() == 1)
        self._fixed = Fixed(self._profile, self._subnet, "lazy")
        self._slo = slo
        self._seen = 0.0

    def __repr__(self) -> str:
        return f"AlpaServe({self._fixed!r}, max_batch={self._profile.max_batch}, slo={self._slo})"

    def admit(self, view: QueueView, waiting: Waiting) -> bool:
        """O(log queries + workers + batches ahead · log workers)."""
        budget = self._seen if self._slo is None else self._slo
        if not budget or not view.workers:
            return True
        batch = self._profile.largest_batch(self._subnet, budget)
        if not batch:
            return False
        takes = self._profile.latency(self._subnet, batch)
        ahead = bisect_right(view.waiting, waiting.deadline, key=lambda other: other.deadline)
        free_at = [worker.residual for worker in view.workers]
        heapify(free_at)
        for _ in range(ahead // batch):
            if free_at[0] + takes > budget:
                break
            heapreplace(free_at, free_at[0] + takes)
        return free_at[0] + takes <= budget

    def choose(self, view: QueueView, now: float) -> Choice | None:
        """O(batch sizes), and O(heads shed)."""
        return self._fixed.choose(view, now)

    def on_tick(self, view: QueueView, now: float) -> None:
        """Note how long queries are given."""
        if view.waiting:
            self._seen = max(self._seen, view.waiting[-1].deadline - now)
