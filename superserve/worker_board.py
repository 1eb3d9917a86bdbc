"""What the front end knows of each worker: for people and dashboards, not for decisions."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from superserve.messages import WorkerInfo


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """One worker, dead or alive. ``in_flight`` counts dispatches, ``losses`` its deaths."""

    info: WorkerInfo
    connected: bool = True
    in_flight: int = 0
    losses: int = 0
    last_loss: str = ""


class WorkerBoard:
    """Every worker that ever joined, in that order."""

    __slots__ = ("_in_flight", "_statuses")

    def __init__(self) -> None:
        self._statuses: dict[str, WorkerStatus] = {}
        self._in_flight: dict[str, int] = {}  # of connected workers; changes at every dispatch

    def __repr__(self) -> str:
        return f"<WorkerBoard {self.connected} of {len(self._statuses)} connected>"

    def __iter__(self) -> Iterator[WorkerStatus]:
        for name, status in self._statuses.items():
            yield replace(status, in_flight=self._in_flight.get(name, 0))

    @property
    def connected(self) -> int:
        return len(self._in_flight)

    def joined(self, info: WorkerInfo) -> None:
        known = self._statuses.get(info.name, WorkerStatus(info))
        self._statuses[info.name] = replace(known, info=info, connected=True)
        self._in_flight[info.name] = 0

    def lost(self, worker: str, reason: str) -> None:
        known = self._statuses[worker]
        self._statuses[worker] = replace(
            known, connected=False, losses=known.losses + 1, last_loss=reason
        )
        del self._in_flight[worker]

    def sent(self, worker: str) -> None:
        self._in_flight[worker] += 1

    def returned(self, worker: str) -> None:
        self._in_flight[worker] -= 1
