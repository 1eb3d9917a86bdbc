"""The load generator's keep-alive HTTP/1.1 connections: a bounded pool that grows as needed."""

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Protocol, cast
from urllib.parse import urlsplit

from httptools import HttpParserError, HttpResponseParser


@dataclass(frozen=True, slots=True)
class Target:
    """Where the queries go: every one is a POST of an image to this path."""

    host: str
    port: int
    path: str = "/v1/classify"
    content_type: str = "image/png"

    @classmethod
    def at(cls, url: str, path: str = "/v1/classify") -> "Target":
        """The target behind ``http://host:port``; ``ValueError`` for anything else."""
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"expected http://host:port, not {url!r}")
        return cls(parts.hostname, parts.port or 80, parts.path.rstrip("/") + path)

    def request(self, body: bytes) -> bytes:
        """The whole request as bytes, made once per image so that sending costs one write."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: {host}:{self.port}\r\n"
            f"Content-Type: {self.content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


class Listener(Protocol):
    """Who sends over the pool's connections and is told what becomes of them."""

    def connection_free(self) -> None:
        """A connection can be taken, or a place for a new one became free."""
        ...

    def connection_refused(self) -> None:
        """A connection that was wanted could not be opened."""
        ...

    def connection_answered(self, connection: "Connection", status: int, body: bytes) -> None: ...

    def connection_lost(self, connection: "Connection") -> None:
        """The connection ended; what was under way on it gets no answer."""
        ...


class ConnectionPool:
    """Hands out connections that are idle and opens more, up to ``limit``."""

    def __init__(self, target: Target, limit: int, listener: Listener) -> None:
        self.limit = limit
        self.peak = 0  # open at once, at most
        self._target = target
        self._listener = listener
        # The longest idle goes first: taking turns keeps all within the server's idle timeout.
        self._idle: deque[Connection] = deque()
        self._open: set[Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._closed = False

    async def warm_up(self, count: int, patience: float) -> None:
        """Open connections ahead; give up on those that take longer than ``patience`` seconds."""
        self.want(min(count, self.limit))
        if self._opening:
            await asyncio.wait(self._opening, timeout=patience)

    def take(self) -> "Connection | None":
        return self._idle.popleft() if self._idle else None

    def want(self, count: int) -> None:
        """See to it that ``count`` more connections come, as far as the limit allows."""
        while len(self._opening) < count and len(self._open) + len(self._opening) < self.limit:
            task = asyncio.get_running_loop().create_task(self._connect())
            self._opening.add(task)
            task.add_done_callback(self._opened)
            self.peak = max(self.peak, len(self._open) + len(self._opening))

    async def close(self) -> None:
        """Abort everything; the listener hears no more."""
        self._closed = True
        for task in self._opening:
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
        for connection in self._open:
            connection.abort()
        await asyncio.sleep(0)  # the sockets are closed in the loop's next turn

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: Connection(self), self._target.host, self._target.port
        )
        self._open.add(connection)
        self._idle.append(connection)

    def _opened(self, task: asyncio.Task[None]) -> None:
        self._opening.discard(task)
        if self._closed or task.cancelled():
            return
        match task.exception():
            case None:
                self._listener.connection_free()
            case OSError():
                self._listener.connection_refused()
            case error:
                raise error

    def answered(self, connection: "Connection", status: int, body: bytes) -> None:
        if self._closed:
            return
        if connection.reusable:
            self._idle.append(connection)
        else:
            connection.abort()
        self._listener.connection_answered(connection, status, body)

    def lost(self, connection: "Connection") -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if not self._closed:
            self._listener.connection_lost(connection)
            self._listener.connection_free()


class Connection(asyncio.Protocol):
    """At most one request is under way on it.

    The answer must have a length or be chunked: one that ends with the connection counts as lost.
    """

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool
        self._parser = HttpResponseParser(self)
        self._body = b""
        self._transport: asyncio.Transport | None = None
        self.answers = 0
        self.quiet = True  # no byte of the current answer has come
        self.reusable = True

    def send(self, request: bytes) -> None:
        assert self._transport is not None
        self.quiet = True
        self._transport.write(request)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(
            "asyncio.Transport", transport
        )  # uvloop's is one by duck typing only

    def data_received(self, data: bytes) -> None:
        self.quiet = False
        try:
            self._parser.feed_data(data)
        except HttpParserError:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's signature
        self._pool.lost(self)

    def on_message_begin(self) -> None:
        self._body = b""

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        self.answers += 1
        self.reusable = self._parser.should_keep_alive()
        self._pool.answered(self, self._parser.get_status_code(), self._body)
