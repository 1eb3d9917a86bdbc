"""The outermost layer: gives every request an id, and answers what nobody else answered."""

import asyncio
import logging
import re
import secrets

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from superserve.errors import InternalError
from superserve.server.responses import BODY_READ, REQUEST_ID, error_response

log = logging.getLogger(__name__)

_SANE_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
_LINGER_S = 5.0
_REQUEST_TIMEOUT = 408


class Guard:
    """ASGI middleware. A bug is logged whole, under the request's id, and never shown."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        identity = _request_id(scope)
        scope[REQUEST_ID] = identity.decode()
        started = lingers = False

        async def send_marked(message: Message) -> None:
            nonlocal started, lingers
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message["headers"], (b"x-request-id", identity)]
                if message["status"] >= 400 and _body_is_unread(scope):
                    message["headers"].append((b"connection", b"close"))
                    lingers = message["status"] != _REQUEST_TIMEOUT and _body_comes(scope)
            elif lingers and not message.get("more_body", False):
                await send({**message, "more_body": True})
                await _discard_body(receive)
                message = {"type": "http.response.body"}
            await send(message)

        try:
            await self._app(scope, receive, send_marked)
        except ClientDisconnect:
            log.debug("request %s: the client went away", scope[REQUEST_ID])
        except Exception:
            log.exception("request %s failed", scope[REQUEST_ID])
            if started:
                raise
            response = error_response(Request(scope), InternalError("see the log"))
            await response(scope, receive, send_marked)


def _request_id(scope: Scope) -> bytes:
    """The client's own, if it is harmless in logs and headers, or else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            given: bytes = value
            if _SANE_ID.fullmatch(given):
                return given
            break
    return secrets.token_hex(8).encode()


def _body_is_unread(scope: Scope) -> bool:
    """Then the connection cannot be used again: the next bytes on it are the body's."""
    if scope.get(BODY_READ):
        return False
    headers = Headers(scope=scope)
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


def _body_comes(scope: Scope) -> bool:
    return "expect" not in Headers(scope=scope)


async def _discard_body(receive: Receive) -> None:
    """Wait until the client has sent what it is sending, the answer being on its way already.

    A connection that is closed over bytes that nobody read is reset, and a reset takes the
    answer from a client that has not read it yet (RFC 9112, section 9.6).
    """
    try:
        async with asyncio.timeout(_LINGER_S):
            while (await receive()).get("more_body", False):
                pass
    except TimeoutError:
        return
