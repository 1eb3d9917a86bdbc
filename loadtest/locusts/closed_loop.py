"""Ordinary Locust users against a SuperServe server, as many as a workload's rate asks for.

``locust -f loadtest/locusts/closed_loop.py``. Not for figures: see `loadtest.locusts.shape`.
"""

import logging
from itertools import count
from pathlib import Path
from typing import ClassVar

from locust import FastHttpUser, constant_throughput, events, task
from locust.env import Environment

from loadtest.client import Payload
from loadtest.locusts.images import blank_image, read_images
from loadtest.locusts.options import add_options, read_options
from loadtest.locusts.shape import TraceShape
from superserve.client import Client

__all__ = ["ClosedLoopUser", "TraceShape"]

TraceShape.requests_per_user = 10.0  # of an ordinary user; fewer users than at one per second


class ClosedLoopUser(FastHttpUser):
    """Asks, waits for the answer, and pauses for the rest of its interval, if any is left."""

    host = "http://127.0.0.1:8000"
    wait_time = constant_throughput(TraceShape.requests_per_user)
    numbers: ClassVar = count()
    payloads: ClassVar[tuple[Payload, ...]] = ()
    slo: ClassVar[float] = 0.0

    @task
    def classify(self) -> None:
        payload = self.payloads[next(self.numbers) % len(self.payloads)]
        with self.client.post(
            f"/v1/classify?slo_ms={1000 * self.slo:g}&top_k=1",
            data=payload.body,  # type: ignore[arg-type]  # bytes are sent as they are
            name="/v1/classify",
            catch_response=True,
        ) as response:
            if response.request_meta["response_time"] > 1000 * self.slo:
                response.failure("late")


def prepare(environment: Environment, **_: object) -> None:
    """Once for all users of this process, before the first one."""
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells of every request
    typed = vars(environment.parsed_options)
    options = read_options(typed)
    with Client(environment.host or str(ClosedLoopUser.host)) as client:
        model = client.models()[0]
    ClosedLoopUser.slo = options.slo
    ClosedLoopUser.payloads = (
        read_images(Path(typed["images"]), model.labels, options.image_count, options.seed)
        if typed["images"]
        else (blank_image(model.input.height, model.input.width),)
    )


events.init_command_line_parser.add_listener(add_options)
events.test_start.add_listener(prepare)
