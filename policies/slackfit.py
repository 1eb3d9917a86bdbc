"""SlackFit, the paper's policy: the slack of the most urgent query picks a latency bucket."""

from bisect import bisect_right
from math import ceil
from typing import Literal

from policies.steps import Steps
from policies.types import Choice, Profile, QueueView

Tuple = tuple[float, int, float, str]  # latency, batch size, accuracy, subnet


class SlackFit:
    """SuperServe (NSDI'25), section 4.2 and appendix A.5.

    Offline, ``buckets`` evenly spaced latency buckets cover the range from the smallest subnet
    alone to the largest subnet at the largest batch, and each keeps one (subnet, batch size): the
    largest batch, and of those the most accurate. The two ``reading``s differ in what a bucket
    chooses from: in ``"a5"`` (the default) the tuples whose latency lies inside it, in ``"s42"``
    all whose latency is not above its upper edge. Online, the highest bucket whose tuple fits the
    slack of the head wins; the paper's rationale is that slack is a proxy for load.

    What the paper leaves open is settled so:

    - Empty buckets are passed over. Subnets that another one beats are left out beforehand.
    - Below the lowest bucket's tuple: the smallest subnet with the largest batch that fits.
    - When nothing fits: the smallest subnet with the largest batch. The head is late whatever is
      done, so what is left to decide is how soon those behind it move.
    - ``queue_aware`` leaves out batches larger than the queue fills. Without it, as in the paper,
      a short queue runs the subnet that was chosen for a long one.
    - ``buckets``: see `default_buckets`. The scheduler's own rules (drop the hopeless) apply.
    """

    def __init__(
        self,
        profile: Profile,
        buckets: int | None = None,
        reading: Literal["a5", "s42"] = "a5",
        *,
        queue_aware: bool = False,
    ) -> None:
        if buckets is not None and buckets < 1:
            raise ValueError(f"SlackFit needs at least one bucket, not {buckets}")
        if reading not in {"a5", "s42"}:
            raise ValueError(f"reading must be a5 or s42, not {reading!r}")
        profile = profile.pareto()
        self._profile = profile
        self._buckets = default_buckets(profile) if buckets is None else buckets
        self._reading = reading
        self._queue_aware = queue_aware
        sizes = profile.batch_sizes if queue_aware else profile.batch_sizes[-1:]
        self._steps = {size: Steps(self._tabulate(size)) for size in sizes}

    def __repr__(self) -> str:
        aware = ", queue_aware=True" if self._queue_aware else ""
        return f"SlackFit(buckets={self._buckets}, reading={self._reading!r}{aware})"

    def choose(self, view: QueueView, now: float) -> Choice | None:
        """O(log buckets)."""
        if not view.waiting:
            return None
        profile = self._profile
        most = profile.batch_bucket(len(view)) if self._queue_aware else profile.max_batch
        fitting = self._steps[most].at(view.head.deadline - now)
        return fitting or Choice(profile.smallest, most)

    def _tabulate(self, most: int) -> list[tuple[float, Choice]]:
        """(slack, choice) steps over the tuples with batches up to ``most``."""
        profile = self._profile
        tuples: list[Tuple] = [
            (latency, size, accuracy, subnet)
            for subnet, accuracy, row in zip(
                profile.subnets, profile.accuracies, profile.latencies, strict=True
            )
            for size, latency in zip(profile.batch_sizes, row, strict=True)
            if size <= most
        ]
        kept = self._inside(tuples) if self._reading == "a5" else self._below(tuples)
        first = min(limit for limit, _ in kept)
        # The smallest subnet is first of all; its latency ascends with the batch.
        below = [(t[0], t) for t in tuples if t[3] == profile.smallest and t[0] < first]
        return [(limit, Choice(subnet, size)) for limit, (_, size, _, subnet) in below + kept]

    def _edges(self) -> list[float]:
        """The upper edge of each bucket."""
        latencies = [latency for row in self._profile.latencies for latency in row]
        low, high = min(latencies), max(latencies)
        count = self._buckets
        return [low + (high - low) * i / count for i in range(1, count)] + [high]

    def _inside(self, tuples: list[Tuple]) -> list[tuple[float, Tuple]]:
        best: dict[int, Tuple] = {}
        edges = self._edges()
        for candidate in tuples:
            bucket = min(bisect_right(edges, candidate[0]), len(edges) - 1)
            best[bucket] = max(best.get(bucket, candidate), candidate, key=_preference)
        return [(kept[0], kept) for kept in best.values()]

    def _below(self, tuples: list[Tuple]) -> list[tuple[float, Tuple]]:
        best: list[tuple[float, Tuple]] = []
        for edge in self._edges():
            fitting = [candidate for candidate in tuples if candidate[0] <= edge]
            if fitting:
                best.append((edge, max(fitting, key=_preference)))
        return best


def default_buckets(profile: Profile) -> int:
    """How many buckets suit a profile, since the paper does not say: the most of which the lowest
    still holds the smallest subnet at its largest batch, and at least 2.

    The number of subnets plays no part: 4 for the paper's six subnets and for three hundred over
    the same range of latencies, 7 for a device whose latency is nearly linear in the batch. With
    narrower buckets a lower one prefers small batches just when a burst has eaten the slack; then
    throughput falls, the slack falls further, and attainment collapses (simulated: half the
    workers lost, 99 percent with 4 buckets, 88 with 6, 67 with 64). Wider ones give accuracy away.
    """
    low, full = profile.latencies[0][0], profile.latencies[0][-1]
    span = profile.latencies[-1][-1] - low
    return max(2, ceil(span / (full - low)) - 1) if full > low else 2


def _preference(candidate: Tuple) -> tuple[int, float, float]:
    latency, size, accuracy, _ = candidate
    return size, accuracy, -latency
