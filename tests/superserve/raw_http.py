"""HTTP by hand, for what no well-behaved client would send."""

import json
import socket

from tests.superserve.fakes import LiveServer


def connect(server: LiveServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=20)


def read_response(connection: socket.socket) -> tuple[int, dict[str, str], bool]:
    """Status and JSON of one response, and whether the server closed the connection after it."""
    data = b""
    while chunk := connection.recv(65536):
        data += chunk
        head, separator, body = data.partition(b"\r\n\r\n")
        if separator:
            fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
            if len(body) >= int(fields[b"content-length"]):
                break
    assert data, "the server closed the connection without an answer"
    closed = b"connection: close" in head.lower()
    return int(head.split()[1]), json.loads(body), closed


def request_head(length: int, *more: str, target: str = "/v1/classify") -> bytes:
    lines = [f"POST {target} HTTP/1.1", "Host: x", f"Content-Length: {length}", *more, "", ""]
    return "\r\n".join(lines).encode()
