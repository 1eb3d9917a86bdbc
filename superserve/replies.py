"""What a client makes of the server's answers: records, or the exceptions that the server meant."""

from collections.abc import Iterator
from typing import Any

import httpx
from pydantic import TypeAdapter

from superserve.api import Classification, ModelDescription, ModelList, PolicyDescription
from superserve.errors import (
    BadImage,
    ClientError,
    DeadlineExceeded,
    ImageTooLarge,
    InternalError,
    Overloaded,
    SuperServeError,
    Unreachable,
    UnsupportedImage,
)

_CLASSIFICATION = TypeAdapter(Classification)
_MODELS = TypeAdapter(ModelList)
_POLICY = TypeAdapter(PolicyDescription)

# What may become of one image while the request around it is fine.
_OF_ONE_IMAGE = (
    BadImage, UnsupportedImage, ImageTooLarge, Overloaded, DeadlineExceeded, InternalError,
)  # fmt: skip


def read_classification(response: httpx.Response) -> Classification:
    return _CLASSIFICATION.validate_python(_success(response))


def read_classifications(
    response: httpx.Response, images: int
) -> list[Classification | SuperServeError]:
    """One outcome per image, also where all failed; raises if the whole request was refused."""
    if images == 1:
        # The server answers one image in the simple form, even in a list.
        try:
            return [read_classification(response)]
        except _OF_ONE_IMAGE as error:
            return [error]
    fields = _json(response)
    if "results" not in fields:
        fields = _success(response)
    return [
        _error(entry, entry["status"])
        if "error" in entry
        else _CLASSIFICATION.validate_python(entry)
        for entry in fields["results"]
    ]


def read_models(response: httpx.Response) -> tuple[ModelDescription, ...]:
    return _MODELS.validate_python(_success(response)).models


def read_policy(response: httpx.Response) -> PolicyDescription:
    return _POLICY.validate_python(_success(response))


def read_health(response: httpx.Response) -> bool:
    return response.is_success


def _success(response: httpx.Response) -> dict[str, Any]:
    fields = _json(response)
    if response.is_success:
        return fields
    raise _error(fields, response.status_code)


def _json(response: httpx.Response) -> dict[str, Any]:
    try:
        fields = response.json()
    except ValueError:
        fields = None
    if isinstance(fields, dict):
        return fields
    # A proxy in between, or somebody else's server.
    raise Unreachable(
        f"{response.url} answered with status {response.status_code} and no JSON: "
        "is this a superserve server?"
    )


def _error(fields: dict[str, Any], status: int) -> SuperServeError:
    """The exception of this code, or of this status where the server knows codes that we do not."""
    fallback = {503: Overloaded, 504: DeadlineExceeded}.get(
        status, ClientError if 400 <= status < 500 else InternalError
    )
    kind = _KINDS.get(str(fields.get("code")), fallback)
    error = kind(str(fields.get("error")), retry_after=fields.get("retry_after_s"))
    if "request_id" in fields:
        error.add_note(f"request id: {fields['request_id']}")
    return error


def _kinds(root: type[SuperServeError]) -> Iterator[type[SuperServeError]]:
    for kind in root.__subclasses__():
        yield kind
        yield from _kinds(kind)


_KINDS = {kind.code: kind for kind in _kinds(SuperServeError)}
