"""What a peer serves and how, to and from the command line of its process."""

import argparse
import ipaddress
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from math import inf
from typing import Any, Self

from superserve.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerSettings:
    """Milliseconds appear because people type them; several devices or modules are separated by
    commas. Raises `ConfigError` for what cannot be.
    """

    supernet: str = "digits"
    subnet: str = "largest"  # smallest, largest, or an id of the accuracy card
    checkpoint: str = ""  # these three as in `superserve.config.Config`
    accuracy_card: str = ""
    plugins: str = ""
    devices: str = "cpu"  # the workers take them in turn
    threads: int = 1  # of each worker
    workers: int = 1  # processes with the model
    max_batch: int = 16
    batch_wait_ms: float = 2.0  # that a batch which is not full waits for more
    timeout_s: float = 30.0  # after which the server gives a query up, in its own way

    def __post_init__(self) -> None:
        for name in ("threads", "workers", "max_batch", "timeout_s"):
            if not 0 < getattr(self, name) < inf:
                raise ConfigError(f"{name} must be positive and finite, not {getattr(self, name)}")
        if not 0 <= self.batch_wait_ms < inf:
            raise ConfigError(
                f"batch_wait_ms must be finite and not negative: {self.batch_wait_ms}"
            )

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Of texts, numbers and lists of texts; raises `ConfigError` for an unknown name too."""
        known: dict[str, Callable[[str], Any]] = {f.name: type(f.default) for f in fields(cls)}
        chosen = {}
        for name, value in values.items():
            if name not in known:
                raise ConfigError(f"peers have no setting {name!r}, only {', '.join(known)}")
            text = str(value) if isinstance(value, str | int | float) else ",".join(value)
            try:
                chosen[name] = known[name](text)
            except ValueError as error:
                raise ConfigError(f"{name} cannot be {text!r}") from error
        return cls(**chosen)

    def device(self, worker: int) -> str:
        """Of this worker, counted from 0."""
        names = self.devices.split(",")
        return names[worker % len(names)].strip()

    def arguments(self) -> list[str]:
        """All of them, as `from_arguments` reads them."""
        line: list[str] = []
        for field in fields(self):
            line += [_flag(field.name), str(getattr(self, field.name))]
        return line

    @classmethod
    def from_arguments(cls, line: Sequence[str]) -> tuple[Self, str, int]:
        """Settings, host and port; raises `ConfigError` for a host that others can reach."""
        parser = argparse.ArgumentParser(description="A model server for comparison.")
        parser.add_argument("--host", default="127.0.0.1")
        parser.add_argument("--port", type=int, required=True)
        for field in fields(cls):
            parser.add_argument(_flag(field.name), default=field.default)
        found = vars(parser.parse_args(line))
        host, port = found.pop("host"), found.pop("port")
        if not _is_loopback(host):
            raise ConfigError(f"peers listen on this machine alone: {host} is no loopback address")
        return cls.of(found), host, port


DEFAULTS = PeerSettings()


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
