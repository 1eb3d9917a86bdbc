"""The web application: which routes there are, and how their errors become answers."""

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from policies.types import Profile
from superserve.config import Config
from superserve.errors import (
    ClientError,
    Forbidden,
    InternalError,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    SuperServeError,
)
from superserve.server import admin
from superserve.server.bodies import Bodies
from superserve.server.classify import Classify
from superserve.server.decoders import Decoders
from superserve.server.dispatcher_like import DispatcherLike
from superserve.server.front_end import FrontEnd
from superserve.server.guard import Guard
from superserve.server.in_flight import InFlight
from superserve.server.openapi import describe
from superserve.server.responses import error_response, request_id

log = logging.getLogger(__name__)

_BY_STATUS: dict[int, type[SuperServeError]] = {
    403: Forbidden,
    404: NotFound,
    405: MethodNotAllowed,
    413: PayloadTooLarge,
}


def create_app(
    dispatcher: DispatcherLike, config: Config, *, profiles: Mapping[str, Profile]
) -> FastAPI:
    """The front end of one dispatcher, which its owner starts and stops.

    ``profiles`` maps each model's name to the accuracy and latency of the subnets that may answer;
    like ``dispatcher.models``, it is read anew at every request.
    """
    front_end = FrontEnd(
        dispatcher=dispatcher,
        config=config,
        profiles=profiles,
        in_flight=InFlight(),
        bodies=Bodies(config),
        decoders=Decoders(config.decode_threads),
    )
    # A plain Starlette route: FastAPI's own kind costs twice as much per request. It stands first,
    # because routes are tried in order.
    classify = Route("/v1/classify", Classify(front_end).__call__, methods=["POST"])
    app = FastAPI(
        routes=[classify],
        title="SuperServe",
        version=version("superserve"),
        description="An elastic supernet model server: as accurate as the deadlines allow.",
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_lifespan,
        # Left on, it costs each request a quarter of what all our own code does.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.state.front_end = front_end
    app.add_middleware(Guard)
    app.add_exception_handler(SuperServeError, _on_our_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.include_router(admin.router)
    describe(app, config)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    FrontEnd.of(app).decoders.close()


async def _on_our_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, SuperServeError)
    if error.status == 500:
        log.error("request %s failed", request_id(request.scope), exc_info=error)
    return error_response(request, error)


async def _on_http_error(request: Request, error: Exception) -> Response:
    """Starlette's own errors: no such path, no such method, a form that it refused."""
    assert isinstance(error, HTTPException)
    message = {
        404: "there is nothing at this path; GET / lists what there is",
        405: f"{request.method} is not possible here; the header Allow says what is",
    }.get(error.status_code, error.detail)
    default = InternalError if error.status_code >= 500 else ClientError
    answer = _BY_STATUS.get(error.status_code, default)(message)
    response = error_response(request, answer)
    response.status_code = error.status_code
    response.headers.update(error.headers or {})
    return response


async def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    places = (
        f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
        for problem in error.errors()
    )
    response = error_response(request, ClientError("; ".join(places)))
    response.status_code = 422
    return response
