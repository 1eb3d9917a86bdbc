"""What /docs shows: FastAPI describes its own routes, the hot one is described here by hand."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter

from superserve.api import Classification
from superserve.config import Config
from superserve.server.parameters import DEFAULT_TOP_K, FORMATS, MAX_PRIORITY

_REF = "#/components/schemas/"

_EXAMPLE = {
    "predictions": [
        {"label": "7", "index": 7, "score": 0.982103},
        {"label": "9", "index": 9, "score": 0.011702},
    ],
    "subnet": "d2-w32",
    "accuracy": 97.1,
    "deadline_met": True,
    "timing_ms": {"queue": 0.412, "inference": 1.873, "total": 3.215},
    "batch_size": 4,
    "model": "digits",
}

_ERROR_SCHEMA = {
    "type": "object",
    "required": ["error", "code", "request_id"],
    "properties": {
        "error": {"type": "string", "description": "For people: what is wrong and what to do."},
        "code": {"type": "string", "description": "For programs: short and stable."},
        "request_id": {"type": "string", "description": "Also in the header X-Request-Id."},
        "retry_after_s": {"type": "number", "description": "Seconds; with status 503 only."},
    },
}


def _error(description: str, code: str, message: str, **more: Any) -> dict[str, Any]:
    example = {"error": message, "code": code, **more, "request_id": "5f2b9c1e8d3a4c67"}
    content = {"schema": {"$ref": f"{_REF}Error"}, "example": example}
    return {"description": description, "content": {"application/json": content}}


ERRORS: dict[int | str, dict[str, Any]] = {
    400: _error(
        "A parameter or the image is wrong",
        "bad_parameter",
        "slo_ms must be a number above 0 and at most 60000 (milliseconds), not 'fast'",
    ),
    403: _error(
        "Not from this machine",
        "forbidden",
        "the policy is changed from the server's own machine only",
    ),
    404: _error("No such model", "not_found", "there is no model 'x'; this server has digits"),
    408: _error(
        "The body came too slowly",
        "request_timeout",
        "the body did not arrive within 15 s; send it faster",
    ),
    413: _error(
        "Too many bytes, pixels or images",
        "image_too_large",
        "60000 x 60000 pixels are above the limit of 24000000; send a smaller image",
    ),
    415: _error(
        "Not a JPEG, PNG or WebP, or compressed",
        "unsupported_image",
        "this is not an image that can be read here: send the bytes of a JPEG, PNG or WebP file",
    ),
    500: _error(
        "A bug or a broken worker",
        "internal_error",
        "the server failed on this request; its log tells why, under the request id",
    ),
    503: _error(
        "Too much load, no worker, or shutting down; the header Retry-After says when to ask again",
        "overloaded",
        "all slots are taken; ask again",
        retry_after_s=0.24,
    ),
    504: _error(
        "No answer was possible by the deadline",
        "deadline_exceeded",
        "no subnet can answer by the deadline any more",
    ),
}

POLICY_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["policy"],
                    "properties": {
                        "policy": {"type": "string"},
                        "options": {"type": "object", "additionalProperties": True},
                    },
                },
                "example": {"policy": "fixed", "options": {"subnet": "smallest"}},
            }
        },
    }
}

READY: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/json": {"example": {"ready": True}}}},
    503: _error("Not now", "not_ready", "no worker is ready yet", retry_after_s=1.0, ready=False),
}

STATS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Counters since the start; rates are differences of two answers.",
        "content": {"application/json": {"schema": {"type": "object"}}},
    }
}


def describe(app: FastAPI, config: Config) -> None:
    """Let ``app.openapi`` tell of the routes that FastAPI does not know as well."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
            )
            document["paths"]["/v1/classify"] = {"post": _classify(config)}
            schema = TypeAdapter(Classification).json_schema(ref_template=_REF + "{model}")
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            schemas.update(schema.pop("$defs", {}))
            schemas.update({"Classification": schema, "Error": _ERROR_SCHEMA})
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _classify(config: Config) -> dict[str, Any]:
    binary = {"schema": {"type": "string", "format": "binary"}}
    files = {"type": "array", "items": {"type": "string", "format": "binary"}}
    entry = {"oneOf": [{"$ref": f"{_REF}Classification"}, {"$ref": f"{_REF}Error"}]}
    several = {
        "type": "object",
        "required": ["results"],
        "properties": {"results": {"type": "array", "items": entry}},
    }
    milliseconds = {
        "type": "number",
        "exclusiveMinimum": 0,
        "maximum": config.max_slo_ms,
        "default": config.slo_ms,
    }
    number, whole = {"type": "number", "minimum": 0}, {"type": "integer", "minimum": 1}
    return {
        "tags": ["classify"],
        "summary": "Classify one image, or several",
        "description": (
            "Send the bytes of a JPEG, PNG or WebP file as the body: "
            "`curl --data-binary @cat.jpg 'http://127.0.0.1:8000/v1/classify?slo_ms=36'`. "
            "Several images go as files of one multipart form; each is a query of its own, and "
            "the answer lists one result or error per image, in order."
        ),
        "operationId": "classify",
        "parameters": [
            _parameter("slo_ms", milliseconds, "Answer within this time of the request's arrival."),
            _parameter("top_k", {**whole, "default": DEFAULT_TOP_K}, "How many predictions."),
            _parameter("min_accuracy", {**number, "default": 0}, "Percent, of the subnet."),
            _parameter("model", {"type": "string"}, "One of those in /v1/models."),
            _parameter(
                "priority",
                {"type": "integer", "minimum": 0, "maximum": MAX_PRIORITY, "default": 0},
                "For policies that weigh it.",
            ),
            _parameter(
                "format",
                {"type": "string", "enum": list(FORMATS), "default": FORMATS[0]},
                "pixels: the body is what the network takes, uint8 [H, W, C], and not a file.",
            ),
            {
                "name": "X-SLO-Ms",
                "in": "header",
                "required": False,
                "schema": milliseconds,
                "description": "The same as slo_ms, which is stronger.",
            },
        ],
        "requestBody": {
            "required": True,
            "content": {
                "image/jpeg": binary,
                "image/png": binary,
                "image/webp": binary,
                "application/octet-stream": binary,
                "multipart/form-data": {
                    "schema": {"type": "object", "properties": {"image": files}}
                },
            },
        },
        "responses": {
            "200": {
                "description": "The answer; for several images, one entry for each of them",
                "content": {
                    "application/json": {
                        "schema": {"oneOf": [{"$ref": f"{_REF}Classification"}, several]},
                        "examples": {
                            "one image": {"value": _EXAMPLE},
                            "several images": {
                                "value": {
                                    "results": [
                                        _EXAMPLE,
                                        {
                                            "error": "the JPEG is broken or cut off; "
                                            "send the whole file",
                                            "code": "bad_image",
                                            "status": 400,
                                        },
                                    ]
                                }
                            },
                        },
                    }
                },
            },
            **{str(status): response for status, response in ERRORS.items() if status != 403},
        },
    }


def _parameter(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": "query",
        "required": False,
        "schema": schema,
        "description": description,
    }
