"""The records of a live run in the form of a simulation's, so that one code reports on both."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any, Self

import numpy as np

from loadtest.locusts.tally import Count
from loadtest.records import Record
from loadtest.report import Percentiles, summarise
from loadtest.simulation_outcomes import DROPPED, UNANSWERED, Dispatches, Outcomes
from superserve.journal import JournalEntries

_CODES = {reason: code for code, reason in enumerate(DROPPED)}


@dataclass(frozen=True, slots=True)
class LiveFacts:
    """What only a live run has. Percent, seconds.

    ``measured`` is the share of the labelled answers that are right, ``promised`` what the accuracy
    cards say of the same answers, ``error`` one standard error of the difference: as many draws as
    there are answers or distinct images, whichever are fewer.
    """

    measured: float | None
    promised: float | None
    error: float | None
    judged: int
    server_attainment: float | None
    lateness_p99: float | None
    subnets: dict[str, int]
    dropped: dict[str, int]
    loads: int
    loading: float
    connections: int = 0
    attempts: int = 1

    @classmethod
    def of(
        cls, records: Sequence[Record], journal: JournalEntries | None, images: int, attempts: int
    ) -> Self:
        count = Count()
        for record in records:
            count.add(record)
        report = summarise(records)
        batches = () if journal is None else journal.batches
        late: Percentiles | None = report.lateness
        return cls(
            measured=count.measured,
            promised=count.promised,
            error=_error(count, images),
            judged=count.judged,
            server_attainment=report.server_attainment,
            lateness_p99=None if late is None else late.p99,
            subnets=report.subnets,
            dropped=report.dropped,
            loads=sum(batch.loading > 0 for batch in batches),
            loading=sum(batch.loading for batch in batches),
            attempts=attempts,
        )


def _error(count: Count, images: int) -> float | None:
    if not count.judged or not images:
        return None
    share = count.correct / count.judged
    return 100 * sqrt(share * (1 - share) / min(count.judged, images))


def live_outcomes(records: Sequence[Record], journal: JournalEntries | None) -> Outcomes:
    """By the client's clock; ``records`` in order of arrival, of one run.

    The dispatches are the journal's, on a clock whose zero lies so that the first query of both
    sides came at one time; without a journal there are none.
    """
    batches = () if journal is None else journal.batches
    names = tuple(
        dict.fromkeys(
            [*(r.subnet for r in records if r.subnet), *(batch.subnet for batch in batches)]
        )
    )
    index = {name: i for i, name in enumerate(names)}
    answered = [record.finish is not None for record in records]
    return Outcomes(
        arrival=np.array([r.arrival for r in records]),
        deadline=np.array([r.deadline for r in records]),
        finish=np.array([np.nan if r.finish is None else r.finish for r in records]),
        subnet=np.array([index.get(r.subnet or "", -1) for r in records], dtype=np.int64),
        accuracy=np.array([np.nan if r.accuracy is None else r.accuracy for r in records]),
        dropped=np.array(
            [
                0 if done else _CODES.get(record.dropped, _CODES[UNANSWERED])
                for record, done in zip(records, answered, strict=True)
            ],
            dtype=np.int64,
        ),
        dispatch=np.full(len(records), -1, dtype=np.int64),
        subnets=names,
        dispatches=_dispatches(records, journal, index),
    )


def _dispatches(
    records: Sequence[Record], journal: JournalEntries | None, index: dict[str, int]
) -> Dispatches:
    batches = () if journal is None else journal.batches
    workers = tuple(dict.fromkeys(batch.worker for batch in batches))
    zero = _zero(records, journal)
    rows = [
        (
            batch.decided - zero,
            batch.planned[0] - zero,
            np.nan if batch.finish is None else batch.finish - zero,
            batch.deadlines[0] - batch.planned[0],
            batch.accuracy,
            index[batch.subnet],
            batch.size,
            workers.index(batch.worker),
        )
        for batch in batches
    ]
    columns: Any = np.array(rows, dtype=np.float64).reshape(-1, 8).T
    decided, start, finish, slack, accuracy = columns[:5]
    subnet, size, worker = columns[5:].astype(np.int64)
    return Dispatches(
        np.maximum(decided, 0.0), start, finish, slack, subnet, accuracy, size, worker, workers
    )


def _zero(records: Sequence[Record], journal: JournalEntries | None) -> float:
    """The server's clock at the client's second 0."""
    if journal is None or not records:
        return 0.0
    arrivals = [arrival for batch in journal.batches for arrival in batch.arrivals]
    arrivals += [query.arrival for query in journal.unserved]
    return min(arrivals) - records[0].arrival if arrivals else 0.0
