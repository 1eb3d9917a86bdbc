"""What the master knows of a run on its workers: who is ready, who is done, who is gone. Pure.

The go follows the last worker's readiness and is small, so that all begin together to within a
message's way: no clocks of different machines need to agree.
"""

from collections.abc import Callable, Collection, Mapping
from math import inf
from typing import Any

from loadtest.locusts.messages import GO, SHARD, Batch, Shard, merge
from loadtest.records import Record

LEAD = 0.5  # seconds from the go to second 0, for users that are still being spawned
READY_PATIENCE = 60.0  # seconds for shards to arrive and connections to be opened
DONE_PATIENCE = 15.0  # seconds after the last query's timeout

Send = Callable[[str, dict[str, Any], str], None]  # what, content, to which worker


class Coordinator:
    """One run. ``shards`` are by the id of the worker that gets them."""

    def __init__(
        self, shards: Mapping[str, Shard], send: Send, on_record: Callable[[Record], None]
    ) -> None:
        self._shards = dict(shards)
        self._send = send
        self._on_record = on_record
        self._ready: set[str] = set()
        self._done: set[str] = set()
        self._lost: dict[str, str] = {}  # worker -> why
        self._records: dict[str, list[Record]] = {client: [] for client in shards}
        self._give_up = inf
        self.begun = False
        self.unanswered = 0
        self.connections: dict[str, int] = {}  # of each worker, open at once, at most

    @property
    def finished(self) -> bool:
        return len(self._done) + len(self._lost) == len(self._shards)

    @property
    def records(self) -> tuple[Record, ...]:
        """Those that came, in order of arrival."""
        return merge(self._records.values())

    @property
    def missing(self) -> int:
        """Queries without a record."""
        due = sum(len(shard.arrivals) for shard in self._shards.values())
        return due - sum(map(len, self._records.values()))

    @property
    def losses(self) -> tuple[str, ...]:
        """What happened to the workers that did not come to their end, for people."""
        return tuple(f"worker {client} {why}" for client, why in self._lost.items())

    def deal(self, now: float) -> None:
        """Send every worker its shard."""
        self._give_up = now + READY_PATIENCE
        for client, shard in self._shards.items():
            self._send(SHARD, shard.to_message(), client)

    def ready(self, client: str, run: int, now: float) -> None:
        """A worker has its shard and open connections; the last one to say so starts all."""
        if self._runs(client, run) and not self.begun:
            self._ready.add(client)
            self._begin_if_ready(now)

    def take(self, client: str, batch: Batch) -> None:
        """Records from a worker; of another run, or from a worker given up, they count nothing."""
        if not self._runs(client, batch.run) or client in self._lost:
            return
        self._records[client] += batch.records
        for record in batch.records:
            self._on_record(record)
        if batch.done:
            self._done.add(client)
            self.unanswered += batch.unanswered
            self.connections[client] = batch.connections

    def look(self, now: float, alive: Collection[str]) -> None:
        """Give up the workers that are gone, and those that take too long."""
        for client in self._shards:
            if client in self._done or client in self._lost:
                continue
            if client not in alive:
                self._lost[client] = "was lost"
            elif now > self._give_up and self.begun:
                self._lost[client] = "did not finish"
            elif now > self._give_up and client not in self._ready:
                self._lost[client] = "was not ready in time"
        if not self.begun:
            self._begin_if_ready(now)

    def _begin_if_ready(self, now: float) -> None:
        waiting = [c for c in self._shards if c not in self._ready and c not in self._lost]
        if waiting or not self._ready:
            return
        self.begun = True
        ends = (s.arrivals[-1] + s.timeout for s in self._shards.values() if len(s.arrivals))
        self._give_up = now + LEAD + max(ends, default=0.0) + DONE_PATIENCE
        for client, shard in self._shards.items():
            if client not in self._lost:
                self._send(GO, {"run": shard.run, "lead": LEAD}, client)

    def _runs(self, client: str, run: int) -> bool:
        return client in self._shards and self._shards[client].run == run
