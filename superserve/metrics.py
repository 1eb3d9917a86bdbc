"""Counts of what became of the queries: fed with commands, read as one snapshot."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from typing import Any

from superserve.messages import Command, Complete, Drop, Fail

# Upper edges in seconds, a factor of about 1.5 apart from 0.5 ms to 30 s: narrow enough to read a
# percentile to the accuracy at which a human judges it, few enough to scrape every second.
LATENCY_EDGES = (0.0005, 0.00075, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02,
                 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5,
                 10.0, 15.0, 20.0, 30.0)  # fmt: skip


class Metrics:
    """Counters since the start; a reader makes rates from the difference of two snapshots.

    Every query that arrived is in the end counted as exactly one of met, late, failed or dropped,
    so ``arrived`` less their sum is what waits or runs.
    """

    __slots__ = ("_accuracy_sum", "_arrived", "_batch_sizes", "_dropped", "_failed", "_late",
                 "_latencies", "_latency_sum", "_loading_sum", "_loads", "_met",
                 "_subnets")  # fmt: skip

    def __init__(self) -> None:
        self._arrived = 0
        self._met = 0
        self._late = 0
        self._failed = 0
        self._dropped: Counter[str] = Counter()
        self._subnets: Counter[str] = Counter()
        self._batch_sizes: Counter[int] = Counter()
        self._accuracy_sum = 0.0
        self._latencies = [0] * (len(LATENCY_EDGES) + 1)
        self._latency_sum = 0.0
        self._loads = 0
        self._loading_sum = 0.0

    def arrive(self) -> None:
        """One more query was handed to the scheduler."""
        self._arrived += 1

    def loaded(self, seconds: float) -> None:
        """A worker had to load a subnet, and its batch waited for that."""
        self._loads += 1
        self._loading_sum += seconds

    def observe(self, commands: Iterable[Command]) -> None:
        """Count what the scheduler decided; commands that answer nothing are passed over."""
        for command in commands:
            match command:
                case Complete():
                    self._complete(command)
                case Fail(dispatch=dispatch):
                    self._failed += len(dispatch.queries)
                case Drop(reason=reason):
                    self._dropped[reason.value] += 1

    def snapshot(self) -> dict[str, Any]:
        """Everything counted so far, ready for JSON.

        ``accuracy_sum`` is over queries that met their deadline: divided by ``met`` it is the mean
        serving accuracy. ``latency`` holds, for answered queries, the counts per bucket (not
        cumulative) with their upper edges in seconds, None for the last one, which has no edge.
        ``loading`` counts the batches that waited for their subnet to be loaded, and sums for how
        long (seconds).
        """
        return {
            "arrived": self._arrived,
            "met": self._met,
            "late": self._late,
            "failed": self._failed,
            "dropped": dict(self._dropped),
            "subnets": dict(self._subnets),
            "batch_sizes": {str(size): count for size, count in self._batch_sizes.items()},
            "accuracy_sum": self._accuracy_sum,
            "latency": {
                "edges": [*LATENCY_EDGES, None],
                "counts": list(self._latencies),
                "sum": self._latency_sum,
            },
            "loading": {"count": self._loads, "sum": self._loading_sum},
        }

    def _complete(self, command: Complete) -> None:
        dispatch = command.dispatch
        size = len(dispatch.queries)
        met = sum(command.now <= query.deadline for query in dispatch.queries)
        self._met += met
        self._late += size - met
        self._accuracy_sum += met * dispatch.accuracy
        self._subnets[dispatch.subnet] += size
        self._batch_sizes[size] += 1
        for query in dispatch.queries:
            latency = command.now - query.arrival
            self._latencies[bisect_left(LATENCY_EDGES, latency)] += 1
            self._latency_sum += latency


def percentile(snapshot_latency: dict[str, Any], share: float) -> float | None:
    """The upper edge (seconds) of the bucket that holds this share of the answers.

    ``snapshot_latency`` is the ``latency`` part of a snapshot. None if nothing was answered or if
    the answer lies beyond the last edge.
    """
    counts: list[int] = snapshot_latency["counts"]
    edges: list[float | None] = snapshot_latency["edges"]
    total, below = sum(counts), 0
    for edge, count in zip(edges, counts, strict=True):
        below += count
        if total and below >= share * total:
            return edge
    return None
