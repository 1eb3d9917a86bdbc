"""What Ray Serve runs in each replica: requests in, batches through the model, answers out."""

import asyncio

from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from loadtest.peers.front import CLASSIFY, Front, to_response
from loadtest.peers.model import Decoded, PeerModel, Reply
from loadtest.peers.settings import PeerSettings
from superserve.errors import NotFound, SuperServeError
from superserve.server.responses import error_response

TINY = 8 * 1024  # bytes; decoding takes less than handing the image to a thread would


class Replica:
    """Answers every path itself, which is quicker than an application of FastAPI within it."""

    def __init__(self, settings: PeerSettings, folder: str, front: Front) -> None:
        self._front = front
        self._answers.set_max_batch_size(settings.max_batch)
        self._answers.set_batch_wait_timeout_s(settings.batch_wait_ms / 1000)
        self._model = PeerModel(settings, folder, serve.get_replica_context().rank.rank)
        self._model.warm_up()

    async def __call__(self, request: Request) -> Response:
        path = request.url.path
        if path in self._front.documents:
            return Response(self._front.documents[path], media_type="application/json")
        try:
            if path != CLASSIFY:
                raise NotFound(f"there is nothing at {path}")
            query = await self._front.read(request)
        except SuperServeError as error:
            return error_response(request, error)
        if len(query.image) <= TINY:
            decoded = self._model.decode(query)
        else:
            decoded = await asyncio.to_thread(self._model.decode, query)
        return to_response(await self._answers(decoded))

    @serve.batch
    async def _answers(self, batch: list[Decoded]) -> list[Reply]:
        """On the event loop, as Ray's documentation does it: of a thread beside it, the many short
        operations of a network would each wait for the interpreter's lock.
        """
        return self._model.answer(batch)
