"""Symphony: leave a worker idle as long as one more query could still join the batch."""

from bisect import bisect_left

from policies.clockwork import largest_with_demand
from policies.fixed import find_subnet
from policies.steps import Steps
from policies.types import Choice, Profile, QueueView, Wait


class Symphony:
    """Deferred batch scheduling of Symphony (arXiv 2308.07470; ``src/nexus/dispatcher`` in
    abcdabcd987/nexuslb, ``rankmt/model_thread.cpp`` and ``batch_policy.cpp``).

    A batch of B whose earliest deadline is d may start in the window [frontrun, latest]:

    - latest = d - l(B), after which it would be late;
    - frontrun = d - l(B + 1), until which another query could still join and be in time with it.

    It starts as early in the window as a worker is there, and each query that joins moves the
    window forward. B is the largest batch that as many queries could all be in and be in time,
    heads that could not being given up (their "window drop", see `largest_with_demand`). A batch
    of the largest size starts at once.

    Symphony knows one model per queue: ``subnet`` is as for `Fixed`. To let the accuracy follow
    the load there is ``subnet="adaptive"``, which is ours: the most accurate subnet with which all
    that waits, up to the largest batch, would be in time if it started now, or the smallest.
    ``margin`` (seconds) opens the window that much earlier, since a worker or a timer may be late
    (0.1 ms in their code). Left out: their limit on the batch for the rate that is asked for, the
    times of transfer, and many models; the lowest-numbered idle worker first is the scheduler's
    own order.
    """

    def __init__(
        self, profile: Profile, subnet: str | int = "largest", margin: float = 0.001
    ) -> None:
        self._adaptive = subnet == "adaptive" and subnet not in profile.subnets
        self._profile = profile = profile.pareto() if self._adaptive else profile
        self._subnet = profile.smallest if self._adaptive else find_subnet(profile, str(subnet))
        self._margin = margin
        self._best = [
            Steps.best([row[column] for row in profile.latencies], profile.subnets)
            for column in range(len(profile.batch_sizes))
        ]

    def __repr__(self) -> str:
        subnet = "adaptive" if self._adaptive else self._subnet
        return f"Symphony(subnet={subnet!r}, margin={self._margin})"

    def choose(self, view: QueueView, now: float) -> Choice | Wait | None:
        """O(batch sizes · log queries)."""
        if not view.waiting:
            return None
        profile = self._profile
        subnet = self._most_accurate(view, now) if self._adaptive else self._subnet
        batch, shed = largest_with_demand(profile, subnet, view, now, padded=True)
        if shed == len(view) or batch >= profile.max_batch:
            return Choice(subnet, batch, shed)
        deadline = view.waiting[shed].deadline
        frontrun = deadline - profile.latency(subnet, batch + 1) - self._margin
        return Wait(frontrun) if frontrun > now else Choice(subnet, batch, shed)

    def _most_accurate(self, view: QueueView, now: float) -> str:
        profile = self._profile
        column = bisect_left(profile.batch_sizes, min(len(view), profile.max_batch))
        return self._best[column].at(view.head.deadline - now) or profile.smallest
