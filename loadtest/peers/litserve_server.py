"""LitServe with one subnet: ``python -m loadtest.peers.litserve_server --port N``.

As its documentation advises for speed: batches, API processes as many as workers, logs quiet. Raw
bodies come through a dependency, since LitServe itself reads JSON and forms only. Three things of
version 0.2.19 matter to who compares. Requests and answers pass through the queues of a manager
process; ``fast_queue=True``, ZeroMQ instead, has no effect there (LitServe issue 751). Queries wait
in an unbounded queue, from which those older than ``timeout`` are answered 504. And a worker that
waits polls, every millisecond, or without pause if ``batch_wait_ms`` is 0.
"""

import logging
import os
import sys
import tempfile
from typing import Annotated, Any

import litserve
from fastapi import Depends, FastAPI
from starlette.requests import Request
from starlette.responses import Response

from loadtest.peers import version
from loadtest.peers.front import CLASSIFY, READY, Front, to_response
from loadtest.peers.model import Decoded, PeerModel, Query, Reply, describe
from loadtest.peers.settings import PeerSettings
from loadtest.peers.stopping import end_children, stopping_in_order
from superserve.errors import SuperServeError
from superserve.server.responses import error_response

DRAIN = 3.0  # seconds for requests that are under way at the end


async def read_query(request: Request) -> Query:
    front: Front = request.app.state.front
    return await front.read(request)


class PeerAPI(litserve.LitAPI):
    """The steps that LitServe calls, in a worker, for each batch."""

    def __init__(self, settings: PeerSettings, folder: str) -> None:
        super().__init__(
            max_batch_size=settings.max_batch,
            batch_timeout=settings.batch_wait_ms / 1000,
            api_path=CLASSIFY,
        )
        self._settings = settings
        self._folder = folder

    def setup(self, device: str) -> None:  # noqa: ARG002  the model places itself
        logging.getLogger("litserve").setLevel(logging.CRITICAL)
        self._model = PeerModel(self._settings, self._folder, int(os.environ["LITSERVE_WORKER_ID"]))
        self._model.warm_up()

    def decode_request(self, request: Annotated[Query, Depends(read_query)]) -> Decoded:
        return self._model.decode(request)

    def predict(self, x: Any) -> Any:
        """A list for a list; without batching, one for one."""
        return self._model.answer([x])[0] if self.max_batch_size == 1 else self._model.answer(x)

    def encode_response(self, output: Reply) -> Response:
        return to_response(output)


def make_server(settings: PeerSettings, folder: str, front: Front) -> litserve.LitServer:
    server = litserve.LitServer(
        PeerAPI(settings, folder),
        accelerator="cpu",  # what LitServe does with one is to name it to `setup`
        workers_per_device=settings.workers,
        timeout=settings.timeout_s,
        healthcheck_path=READY,  # once all workers are ready
        disable_openapi_url=True,
    )
    server.uvicorn_graceful_timeout = DRAIN
    app: FastAPI = server.app
    app.state.front = front
    app.add_exception_handler(SuperServeError, _error)
    for path, document in front.documents.items():
        if path != READY:
            app.add_api_route(path, _always(document))
    return server


def main() -> None:
    with stopping_in_order(), tempfile.TemporaryDirectory(prefix="superserve-peer-") as folder:
        settings, host, port = PeerSettings.from_arguments(sys.argv[1:])
        policy = f"{version('litserve')}, fixed"
        server = make_server(settings, folder, Front(describe(settings, folder), policy))
        try:
            server.run(
                host=host,
                port=port,
                log_level="critical",
                generate_client_file=False,
                access_log=False,
            )
        finally:
            end_children()


async def _error(request: Request, error: Exception) -> Response:
    assert isinstance(error, SuperServeError)
    return error_response(request, error)


def _always(document: bytes) -> Any:
    async def answer() -> Response:
        return Response(document, media_type="application/json")

    return answer


if __name__ == "__main__":
    main()
