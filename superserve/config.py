"""The one source of every default: command line over environment over TOML file over default."""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from math import inf
from pathlib import Path
from typing import Any, Literal

from superserve.errors import ConfigError

ENVIRONMENT_PREFIX = "SUPERSERVE_"
# Variables of ours that are no settings of a server: where profiles are cached, where traces lie.
NOT_SETTINGS = {"SUPERSERVE_CACHE", "SUPERSERVE_TRACES"}


@dataclass(frozen=True, slots=True)
class Config:
    """How one server runs. Milliseconds appear here because this is an edge: people type them."""

    supernet: str = "digits"
    checkpoint: str = ""  # a safetensors file; empty = the one that the supernet ships
    accuracy_card: str = ""  # empty = the card beside the checkpoint
    latency_profile: str = ""  # a file of `superserve profile`; empty = the one in the cache
    plugins: tuple[str, ...] = ()  # modules to import first: they register supernets
    policy: str = "default"  # a name in POLICIES, or package.module:Class
    policy_options: tuple[str, ...] = ()  # "key=value", passed to the policy's constructor
    host: str = "127.0.0.1"
    port: int = 8000
    devices: tuple[str, ...] = ("cpu",)  # one worker each: cpu, cuda:0, emulated
    threads: int = 1  # of each CPU worker
    credits: int = 1  # dispatches that a worker may hold; 2 overlaps transfer with computation
    slo_ms: float = 100.0  # of a request that names none
    max_slo_ms: float = 60_000.0
    late: Literal["drop", "serve"] = "drop"  # what becomes of a query that can no longer be on time
    margin_ms: float = 1.0  # planned on top of the profiled p99: queueing, transfer, answer
    # Share of a query's time that policies may not plan with: batches take longer than profiled
    # when the cores are shared, and an answer takes time to reach the client.
    reserve: float = 0.35
    slots: int = 1024  # images in the server at once; one more is answered 503
    max_body_bytes: int = 16 * 2**20
    max_upload_bytes: int = 512 * 2**20  # of all bodies in the server; one more is answered 503
    max_pixels: int = 24_000_000
    max_images: int = 64  # in one request
    body_timeout_s: float = 15.0  # for the headers of a request, and again for its body
    decode_threads: int = 1
    drain_s: float = 10.0  # after SIGTERM
    worker_start_s: float = 120.0
    worker_hang_s: float = 10.0  # a dispatch that is this late means the worker hangs
    kernels: Literal["auto", "triton", "torch"] = "auto"  # what runs the subnets on a device
    # extracted: each subnet a model of its own, loaded from a file when it is asked for
    worker: Literal["resident", "extracted"] = "resident"
    resident_models: int = 1  # how many of those fit in a worker's memory; 0 means 1 as well
    allow_uncalibrated: bool = False
    journal: str = (
        ""  # a file for what was decided and when, see `superserve.journal`; empty = none
    )
    log_level: str = "info"

    def __post_init__(self) -> None:
        positive = ("threads", "credits", "slo_ms", "max_slo_ms", "slots", "max_body_bytes",
                    "max_upload_bytes", "max_pixels", "max_images", "body_timeout_s",
                    "decode_threads", "worker_start_s", "worker_hang_s")  # fmt: skip
        for name in positive:
            if not 0 < getattr(self, name) < inf:
                raise ConfigError(f"{name} must be positive and finite, not {getattr(self, name)}")
        for name in ("margin_ms", "drain_s"):
            if not 0 <= getattr(self, name) < inf:
                raise ConfigError(f"{name} must be finite and not negative: {getattr(self, name)}")
        if not 0 <= self.reserve < 1:
            raise ConfigError(f"reserve must be a share from 0 to below 1, not {self.reserve}")
        if not 0 <= self.port <= 65_535:
            raise ConfigError(f"port must be 0 to 65535, not {self.port}")
        if self.late not in {"drop", "serve"}:
            raise ConfigError(f"late must be drop or serve, not {self.late!r}")
        if self.kernels not in {"auto", "triton", "torch"}:
            raise ConfigError(f"kernels must be auto, triton or torch, not {self.kernels!r}")
        if self.worker not in {"resident", "extracted"}:
            raise ConfigError(f"worker must be resident or extracted, not {self.worker!r}")
        if self.resident_models < 0:
            raise ConfigError(f"resident_models must not be negative: {self.resident_models}")
        if self.worker == "extracted" and self.kernels == "triton":
            raise ConfigError("extracted subnets run on PyTorch's kernels: use --kernels auto")
        if self.worker == "extracted" and any(d.startswith("emulated") for d in self.devices):
            raise ConfigError("emulated workers load no models: use --worker resident")
        if self.slo_ms > self.max_slo_ms:
            raise ConfigError(f"slo_ms {self.slo_ms} is above max_slo_ms {self.max_slo_ms}")
        if self.max_upload_bytes < self.max_body_bytes:
            raise ConfigError("max_upload_bytes must be at least max_body_bytes: one body must fit")
        if not self.devices:
            raise ConfigError("devices must name at least one device, for example cpu")


DEFAULTS = Config()


def load_config(
    overrides: Mapping[str, Any] | None = None,
    *,
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Config:
    """Join the four sources; ``overrides`` come from the command line, None in them means unset.

    Raises `ConfigError` for an unknown key, a value of the wrong type or an unreadable file.
    """
    config = Config()
    if file is not None:
        try:
            table = tomllib.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot read the configuration {file}: {error}") from error
        config = _apply(config, table, f"the file {file}")
    environment = os.environ if environment is None else environment
    found = {
        key.removeprefix(ENVIRONMENT_PREFIX).lower(): value
        for key, value in environment.items()
        if key.startswith(ENVIRONMENT_PREFIX) and key not in NOT_SETTINGS
    }
    config = _apply(config, found, "the environment")
    given = {k: v for k, v in (overrides or {}).items() if v is not None}
    return _apply(config, given, "the command line")


def _apply(config: Config, values: Mapping[str, Any], source: str) -> Config:
    known = {f.name: f for f in fields(Config)}
    for key in values:
        if key not in known:
            raise ConfigError(
                f"{source} sets {key!r}, which is no setting; see superserve serve --help"
            )
    changed = {k: _convert(k, v, getattr(config, k), source) for k, v in values.items()}
    return replace(config, **changed)


def _convert(name: str, value: Any, default: Any, source: str) -> Any:
    """A value as the type of the field's default; text comes from the environment and the shell."""
    try:
        match default:
            case bool():
                if isinstance(value, bool):
                    return value
                return {"1": True, "true": True, "yes": True, "0": False, "false": False,
                        "no": False}[str(value).lower()]  # fmt: skip
            case tuple():
                parts = value.split(",") if isinstance(value, str) else value
                return tuple(str(part).strip() for part in parts if str(part).strip())
            case int():
                if isinstance(value, float) and value != int(value):
                    raise ValueError(value)
                return int(value)
            case float():
                return float(value)
            case _:
                return str(value)
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        kind = type(default).__name__
        raise ConfigError(f"{source} sets {name} to {value!r}, which is no {kind}") from error
