"""Open-loop load on a running server: each query leaves at its time, whatever became of the others.

Latency counts from the intended time, so neither a frozen server nor a slow generator can hide
(no coordinated omission); how late the generator itself was stands in every record.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import inf

from loadtest.answers import read_answer
from loadtest.connections import Connection, ConnectionPool, Target
from loadtest.records import Record

SENDS_PER_TURN = 32  # then the event loop gets its turn: answers must not wait behind a backlog


@dataclass(frozen=True, slots=True)
class Payload:
    """An image file and, where known, the index of its label."""

    body: bytes
    label: int | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """What a run sent and got. ``records`` are in order of arrival."""

    records: tuple[Record, ...]
    connections: int  # open at once, at most
    connection_limit: int
    unanswered: int  # under way when the run was stopped; they have no record


@dataclass(slots=True)
class _Flight:
    index: int
    arrival: float
    lateness: float = 0.0
    connection: Connection | None = None
    resent: bool = False
    done: bool = False


class LoadGenerator:
    """Sends payload ``i % len(payloads)`` at ``arrivals[i]`` seconds (ascending) after the start.

    A query without an answer ``timeout`` seconds after its intended time is a miss, and so is one
    whose connection fails. At ``connection_limit`` queries wait for a connection; that wait counts
    as lateness of the generator, so such a run cannot pass for a valid one.
    """

    def __init__(
        self,
        target: Target,
        arrivals: Sequence[float],
        payloads: Sequence[Payload],
        *,
        slo: float,
        timeout: float,
        connection_limit: int = 512,
        warm_connections: int = 32,
        on_record: Callable[[Record], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``on_record`` is called with every record as it comes, in the thread of `run`."""
        if not payloads or not 0 < slo <= timeout or connection_limit < 1:
            raise ValueError("a load needs payloads, 0 < slo <= timeout and a connection")
        self._arrivals = [float(arrival) for arrival in arrivals]
        self._requests = [target.request(payload.body) for payload in payloads]
        self._labels = [payload.label for payload in payloads]
        self._slo = slo
        self._timeout = timeout
        self._warm_connections = warm_connections
        self._on_record = on_record
        self._clock = clock
        self._zero = inf  # the clock at the start
        self._sent = 0
        self._waiting: deque[_Flight] = deque()  # for a connection
        self._flights: dict[Connection, _Flight] = {}
        self._by_age: deque[_Flight] = deque()  # for the timeouts, done ones included
        self._records: dict[int, Record] = {}
        self._pool = ConnectionPool(target, connection_limit, self)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._finished = asyncio.Event()
        self._stopped = False

    @property
    def elapsed(self) -> float:
        """Seconds since the start; 0 before."""
        return max(self._now(), 0.0)

    @property
    def under_way(self) -> int:
        """Queries that were due and have no record yet."""
        return self._sent - len(self._records)

    def stop(self) -> None:
        """End `run` now; may be called from any thread, also before `run`."""
        self._stopped = True
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed: the run ended in the meantime
                self._loop.call_soon_threadsafe(self._finished.set)

    async def run(self) -> Load:
        """Send everything and wait for the answers; ends by itself at the last timeout."""
        self._loop = asyncio.get_running_loop()
        await self._pool.warm_up(self._warm_connections, self._timeout)
        if self._stopped or not self._arrivals:
            self._finished.set()
        self._zero = self._clock()
        async with asyncio.TaskGroup() as tasks:  # a bug in one of them ends the run, loudly
            sending = tasks.create_task(self._send())
            timing = tasks.create_task(self._time_out())
            await self._finished.wait()
            sending.cancel()
            timing.cancel()
        await self._pool.close()
        records = tuple(self._records[index] for index in sorted(self._records))
        return Load(records, self._pool.peak, self._pool.limit, self.under_way)

    def _now(self) -> float:
        return self._clock() - self._zero

    async def _send(self) -> None:
        """Start every query at its time."""
        in_a_row = 0
        for index, arrival in enumerate(self._arrivals):
            while (delay := arrival - self._now()) > 0 or in_a_row == SENDS_PER_TURN:
                await asyncio.sleep(max(delay, 0.0))
                in_a_row = 0
            in_a_row += 1
            flight = _Flight(index, arrival)
            self._sent += 1
            self._by_age.append(flight)
            self._waiting.append(flight)
            self.connection_free()

    async def _time_out(self) -> None:
        """Give up what is too old. All timeouts are equal, so only the oldest needs a look."""
        while True:
            oldest = self._by_age[0].arrival if self._by_age else self._now()
            await asyncio.sleep(max(oldest + self._timeout - self._now(), 0.0))
            while self._by_age and (
                self._by_age[0].done or self._by_age[0].arrival + self._timeout <= self._now()
            ):
                flight = self._by_age.popleft()
                if flight.done:
                    continue
                if flight.connection is None:
                    flight.lateness = self._now() - flight.arrival
                    self._miss(flight, "unsent")
                else:
                    self._miss(flight, "timeout")
                    flight.connection.abort()

    def connection_free(self) -> None:
        while self._waiting:
            if self._waiting[0].done:
                self._waiting.popleft()
                continue
            connection = self._pool.take()
            if connection is None:
                break
            flight = self._waiting.popleft()
            flight.connection = connection
            self._flights[connection] = flight
            if not flight.resent:
                flight.lateness = self._now() - flight.arrival
            connection.send(self._requests[flight.index % len(self._requests)])
        self._pool.want(len(self._waiting))

    def connection_refused(self) -> None:
        # One failure costs one query, not all that wait: the next attempt may succeed.
        flight = next((flight for flight in self._waiting if not flight.done), None)
        if flight is not None:
            self._miss(flight, "connection_error")
        self.connection_free()

    def connection_answered(self, connection: Connection, status: int, body: bytes) -> None:
        finish = self._now()
        flight = self._flights.pop(connection, None)
        if flight is None or flight.done:
            connection.abort()  # an answer that nobody waits for: this stream cannot be trusted
            return
        label = self._labels[flight.index % len(self._labels)]
        record = read_answer(
            flight.arrival, flight.lateness, flight.arrival + self._slo, finish, status, body, label
        )
        self._record(flight, record)
        self.connection_free()

    def connection_lost(self, connection: Connection) -> None:
        flight = self._flights.pop(connection, None)
        if flight is None or flight.done:
            return
        if connection.quiet and connection.answers and not flight.resent:
            # The server closed an idle connection while the request was on its way. Any client
            # would send it again; the latency still counts from the intended time.
            flight.resent = True
            flight.connection = None
            self._waiting.appendleft(flight)
        else:
            self._miss(flight, "connection_error")

    def _miss(self, flight: _Flight, reason: str) -> None:
        deadline = flight.arrival + self._slo
        missed = Record(flight.arrival, deadline, None, dropped=reason, lateness=flight.lateness)
        self._record(flight, missed)

    def _record(self, flight: _Flight, record: Record) -> None:
        flight.done = True
        self._records[flight.index] = record
        if len(self._records) == len(self._arrivals):
            self._finished.set()
        self._on_record(record)
