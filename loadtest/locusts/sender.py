"""Open-loop sending with gevent: a greenlet for each query, started at its time whatever happens.

Latency counts from the intended time. Lateness is how long after it the query's greenlet began to
work: what this process, not the server, is to blame for. Waiting for a connection at the limit is
the sender's fault too; opening one is not, since a server that accepts nobody makes everybody wait.
"""

import gc
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from math import inf

import gevent
from gevent.lock import BoundedSemaphore
from gevent.pool import Group

from loadtest.answers import read_answer
from loadtest.client import SENDS_PER_TURN
from loadtest.locusts.http_connection import HttpConnection, StaleConnection
from loadtest.locusts.messages import Shard
from loadtest.records import Record
from loadtest.report import MAX_LATENESS

TIMER_STEP = 0.001  # seconds: the event loop's timers go off up to so much late
# Where no more lateness (seconds) than this is allowed, the last step is spent polling: that costs
# half a step of this CPU for each query, and brings its lateness from half a step to nearly none.
SHORT_LATENESS = 0.002
WARM_CONNECTIONS = 32  # opened ahead, unless fewer are allowed


class _GaveUp(BaseException):
    """Passes by every ``except Exception`` on its way, as timeouts must."""


class Sender:
    """Sends the queries of one shard.

    ``on_record`` is called with each record as it comes, and with the seconds from the intended
    time until then, which a missed query has no latency to tell.
    """

    def __init__(
        self,
        shard: Shard,
        on_record: Callable[[Record, float], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shard = shard
        self._arrivals: list[float] = shard.arrivals.tolist()
        self._requests = [shard.target.request(payload.body) for payload in shard.payloads]
        self._on_record = on_record
        self._clock = clock
        self._zero = inf  # the clock at the start
        self._early = TIMER_STEP if MAX_LATENESS * shard.slo < SHORT_LATENESS else 0.0
        self._permits = BoundedSemaphore(shard.connections)
        # The longest idle goes first: taking turns keeps all within the server's idle timeout.
        self._idle: deque[HttpConnection] = deque()
        self._open = 0
        self._sent = 0
        self._recorded = 0
        self.connections = 0  # open at once, at most

    @property
    def unanswered(self) -> int:
        """Queries that were started and have no record."""
        return self._sent - self._recorded

    def warm_up(self) -> None:
        """Open connections ahead, as far as that succeeds within the timeout."""
        count = min(WARM_CONNECTIONS, self._shard.connections, len(self._arrivals))
        opening = [gevent.spawn(self._open_ahead) for _ in range(count)]
        gevent.joinall(opening, timeout=self._shard.timeout)
        gevent.killall(opening)

    def run(self, start: float) -> None:
        """Send everything, ``start`` being second 0 on the clock, and wait for what becomes of it.

        Ends by itself at the last timeout. Killing the greenlet that runs it ends it at once.
        """
        self._zero = start
        queries = Group()
        try:
            with _no_collection():
                self._send(queries)
                queries.join()
        finally:
            queries.kill()
            while self._idle:
                self._close(self._idle.pop())

    def _send(self, queries: Group) -> None:
        in_a_row = 0
        for position, arrival in enumerate(self._arrivals):
            while (delay := arrival - self._now()) > 0 or in_a_row == SENDS_PER_TURN:
                gevent.sleep(max(delay - self._early, 0.0))
                in_a_row = 0
            in_a_row += 1
            self._sent += 1
            queries.spawn(self._query, position, arrival)

    def _query(self, position: int, arrival: float) -> None:
        shard = self._shard
        deadline = arrival + shard.slo
        payload = shard.payload(position)
        lateness, missed = 0.0, "unsent"
        answered: tuple[int, bytes] | None = None
        try:
            patience = max(arrival + shard.timeout - self._now(), 0.0)
            with gevent.Timeout(patience, _GaveUp), self._permits:
                lateness = self._now() - arrival
                missed = "timeout"
                answered = self._exchange(self._requests[payload])
        except _GaveUp:
            if missed == "unsent":
                lateness = self._now() - arrival
        except OSError:
            missed = "connection_error"
        now = self._now()
        if answered is None:
            record = Record(arrival, deadline, None, dropped=missed, lateness=lateness)
        else:
            label = shard.payloads[payload].label
            record = read_answer(arrival, lateness, deadline, now, *answered, label)
        self._recorded += 1
        self._on_record(record, now - arrival)

    def _exchange(self, request: bytes) -> tuple[int, bytes]:
        if self._idle:
            # The server may close an idle connection while the request is on its way. Any client
            # would send it again; the latency still counts from the intended time.
            with suppress(StaleConnection):
                return self._over(self._idle.popleft(), request)
        return self._over(self._connect(), request)

    def _over(self, connection: HttpConnection, request: bytes) -> tuple[int, bytes]:
        answered = False
        try:
            answer = connection.exchange(request)
            answered = connection.reusable
        finally:
            if answered:
                self._idle.append(connection)
            else:
                self._close(connection)
        return answer

    def _open_ahead(self) -> None:
        with suppress(OSError):  # the queries themselves will find out, and count it
            self._idle.append(self._connect())

    def _connect(self) -> HttpConnection:
        self._open += 1
        self.connections = max(self.connections, self._open)
        try:
            return HttpConnection.to(self._shard.target)
        except BaseException:
            self._open -= 1
            raise

    def _close(self, connection: HttpConnection) -> None:
        connection.close()
        self._open -= 1

    def _now(self) -> float:
        return self._clock() - self._zero


@contextmanager
def _no_collection() -> Iterator[None]:
    """A garbage collection among all that Locust has loaded would make queries late."""
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
