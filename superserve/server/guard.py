"""The outermost layer: gives every request an id, and answers what nobody else answered."""

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
        started = False

        async def send_marked(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message["headers"], (b"x-request-id", identity)]
                if message["status"] >= 400 and _body_is_unread(scope):
                    message["headers"].append((b"connection", b"close"))
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
