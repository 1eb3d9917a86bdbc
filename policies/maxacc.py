"""MaxAcc, the greedy baseline that spends the slack on accuracy first."""

from policies.steps import Steps
from policies.types import Choice, Profile, QueueView


class MaxAcc:
    """SuperServe (NSDI'25), appendix A.5: the most accurate subnet that could serve the head alone
    within its slack, then the largest batch that this subnet still finishes within it.

    When nothing fits: the smallest subnet with the largest batch, for the sake of those behind the
    head, which is late whatever is done.
    """

    def __init__(self, profile: Profile) -> None:
        self._profile = profile = profile.pareto()
        self._best = Steps.best([row[0] for row in profile.latencies], profile.subnets)

    def __repr__(self) -> str:
        return "MaxAcc()"

    def choose(self, view: QueueView, now: float) -> Choice | None:
        """O(log subnets + batch sizes)."""
        if not view.waiting:
            return None
        profile = self._profile
        slack = view.head.deadline - now
        subnet = self._best.at(slack)
        if subnet is None:
            return Choice(profile.smallest, profile.max_batch)
        return Choice(subnet, profile.largest_batch(subnet, slack))
