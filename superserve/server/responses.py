"""How answers and errors become HTTP: one JSON form for every error, wherever it was raised."""

import math
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from superserve.errors import SuperServeError

REQUEST_ID = "superserve.request_id"  # keys of an ASGI scope
BODY_READ = "superserve.body_read"

# Where the load is to blame but nobody computed a time, asking again at once helps nobody.
_DEFAULT_RETRY_AFTER = 1.0


def json_bytes(content: Any) -> bytes:
    """Records, lists and dicts as JSON; keys may be numbers."""
    return orjson.dumps(content, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY)


def json_response(
    content: Any, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    return Response(json_bytes(content), status, headers, "application/json")


def request_id(scope: Scope) -> str:
    identity: str = scope.get(REQUEST_ID, "")
    return identity


def error_fields(error: SuperServeError) -> dict[str, Any]:
    """What a client is told. A message with status 500 is for the log alone."""
    message = error.message
    if error.status == 500:
        message = "the server failed on this request; its log tells why, under the request id"
    fields: dict[str, Any] = {"error": message, "code": error.code}
    if error.status == 503:
        fields["retry_after_s"] = _retry_after(error)
    return fields


def error_headers(error: SuperServeError) -> dict[str, str]:
    if error.status != 503:
        return {}
    return {"retry-after": str(max(1, math.ceil(_retry_after(error))))}


def error_response(
    request: Request, error: SuperServeError, extra: dict[str, Any] | None = None
) -> Response:
    """``extra`` stands in the same JSON object, beside the error."""
    content = {**error_fields(error), "request_id": request_id(request.scope), **(extra or {})}
    return json_response(content, error.status, error_headers(error))


def _retry_after(error: SuperServeError) -> float:
    return _DEFAULT_RETRY_AFTER if error.retry_after is None else max(error.retry_after, 0.0)
