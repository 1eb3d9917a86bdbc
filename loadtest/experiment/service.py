"""How long a batch occupies a worker of a live server, learnt from runs apart from the others.

A profile is measured on an idle device, in one process. In a server a batch also crosses to the
worker and back, and shares the machine with HTTP, decoding and the load generator. The model is
``service = fixed + factor x profile``, with the scatter around it as it was observed.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from loadtest.records import Record
from loadtest.simulation_noise import Scatter
from policies.types import Profile
from superserve.journal import JournalEntries, ServedBatch

STRATA = 6  # of usual times, at most
MOST = 400  # observations of a stratum that are kept
LEAST = 3  # batches of one kind whose median counts

Run = tuple[JournalEntries, Sequence[Record]]  # what the server and the clients of one run saw


@dataclass(frozen=True, slots=True)
class ServiceModel:
    """Times in seconds. ``scatter`` is what observed times were longer than modelled ones.

    ``overhead`` is what a client waits beyond what the server knows of: sending, parsing, and the
    way of the answer. ``loading`` is by subnet; empty where nothing had to be loaded.
    """

    fixed: float
    factor: float
    scatter: Scatter
    overhead: float
    batches: int
    loading: dict[str, float]

    def true_profile(self, base: Profile) -> Profile:
        """The times that batches really take, at the median."""
        rows = (tuple(self.fixed + self.factor * each for each in row) for row in base.latencies)
        return Profile(base.subnets, base.accuracies, base.batch_sizes, tuple(rows))

    def document(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def read(cls, document: dict[str, Any]) -> Self:
        strata = tuple((edge, tuple(found)) for edge, found in document["scatter"]["strata"])
        return cls(**{**document, "scatter": Scatter(strata)})


def learn(base: Profile, runs: Sequence[Run]) -> ServiceModel:
    """``base`` has a time for each size of batch that was run.

    Raises ``ValueError`` where too little was served to learn anything.
    """
    done = [batch for journal, _ in runs for batch in journal.batches if batch.finish is not None]
    groups: dict[tuple[str, int], list[float]] = defaultdict(list)
    for batch in done:
        groups[batch.subnet, batch.size].append(_service(batch))
    kinds = {kind: times for kind, times in groups.items() if len(times) >= LEAST}
    if not kinds:
        raise ValueError("too few batches were served to learn how long they take")
    x = np.array([base.latency(*kind) for kind in kinds])
    y = np.array([float(np.median(times)) for times in kinds.values()])
    # A median of n times is n times as sure as one time, and long times scatter more than short.
    fixed, factor = _line(x, y, np.array([len(times) for times in kinds.values()]) / y)
    return ServiceModel(
        fixed=fixed,
        factor=factor,
        scatter=_scatter(
            [
                (usual, _service(batch) - usual)
                for batch in done
                for usual in [fixed + factor * base.latency(batch.subnet, batch.size)]
            ]
        ),
        overhead=_overhead(runs),
        batches=len(done),
        loading=_loading(done),
    )


def _service(batch: ServedBatch) -> float:
    assert batch.finish is not None
    return batch.finish - batch.decided - batch.loading


def _line(x: Any, y: Any, weights: Any) -> tuple[float, float]:
    """``fixed`` and ``factor``, neither of them negative."""
    if len(x) > 1 and np.ptp(x) > 0:
        factor, fixed = np.polyfit(x, y, 1, w=np.sqrt(weights))
        if factor > 0 and fixed >= 0:
            return float(fixed), float(factor)
    return 0.0, float(np.average(y / x, weights=weights))


def _scatter(found: Sequence[tuple[float, float]]) -> Scatter:
    """Of (usual time, difference): strata by time, about as large as each other."""
    by_time: dict[float, list[float]] = defaultdict(list)
    for usual, difference in found:
        by_time[usual].append(difference)
    strata: list[tuple[float, tuple[float, ...]]] = []
    gathered: list[float] = []
    for usual in sorted(by_time):
        gathered += by_time[usual]
        if len(gathered) >= len(found) / STRATA:
            strata.append((usual, _thinned(gathered)))
            gathered = []
    if gathered:
        strata.append((max(by_time), _thinned(gathered)))
    return Scatter(tuple(strata))


def _thinned(values: Sequence[float]) -> tuple[float, ...]:
    """As many as a file should hold, at equal distances in their order."""
    ordered = np.sort(values)
    places = np.linspace(0, len(ordered) - 1, min(MOST, len(ordered))).astype(int)
    return tuple(float(f"{value:.4g}") for value in ordered[places])


def _overhead(runs: Sequence[Run]) -> float:
    """The medians' difference: both sides saw the same queries, without knowing them by name."""
    server = [
        batch.finish - arrival
        for journal, _ in runs
        for batch in journal.batches
        if batch.finish is not None
        for arrival in batch.arrivals
    ]
    client = [r.latency for _, records in runs for r in records if r.latency is not None]
    if not server or not client:
        return 0.0
    return max(float(np.median(client) - np.median(server)), 0.0)


def _loading(done: Sequence[ServedBatch]) -> dict[str, float]:
    loads: dict[str, list[float]] = defaultdict(list)
    for batch in done:
        if batch.loading:
            loads[batch.subnet].append(batch.loading)
    return {subnet: float(np.median(times)) for subnet, times in loads.items()}
