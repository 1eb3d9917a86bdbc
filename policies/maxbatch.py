"""MaxBatch, the greedy baseline that spends the slack on batch size first."""

from policies.steps import Steps
from policies.types import Choice, Profile, QueueView


class MaxBatch:
    """SuperServe (NSDI'25), appendix A.5: the largest batch that the smallest subnet finishes
    within the slack of the head, then the most accurate subnet that still does at that batch.

    With ``queue_aware`` the batch is no larger than the queue fills, so that a short queue gets a
    more accurate subnet. When nothing fits: the smallest subnet with the largest batch, for the
    sake of those behind the head, which is late whatever is done.
    """

    def __init__(self, profile: Profile, *, queue_aware: bool = False) -> None:
        self._profile = profile = profile.pareto()
        self._queue_aware = queue_aware
        self._best = {
            size: Steps.best([row[column] for row in profile.latencies], profile.subnets)
            for column, size in enumerate(profile.batch_sizes)
        }

    def __repr__(self) -> str:
        return f"MaxBatch(queue_aware={self._queue_aware})"

    def choose(self, view: QueueView, now: float) -> Choice | None:
        """O(log subnets + batch sizes)."""
        if not view.waiting:
            return None
        profile = self._profile
        slack = view.head.deadline - now
        most = profile.batch_bucket(len(view)) if self._queue_aware else profile.max_batch
        fitting = [
            size
            for size, latency in zip(profile.batch_sizes, profile.latencies[0], strict=True)
            if size <= most and latency <= slack
        ]
        size = fitting[-1] if fitting else most
        return Choice(self._best[size].at(slack) or profile.smallest, size)
