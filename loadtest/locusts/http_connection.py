"""One keep-alive HTTP/1.1 connection over gevent's sockets: little work for each query."""

from typing import Self

from gevent import socket
from httptools import HttpParserError, HttpResponseParser

from loadtest.connections import Target

READ = 65536  # bytes


class StaleConnection(ConnectionError):
    """The server had closed the idle connection: the request may be sent again elsewhere."""


class HttpConnection:
    """Carries one exchange at a time. An answer must have a length or be chunked."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._parser = HttpResponseParser(self)
        self._body = b""
        self._status = 0
        self._complete = False
        self._answers = 0
        self.reusable = True

    @classmethod
    def to(cls, target: Target) -> Self:
        """Raises ``OSError`` where nobody listens."""
        connected = socket.create_connection((target.host, target.port))
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return cls(connected)

    def exchange(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of the answer.

        Raises `StaleConnection` as it says, else ``ConnectionError`` for an answer that breaks off
        or is no HTTP.
        """
        self._complete = False
        quiet = True
        try:
            self._socket.sendall(request)
            while not self._complete:
                data = self._socket.recv(READ)
                if not data:
                    raise ConnectionResetError("the server closed the connection")
                quiet = False
                self._parser.feed_data(data)
        except HttpParserError as error:
            raise ConnectionAbortedError(str(error)) from error
        except OSError as error:
            if quiet and self._answers:
                raise StaleConnection from error
            raise
        self._answers += 1
        return self._status, self._body

    def close(self) -> None:
        self._socket.close()

    def on_message_begin(self) -> None:
        self._body = b""

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        # Only in here: the parser forgets them with the message.
        self._status = self._parser.get_status_code()
        self.reusable = self._parser.should_keep_alive()
        self._complete = True
