"""What a run sends, worked out from its options and from what the server says of itself."""

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from loadtest.arrivals import Times
from loadtest.client import Payload
from loadtest.connections import Target
from loadtest.locusts.images import blank_image, blank_pixels, read_images
from loadtest.locusts.messages import Shard, cut
from loadtest.locusts.options import RunOptions
from loadtest.records import Header
from loadtest.workloads import describe, make_arrivals
from superserve.api import ModelDescription
from superserve.client import Client
from superserve.errors import ConfigError


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """One run against one server."""

    options: RunOptions
    url: str
    model: str
    policy: str
    arrivals: Times  # [queries], seconds from the start
    payloads: tuple[Payload, ...]
    target: Target
    label: str  # of the workload

    def shards(self, run: int, count: int) -> tuple[Shard, ...]:
        """One for each of ``count`` workers."""
        options = self.options
        whole = Shard(
            run, 0, 1, self.arrivals, self.payloads, self.target,
            options.slo, options.timeout, options.connections,
        )  # fmt: skip
        return cut(whole, count)

    def header(self, **found: Any) -> Header:
        """What the run can be repeated from, and what was ``found``."""
        options = self.options
        config = {
            "tool": f"locust {version('locust')}, open loop",
            "url": self.url,
            "model": self.model,
            "policy": self.policy,
            "policy_options": dict(options.policy_options),
            "workload": dict(options.workload),
            "workload_label": self.label,
            "queries": len(self.arrivals),
            "slo": options.slo,
            "timeout": options.timeout,
            "min_accuracy": options.min_accuracy,
            "images": len(self.payloads),
            "pixels": options.pixels,
            "labelled_images": sum(payload.label is not None for payload in self.payloads),
            **found,
        }
        return Header.of(options.seed, config)


def make_plan(options: RunOptions, url: str, images: Path | None, client: Client) -> Plan:
    """Ask the server at ``url`` what it serves, and set its policy if the options name one.

    Raises `ConfigError` for what cannot be sent, and what `client` raises.
    """
    try:
        arrivals = make_arrivals(options.workload, options.seed)
        label = describe(options.workload)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if not len(arrivals):
        raise ConfigError(f"no query arrives in the workload {label}")
    model = _model(client.models(), options.model)
    if options.pixels and images is not None:
        raise ConfigError("--pixels sends grey pixels: leave out --images")
    payloads = _payloads(options, images, model)
    asked = {"slo_ms": f"{options.slo * 1000:g}", "top_k": "1", "model": model.name}
    if options.pixels:
        asked["format"] = "pixels"
    if options.min_accuracy is not None:
        asked["min_accuracy"] = f"{options.min_accuracy:g}"
    try:
        target = Target.at(url, f"/v1/classify?{urlencode(asked)}")
    except ValueError as error:
        raise ConfigError(f"--host: {error}") from error
    policy = (
        client.set_policy(options.policy, **options.policy_options)
        if options.policy
        else client.policy()
    )
    return Plan(options, url, model.name, policy.policy, arrivals, payloads, target, label)


def _payloads(
    options: RunOptions, images: Path | None, model: ModelDescription
) -> tuple[Payload, ...]:
    size = model.input
    if options.pixels:
        return (blank_pixels(size.height, size.width, size.channels),)
    if images is None:
        return (blank_image(size.height, size.width),)
    return read_images(images, model.labels, options.image_count, options.seed)


def _model(models: tuple[ModelDescription, ...], name: str) -> ModelDescription:
    found = [model for model in models if name in {"", model.name}]
    if not found:
        served = ", ".join(model.name for model in models)
        raise ConfigError(f"the server has no model {name!r}, only {served}")
    return found[0]
