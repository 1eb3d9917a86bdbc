"""What the master and the workers of a Locust run tell each other, in plain values. Pure.

A worker gets its shard, says that it is ready, gets the go, and sends records until it is done.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any, Self

import numpy as np

from loadtest.arrivals import Times
from loadtest.client import Payload
from loadtest.connections import Target
from loadtest.records import Record

SHARD = "superserve_shard"
READY = "superserve_ready"
GO = "superserve_go"
RECORDS = "superserve_records"

_FIELDS = tuple(field.name for field in fields(Record))
_row = attrgetter(*_FIELDS)


@dataclass(frozen=True, slots=True, eq=False)
class Shard:
    """The queries of one worker: those whose index in the run is ``index`` modulo ``count``.

    The master makes all arrivals and images, so a worker needs neither the trace nor the files.
    ``run`` tells the runs of one session apart, which Locust's web UI may start in a row.
    """

    run: int
    index: int
    count: int
    arrivals: Times  # [queries of this worker], seconds from the start
    payloads: Sequence[Payload]  # all of the run
    target: Target
    slo: float
    timeout: float
    connections: int

    def payload(self, position: int) -> int:
        """Which payload the worker's query number ``position`` carries."""
        return (self.index + position * self.count) % len(self.payloads)

    def to_message(self) -> dict[str, Any]:
        return {
            "run": self.run, "index": self.index, "count": self.count,
            "arrivals": self.arrivals.tobytes(),
            "bodies": [payload.body for payload in self.payloads],
            "labels": [payload.label for payload in self.payloads],
            "target": [getattr(self.target, field.name) for field in fields(Target)],
            "slo": self.slo, "timeout": self.timeout, "connections": self.connections,
        }  # fmt: skip

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> Self:
        return cls(
            run=message["run"],
            index=message["index"],
            count=message["count"],
            arrivals=np.frombuffer(message["arrivals"]),
            payloads=[
                Payload(body, label)
                for body, label in zip(message["bodies"], message["labels"], strict=True)
            ],
            target=Target(*message["target"]),
            slo=message["slo"],
            timeout=message["timeout"],
            connections=message["connections"],
        )


def cut(shard: Shard, count: int) -> tuple[Shard, ...]:
    """``shard`` dealt out to ``count`` workers, query by query: each gets a thinned whole run."""
    return tuple(
        Shard(
            shard.run, index, count, shard.arrivals[index::count], shard.payloads, shard.target,
            shard.slo, shard.timeout, shard.connections,
        )
        for index in range(count)
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Batch:
    """Records of one worker as they come; the last one says so."""

    run: int
    records: tuple[Record, ...]
    done: bool = False
    unanswered: int = 0  # under way when the worker was stopped; told with the last batch
    connections: int = 0  # open at once, at most; told with the last batch

    def to_message(self) -> dict[str, Any]:
        return {
            "run": self.run, "rows": [_row(record) for record in self.records],
            "done": self.done, "unanswered": self.unanswered, "connections": self.connections,
        }  # fmt: skip

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> Self:
        return cls(
            message["run"],
            tuple(Record(*row) for row in message["rows"]),
            message["done"],
            message["unanswered"],
            message["connections"],
        )


def merge(parts: Iterable[Iterable[Record]]) -> tuple[Record, ...]:
    """The records of all workers, in order of arrival."""
    return tuple(sorted((r for part in parts for r in part), key=attrgetter("arrival")))
