"""PaceFit: the whole queue sets the pace, and the head's slack the limit."""

from policies.allowance import Allowance, sampled
from policies.steps import Steps
from policies.types import Choice, Profile, QueueView


class PaceFit:
    """The most accurate subnet whose batch costs no more than the queue can afford per query.

    Where SlackFit reads the load off the slack of the head, this one counts: `Allowance` is the
    worker time per query that lets all that waits meet its deadline with some of the slack to
    spare. A batch of ``b`` queries may take ``b`` times that, and never more than the head's slack.
    It is the plain form of `policies.dualfit`, without prices and without shedding.

    For ``share``, ``horizon``, ``deviations`` and ``batches`` see `Allowance`; ``guard`` is how
    much longer than batches lately took, as a share, a batch may take without being late.
    """

    def __init__(
        self,
        profile: Profile,
        *,
        share: float = 0.85,
        horizon: float = 1.0,
        deviations: float = 0.4,
        batches: float = 0.75,
        guard: float = 0.03,
    ) -> None:
        if guard < 0:
            raise ValueError(f"guard must not be negative: {guard}")
        self._profile = profile = profile.pareto()
        self._allowance = Allowance(share, horizon, deviations, batches)
        self._guard = guard
        self._best = [
            Steps.best([row[column] for row in profile.latencies], profile.subnets)
            for column in range(len(profile.batch_sizes))
        ]

    def __repr__(self) -> str:
        return f"PaceFit(share={self._allowance.share:g}, guard={self._guard:g})"

    def choose(self, view: QueueView, now: float) -> Choice | None:
        """O(log queue + batch sizes)."""
        if not view.waiting:
            return None
        profile, count = self._profile, len(view)
        slack = (view.head.deadline - now) / ((1.0 + self._guard) * view.slowdown_p95)
        pace = self._allowance.affordable(
            view, sampled(view, now, profile.max_batch), profile.max_batch
        )
        fallback = Choice(profile.smallest, min(count, profile.max_batch))
        for column in reversed(range(len(profile.batch_sizes))):
            size = profile.batch_sizes[column]
            if column and profile.batch_sizes[column - 1] >= count:
                continue  # a smaller size holds all that waits
            if profile.latencies[0][column] > slack:
                continue
            batch = min(size, count)
            # A worker's time comes in batches: a short queue may spend that of half a full one.
            paced = pace * max(batch, profile.max_batch // 2)
            subnet = self._best[column].at(min(slack, paced)) or profile.smallest
            return Choice(subnet, batch)
        return fallback
