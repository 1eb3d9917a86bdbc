"""POST /v1/classify: from a request to a slot with pixels, to the dispatcher, to an answer."""

import asyncio
import logging
from concurrent.futures import Future
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from starlette.requests import Request
from starlette.responses import Response

from superserve.api import Classification, LabelScore, Timing
from superserve.decode import decode
from superserve.errors import BadImage, InternalError, SuperServeError
from superserve.image_header import read_header
from superserve.messages import Answer, ModelInfo, Preprocessing
from superserve.server.bodies import split
from superserve.server.front_end import FrontEnd
from superserve.server.in_flight import CancelOnDisconnect
from superserve.server.parameters import SLO_HEADER, Parameters, parse_parameters
from superserve.server.responses import error_fields, error_response, json_response, request_id

log = logging.getLogger(__name__)

_TINY_BYTES = 8 * 1024
_TINY_PIXELS = 64 * 64
_ANY_SIZE = 2**64  # `decode` knows the limit


class Classify:
    """The endpoint. Each image of a request is a query of its own."""

    def __init__(self, front_end: FrontEnd) -> None:
        self._front_end = front_end

    async def __call__(self, request: Request) -> Response:
        front_end = self._front_end
        # The SLO's clock starts here: what the body's upload and the decoding take counts too.
        arrival = front_end.dispatcher.clock()
        with front_end.in_flight:
            parameters = parse_parameters(
                request.scope["query_string"].decode("latin-1"),
                request.headers.get(SLO_HEADER),
                config=front_end.config,
                models=front_end.dispatcher.models,
                profiles=front_end.profiles,
            )
            body = await front_end.bodies.read(request)
            try:
                with CancelOnDisconnect(request.receive):
                    return await self._answer(request, body, parameters, arrival)
            finally:
                front_end.bodies.release(body)

    async def _answer(
        self, request: Request, body: bytes, parameters: Parameters, arrival: float
    ) -> Response:
        content_type = request.headers.get("content-type", "")
        images = await split(content_type, body, self._front_end.config.max_images)
        if len(images) == 1:
            return json_response(await self._classify(images[0], parameters, arrival))
        results = await asyncio.gather(
            *(self._classify(image, parameters, arrival) for image in images),
            return_exceptions=True,
        )
        return _several(request, results)

    async def _classify(
        self, image: bytes, parameters: Parameters, arrival: float
    ) -> Classification:
        """One query, from its bytes to its answer."""
        dispatcher = self._front_end.dispatcher
        steps = parameters.model.preprocessing
        slot = dispatcher.reserve()
        if parameters.pixels:
            self._copy(image, slot, steps)
        else:
            await self._decode(image, slot, steps, deadline=arrival + parameters.slo)
        answer = await dispatcher.submit(
            slot,
            model=parameters.model.name,
            shape=steps.shape,
            arrival=arrival,
            slo=parameters.slo,
            min_accuracy=parameters.min_accuracy,
            priority=parameters.priority,
            top_k=parameters.top_k,
        )
        return _classification(answer, parameters.model)

    def _copy(self, image: bytes, slot: int, steps: Preprocessing) -> None:
        """Fill the slot with pixels as they are, or give it back."""
        height, width, channels = steps.shape
        if len(image) != height * width * channels:
            self._front_end.dispatcher.release(slot)
            raise BadImage(
                f"format=pixels takes {height} x {width} x {channels} bytes, row by row, "
                f"not {len(image)}"
            )
        pixels = self._front_end.dispatcher.slot_pixels(slot, steps.shape)
        pixels[:] = np.frombuffer(image, np.uint8).reshape(steps.shape)

    async def _decode(self, image: bytes, slot: int, steps: Preprocessing, deadline: float) -> None:
        """Fill the slot, in a thread if that takes long, or give it back."""
        dispatcher = self._front_end.dispatcher
        job: Future[None] | None = None
        try:
            pixels = dispatcher.slot_pixels(slot, steps.shape)
            decode_it = partial(self._decode_if_in_time, image, steps, pixels, deadline)
            if _is_tiny(image):
                decode_it()
            else:
                job = self._front_end.decoders.submit(deadline, decode_it)
                await asyncio.wrap_future(job)
        except BaseException:
            if job is None:
                dispatcher.release(slot)
            else:
                # The client may be gone while a thread still writes: the slot is free after that.
                give_back = partial(dispatcher.release, slot)
                loop = asyncio.get_running_loop()
                job.add_done_callback(lambda _: loop.call_soon_threadsafe(give_back))
            raise

    def _decode_if_in_time(
        self, image: bytes, steps: Preprocessing, pixels: npt.NDArray[np.uint8], deadline: float
    ) -> None:
        """A query that is late already is submitted with a blank image: the scheduler drops and
        counts it, and the decoder threads catch up with those that can be on time.
        """
        config = self._front_end.config
        if config.late == "drop" and self._front_end.dispatcher.clock() > deadline:
            pixels.fill(0)
            return
        decode(image, steps, pixels, max_pixels=config.max_pixels)


def _is_tiny(image: bytes) -> bool:
    """Whether decoding takes less than handing the image to a thread would; raises as `decode`."""
    if len(image) > _TINY_BYTES:
        return False
    header = read_header(image, _ANY_SIZE)
    return header.height * header.width <= _TINY_PIXELS


def _classification(answer: Answer, model: ModelInfo) -> Classification:
    return Classification(
        predictions=tuple(
            LabelScore(model.labels[p.index], p.index, round(p.score, 6))
            for p in answer.predictions
        ),
        subnet=answer.subnet,
        accuracy=answer.accuracy,
        deadline_met=answer.deadline_met,
        timing_ms=Timing(
            queue=round(answer.queue * 1000, 3),
            inference=round(answer.inference * 1000, 3),
            total=round(answer.total * 1000, 3),
        ),
        batch_size=answer.batch_size,
        model=model.name,
    )


def _several(request: Request, results: list[Classification | BaseException]) -> Response:
    """Each image's answer or error in order; the status is 200 if any image has an answer."""
    entries: list[Classification | dict[str, Any]] = []
    errors: list[SuperServeError] = []
    for result in results:
        if isinstance(result, Classification):
            entries.append(result)
            continue
        error = result if isinstance(result, SuperServeError) else InternalError("see the log")
        if error.status == 500:
            log.error("request %s failed", request_id(request.scope), exc_info=result)
        errors.append(error)
        entries.append({**error_fields(error), "status": error.status})
    if len(errors) == len(entries):
        return error_response(request, errors[0], {"results": entries})
    return json_response({"results": entries})
