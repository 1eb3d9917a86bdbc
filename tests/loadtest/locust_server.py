"""A tiny server for load generators: it answers at once, but for one freeze that it was told of.

An image is the digit that it ends with, and every tenth answer is wrong. Nobody waits in a queue,
so what a load generator sees beyond the freeze is its own doing. ``GET /after/N`` is answered with
the Nth query.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Callable
from itertools import count

import uvloop

WRONG = 10  # every so many answers
SUBNETS = (("small", 90.0), ("large", 98.0))  # in turns
MODELS = {
    "models": [
        {
            "name": "digits",
            "labels": list("0123456789"),
            "input": {"height": 32, "width": 32, "channels": 1},
            "weights_hash": "none",
            "resident_bytes": 0,
            "subnets": [
                {"id": name, "settings": "", "accuracy": accuracy, "latency_ms": {"1": 1.0}}
                for name, accuracy in SUBNETS
            ],
        }
    ]
}


class Exchange(asyncio.Protocol):
    """One keep-alive connection; a request comes whole or in pieces, one at a time."""

    def __init__(self, server: "Server") -> None:
        self._server = server
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, found, rest = self._data.partition(b"\r\n\r\n")
        if not found:
            return
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        length = int(fields.get(b"content-length", 0))
        if len(rest) < length:
            return
        self._data = b""
        method, path, _ = (word.decode() for word in head.split(b" ", 2))
        if path.startswith("/after/"):
            self._server.call_after(int(path.removeprefix("/after/")), self._say)
        else:
            self._say(self._server.answer(method, path, rest))

    def _say(self, document: dict) -> None:
        answer = json.dumps(document).encode()
        self._transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer) + answer
        )


class Server:
    def __init__(self, freeze_at: float, freeze: float) -> None:
        self._freeze_at = freeze_at
        self._freeze = freeze
        self._policy = "slackfit"
        self._numbers = count(1)
        self._waiting: dict[int, Callable[[dict], None]] = {}

    def answer(self, method: str, path: str, body: bytes) -> dict:
        if path.startswith("/v1/classify"):
            return self._classify(next(self._numbers), body)
        if path.startswith("/v1/models"):
            return MODELS
        if path.startswith("/v1/policy"):
            if method == "PUT":
                self._policy = json.loads(body)["policy"]
            return {"policy": self._policy, "available": ["slackfit", "maxacc"]}
        return {"ready": True}

    def call_after(self, queries: int, say: Callable[[dict], None]) -> None:
        """Let somebody wait until so many queries have come."""
        self._waiting[queries] = say

    def _classify(self, number: int, body: bytes) -> dict:
        if number == 1 and self._freeze:
            asyncio.get_running_loop().call_later(self._freeze_at, time.sleep, self._freeze)
        if number in self._waiting:
            self._waiting.pop(number)({})
        seen = body[-1:].decode("latin-1")
        digit = int(seen) if seen.isdecimal() else 0
        index = (digit + 1) % 10 if number % WRONG == 0 else digit
        subnet, accuracy = SUBNETS[number % 2]
        return {
            "predictions": [{"label": str(index), "index": index, "score": 0.9}],
            "subnet": subnet,
            "accuracy": accuracy,
            "deadline_met": True,
        }


async def serve(host: str, port: int, server: Server) -> None:
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(lambda: Exchange(server), host, port, backlog=1024)
    async with listening:
        await listening.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--freeze-at", type=float, default=0.0)  # seconds after the first query
    parser.add_argument("--freeze", type=float, default=0.0)  # seconds
    given = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(given.host, given.port, Server(given.freeze_at, given.freeze)))
