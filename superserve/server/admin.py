"""The routes for people and probes: models, policy, statistics, health, and the landing page."""

import ipaddress
from typing import Any

import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response

from policies import POLICIES, load_policy
from superserve.api import (
    InputSize,
    ModelDescription,
    ModelList,
    PolicyDescription,
    SubnetDescription,
)
from superserve.errors import BadParameter, Forbidden, NotReady
from superserve.messages import ModelInfo
from superserve.server.front_end import FrontEnd
from superserve.server.openapi import ERRORS, POLICY_BODY, READY, STATS
from superserve.server.responses import error_response, json_response
from superserve.worker_board import WorkerStatus

router = APIRouter()

# Whoever passes requests on says so in one of these; the client is then not the peer we see.
_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip", "via")


@router.get("/", include_in_schema=False)
async def landing() -> Response:
    return json_response({
        "service": "superserve",
        "classify": "POST an image: curl --data-binary @image.jpg '/v1/classify?slo_ms=100'",
        "links": ["/docs", "/openapi.json", "/v1/models", "/v1/policy", "/v1/stats",
                  "/health/live", "/health/ready"],
    })  # fmt: skip


@router.get("/v1/models", tags=["models"], summary="The models, their labels and their subnets")
async def models(request: Request) -> ModelList:
    front_end = FrontEnd.of(request.app)
    return ModelList(
        tuple(_describe(front_end, info) for info in front_end.dispatcher.models.values())
    )


@router.get("/v1/policy", tags=["policy"], summary="The policy that chooses subnet and batch size")
async def policy(request: Request) -> PolicyDescription:
    return PolicyDescription(
        FrontEnd.of(request.app).dispatcher.policy_name, tuple(sorted(POLICIES))
    )


@router.put(
    "/v1/policy",
    tags=["policy"],
    summary="Change the policy, from the next decision on",
    description="Only clients on the server's own machine may do this.",
    openapi_extra=POLICY_BODY,
    responses={status: ERRORS[status] for status in (400, 403, 408, 413, 415)},
)
async def change_policy(request: Request) -> PolicyDescription:
    """The name must be one of ours: a path to a class is code, and only the operator loads code."""
    if not _is_local(request):
        raise Forbidden("the policy is changed from the server's own machine only")
    front_end = FrontEnd.of(request.app)
    body = await front_end.bodies.read(request)
    try:
        name, options = _policy_change(body)
    finally:
        front_end.bodies.release(body)
    try:
        make_policy = load_policy(name, options)
        for profile in front_end.profiles.values():
            make_policy(profile)
    except ValueError as error:
        raise BadParameter(f"the policy {name} refuses these options: {error}") from error
    front_end.dispatcher.set_policy(make_policy, name)
    return await policy(request)


@router.get("/v1/stats", tags=["models"], summary="Counters, workers and policy", responses=STATS)
async def stats(request: Request) -> Response:
    front_end = FrontEnd.of(request.app)
    dispatcher = front_end.dispatcher
    return json_response(
        {
            "policy": dispatcher.policy_name,
            "ready": front_end.not_ready_reason() is None,
            "in_flight": len(front_end.in_flight),
            "workers": [_worker(status) for status in dispatcher.workers],
            "metrics": dispatcher.metrics.snapshot(),
        }
    )


@router.get("/health/live", tags=["health"], summary="The process answers")
async def live() -> dict[str, bool]:
    return {"live": True}


@router.get("/health/ready", tags=["health"], summary="Requests are welcome", responses=READY)
async def ready(request: Request) -> Response:
    reason = FrontEnd.of(request.app).not_ready_reason()
    if reason is None:
        return json_response({"ready": True})
    return error_response(request, NotReady(reason), {"ready": False})


def _worker(status: WorkerStatus) -> dict[str, Any]:
    """In the form of the record, but without the labels of every model."""
    info = status.info
    return {
        "info": {
            "name": info.name,
            "device": info.device,
            "device_type": info.device_type,
            "models": [model.name for model in info.models],
            "kernels": {model.name: model.kernels for model in info.models},
        },
        "connected": status.connected,
        "in_flight": status.in_flight,
        "losses": status.losses,
    }


def _describe(front_end: FrontEnd, info: ModelInfo) -> ModelDescription:
    profile = front_end.profiles[info.name]
    steps = info.preprocessing
    return ModelDescription(
        name=info.name,
        labels=info.labels,
        input=InputSize(steps.height, steps.width, steps.channels),
        weights_hash=info.weights_hash,
        resident_bytes=info.resident_bytes,
        subnets=tuple(
            SubnetDescription(
                id=subnet,
                settings=info.subnets.get(subnet, subnet),
                accuracy=profile.accuracy(subnet),
                latency_ms={
                    batch: round(profile.latency(subnet, batch) * 1000, 4)
                    for batch in profile.batch_sizes
                },
            )
            for subnet in profile.subnets
        ),
        memory=info.memory,
        kernels=info.kernels,
    )


def _policy_change(body: bytes) -> tuple[str, dict[str, str]]:
    """The name and options of a PUT's body; raises `BadParameter` if it is not of that form."""
    try:
        change: Any = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadParameter(f"the body is not JSON: {error}") from error
    if not isinstance(change, dict) or not set(change) <= {"policy", "options"}:
        raise BadParameter('the body must be like {"policy": "slackfit", "options": {}}')
    name, options = change.get("policy"), change.get("options", {})
    if not isinstance(name, str) or name not in POLICIES:
        raise BadParameter(f"policy must be one of {', '.join(sorted(POLICIES))}")
    if not isinstance(options, dict):
        raise BadParameter('options must be an object, like {"subnet": "smallest"}')
    return name, {key: _as_text(value) for key, value in options.items()}


def _as_text(value: Any) -> str:
    """Options are text everywhere else, and `load_policy` converts them from it."""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _is_local(request: Request) -> bool:
    if request.client is None or any(name in request.headers for name in _FORWARDED):
        return False
    try:
        address = ipaddress.ip_address(request.client.host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
