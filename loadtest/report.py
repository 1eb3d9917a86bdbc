"""What the records of a run say: attainment, accuracy, latency, also over time. Pure."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from loadtest.records import Record

MISS_UTILITY = -100.0  # what a missed query counts in the penalised utility
MAX_LATENESS = 0.05  # of the SLO, at the 99th percentile; beyond it a run measures the generator


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Seconds. Each is a value that was observed (nearest rank), never an interpolation."""

    p50: float
    p90: float
    p95: float
    p99: float
    max: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Percentiles | None":
        """None if there are no values."""
        observed = np.fromiter(values, dtype=float)
        if not len(observed):
            return None
        return cls(*np.percentile(observed, (50, 90, 95, 99, 100), method="inverted_cdf").tolist())


@dataclass(frozen=True, slots=True)
class Report:
    """One run as a whole. Shares are 0..1, accuracies percent, times seconds."""

    queries: int
    met: int
    late: int  # answered after the deadline
    dropped: dict[str, int]  # not answered, by reason
    attainment: float  # met / queries
    server_attainment: float | None  # the same by the server's clock, where it told
    mean_accuracy: float | None  # profiled, over queries that met their deadline
    effective_accuracy: float  # attainment x mean accuracy
    utility: float  # accuracy if met, -100 if missed, mean over all
    correctness: float | None  # percent of the labelled results whose first prediction is right
    latency: Percentiles | None  # of the results: a dropped query has none, so read attainment too
    lateness: Percentiles | None  # of the load generator
    subnets: dict[str, int]  # results by subnet

    def trustworthy(self, slo: float) -> bool:
        """Did the load generator keep its own schedule well enough to judge this SLO (seconds)?"""
        return self.lateness is not None and self.lateness.p99 <= MAX_LATENESS * slo


@dataclass(frozen=True, slots=True)
class Window:
    """The queries that arrived within ``start <= arrival < start + seconds``."""

    start: float
    seconds: float
    queries: int
    met: int
    mean_accuracy: float | None  # percent, over those that met their deadline
    subnets: dict[str, int]  # results by subnet

    @property
    def rate(self) -> float:
        """Arrivals per second."""
        return self.queries / self.seconds

    @property
    def attainment(self) -> float | None:
        """0..1; None if nothing arrived."""
        return self.met / self.queries if self.queries else None


def summarise(records: Sequence[Record]) -> Report:
    """The whole run; ``ValueError`` if there are no records, for then no share is defined."""
    if not records:
        raise ValueError("there are no records to report on")
    met = [record for record in records if record.met]
    results = [record for record in records if record.finish is not None]
    judged = [record.correct for record in results if record.correct is not None]
    told = [record.server_met for record in records if record.server_met is not None]
    accuracy = _mean_accuracy(met)
    attainment = len(met) / len(records)
    # Where no accuracy is known (a run against a foreign server) the accuracy terms count nothing.
    effective = attainment * (accuracy or 0.0)
    return Report(
        queries=len(records),
        met=len(met),
        late=len(results) - len(met),
        dropped=dict(Counter(r.dropped or "unknown" for r in records if r.finish is None)),
        attainment=attainment,
        server_attainment=sum(told) / len(records) if told else None,
        mean_accuracy=accuracy,
        effective_accuracy=effective,
        utility=effective + (1 - attainment) * MISS_UTILITY,
        correctness=100 * sum(judged) / len(judged) if judged else None,
        latency=Percentiles.of(r.finish - r.arrival for r in results if r.finish is not None),
        lateness=Percentiles.of(record.lateness for record in records),
        subnets=dict(Counter(record.subnet for record in results if record.subnet)),
    )


def timeline(records: Iterable[Record], window: float, seconds: float) -> tuple[Window, ...]:
    """The run cut into windows of ``window`` seconds, empty ones included.

    ``seconds`` is how long queries were sent: only the sender knows, and a silent end is a fact.
    The last window is shorter where ``window`` does not divide it. Raises ``ValueError`` for a
    query that arrived outside.
    """
    if window <= 0 or seconds <= 0:
        raise ValueError(f"windows need positive lengths, not {window} s of {seconds} s")
    # The small allowance keeps 0.3 / 0.1 = 2.9999999999999996 from making a sliver of a window.
    count = max(ceil(seconds / window - 1e-9), 1)
    groups: list[list[Record]] = [[] for _ in range(count)]
    for record in records:
        if not 0 <= record.arrival < seconds:
            raise ValueError(f"a query arrived at {record.arrival} s of a run of {seconds} s")
        groups[min(int(record.arrival / window), count - 1)].append(record)
    return tuple(
        _window(i * window, min(window, seconds - i * window), group)
        for i, group in enumerate(groups)
    )


def _window(start: float, seconds: float, records: Sequence[Record]) -> Window:
    met = [record for record in records if record.met]
    served = Counter(r.subnet for r in records if r.finish is not None and r.subnet)
    return Window(start, seconds, len(records), len(met), _mean_accuracy(met), dict(served))


def _mean_accuracy(met: Sequence[Record]) -> float | None:
    known = [record.accuracy for record in met if record.accuracy is not None]
    return sum(known) / len(known) if known else None
