"""uvicorn's HTTP protocol with the limits that it lacks: on the time and size of a request's head.

Without them a client that sends half a head holds a connection for ever, and one that never ends
its headers fills the memory.
"""

import asyncio
import http

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from superserve.errors import ClientError
from superserve.server.responses import error_fields, json_bytes

MAX_HEAD_BYTES = 64 * 1024

_Refusal = tuple[http.HTTPStatus, str]

_NO_HTTP: _Refusal = (
    http.HTTPStatus.BAD_REQUEST,
    "this is no HTTP request that can be understood",
)
_TOO_SLOW: _Refusal = (
    http.HTTPStatus.REQUEST_TIMEOUT,
    "the request's head did not arrive in time",
)
_TOO_LARGE: _Refusal = (
    http.HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    f"the request's head is above {MAX_HEAD_BYTES} bytes; send fewer or shorter headers",
)
_UPGRADE: _Refusal = (
    http.HTTPStatus.BAD_REQUEST,
    "a body cannot come with an upgrade: speak plain HTTP/1.1, as curl does with --http1.1",
)


class BoundedHttp(HttpToolsProtocol):
    """Answers 408 or 431, in the JSON form of all errors, where a head is too slow or too large."""

    head_timeout: float = 15.0  # seconds

    _in_head = False
    _began = False  # a message began within the data that is being parsed
    _head_bytes = 0
    _timer: asyncio.TimerHandle | None = None
    _refusal = _NO_HTTP

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        before = self._head_bytes
        self._began = False
        super().data_received(data)
        if self.transport.is_closing() or not self._in_head:
            return
        if not self._began:
            # A header that is not complete yet stands in the parser's memory, uncounted.
            self._head_bytes = max(self._head_bytes, before + len(data))
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(_TOO_LARGE)
        elif self._timer is None:
            self._start_timer()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = self._began = True
        self._head_bytes = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._count(len(name) + len(value))

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._stop_timer()
        if self.parser.should_upgrade() and self._has_body():
            # The parser takes what follows for another protocol, and the body would be lost.
            self._give_up(_UPGRADE)
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - the signature is uvicorn's
        """Called for whatever the parser refuses."""
        self._refuse(self._refusal)

    def _unsupported_upgrade_warning(self) -> None:
        """No warning: an upgrade is an offer, and to ignore it is an answer."""

    def _has_body(self) -> bool:
        return any(
            name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
            for name, value in self.headers
        )

    def _give_up(self, refusal: _Refusal) -> None:
        """Raised through the parser, which stops there and has `send_400_response` called."""
        self._refusal = refusal
        raise ValueError(refusal[1])

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            self._give_up(_TOO_LARGE)

    def _refuse(self, refusal: _Refusal) -> None:
        self._stop_timer()
        if self.cycle is not None and not self.cycle.response_complete:
            # An earlier request on this connection is being answered: nothing may stand before it.
            self.transport.close()
            return
        status, message = refusal
        error = ClientError(message)
        body = json_bytes({**error_fields(error), "code": status.name.lower(), "request_id": ""})
        head = (
            "content-type: application/json\r\n"
            f"content-length: {len(body)}\r\n"
            "connection: close\r\n\r\n"
        )
        self.transport.write(STATUS_LINE[status] + head.encode() + body)
        self.transport.close()

    def _start_timer(self) -> None:
        self._timer = self.loop.call_later(self.head_timeout, self._on_slow_head)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_slow_head(self) -> None:
        self._timer = None
        if self._in_head:
            self._refuse(_TOO_SLOW)
        else:
            self.transport.close()
