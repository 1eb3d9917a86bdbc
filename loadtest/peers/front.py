"""The part of our HTTP API that a peer speaks, apart from how its server is told of it."""

import time
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response

from loadtest.peers.model import Described, Query, Reply
from policies.types import Profile
from superserve.api import (
    InputSize,
    ModelDescription,
    ModelList,
    PolicyDescription,
    SubnetDescription,
)  # fmt: skip
from superserve.config import DEFAULTS
from superserve.server.parameters import SLO_HEADER, parse_parameters
from superserve.server.responses import json_bytes

CLASSIFY = "/v1/classify"
READY = "/health/ready"


class Front:
    """Reads requests, and holds the answers that never change."""

    def __init__(self, described: Described, policy: str) -> None:
        info = described.info
        self._config = replace(DEFAULTS, supernet=info.name)
        self._models = {info.name: info}
        self._profiles = {
            info.name: Profile.from_table(
                (subnet, accuracy, described.latencies)
                for subnet, accuracy in info.accuracies.items()
            )
        }
        self.documents = {  # path -> JSON
            READY: json_bytes({"ready": True}),
            "/v1/models": json_bytes(ModelList((_description(described),))),
            "/v1/policy": json_bytes(PolicyDescription(policy, (policy,))),
        }

    async def read(self, request: Request) -> Query:
        """One image, the body itself; the parameters are checked as our server checks them.

        ``min_accuracy`` and ``priority`` change nothing. Raises `SuperServeError`.
        """
        arrival = time.monotonic()
        parameters = parse_parameters(
            request.scope["query_string"].decode("latin-1"),
            request.headers.get(SLO_HEADER),
            config=self._config,
            models=self._models,
            profiles=self._profiles,
        )
        return Query(await request.body(), arrival, parameters.slo, parameters.top_k)


def to_response(reply: Reply) -> Response:
    return Response(reply.body, reply.status, media_type="application/json")


def _description(described: Described) -> ModelDescription:
    info = described.info
    steps = info.preprocessing
    milliseconds = {size: round(s * 1000, 4) for size, s in described.latencies.items()}
    return ModelDescription(
        name=info.name,
        labels=info.labels,
        input=InputSize(steps.height, steps.width, steps.channels),
        weights_hash=info.weights_hash,
        resident_bytes=info.resident_bytes,
        subnets=tuple(
            SubnetDescription(subnet, settings, info.accuracies[subnet], milliseconds)
            for subnet, settings in info.subnets.items()
        ),
        memory=info.memory,
        kernels=info.kernels,
    )
