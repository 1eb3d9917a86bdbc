"""Latency profiles on disk, and how one becomes the table that policies plan with. No torch."""

import json
import os
import platform
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from policies.types import Profile
from superserve.errors import ConfigError
from superserve.messages import ModelInfo

FORMAT = "superserve.latency/1"
DEFAULT_BATCH_SIZES = (1, 2, 4, 8, 16)
_PACKAGES = ("superserve", "torch", "numpy")


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds that one (subnet, batch size) took on the device, and over how many runs."""

    p50: float
    p99: float
    runs: int


@dataclass(frozen=True, slots=True)
class LatencyProfile:
    """What was measured of one supernet on one device.

    It is bound to the weights (their hash without the statistics), the device and the software:
    with any of these changed the figures mean nothing.
    """

    model: ModelInfo
    device_type: str
    device_name: str
    threads: int
    versions: dict[str, str]
    quick: bool
    created: str  # ISO 8601, UTC
    latencies: dict[str, dict[int, Latency]]  # subnet id -> batch size -> latency

    def write(self, path: Path) -> None:
        document = {"format": FORMAT, **asdict(self)}
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(document, indent=1) + "\n")
        partial.replace(path)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises `ConfigError` for a file that is no latency profile."""
        try:
            document: dict[str, Any] = json.loads(path.read_text())
            if document.pop("format") != FORMAT:
                raise ValueError(f"its format is not {FORMAT}")
            model = ModelInfo.from_json(document.pop("model"))
            latencies = {
                subnet: {int(batch): Latency(**cell) for batch, cell in row.items()}
                for subnet, row in document.pop("latencies").items()
            }
            return cls(model=model, latencies=latencies, **document)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigError(f"{path} is no latency profile: {error}") from error

    def why_not(self, model: ModelInfo, device_type: str, threads: int) -> str | None:
        """Why this profile does not describe these weights on this device, or None if it does."""
        name = device_name(device_type)
        if self.model.name != model.name or self.model.weights_hash != model.weights_hash:
            return f"it is of other weights ({self.model.name} {self.model.weights_hash[:8]})"
        if (self.device_type, self.device_name) != (device_type, name):
            return f"it was measured on another device ({self.device_name}, here: {name})"
        if self.model.kernels != model.kernels:
            return f"it was measured with other kernels ({self.model.kernels}; now {model.kernels})"
        if self.threads != threads:
            return f"it was measured with {self.threads} threads per worker, not {threads}"
        changed = {k: v for k, v in versions().items() if self.versions.get(k) != v}
        if changed:
            then = ", ".join(f"{k} {self.versions.get(k)} (now {v})" for k, v in changed.items())
            return f"it was measured with other software: {then}"
        missing = [subnet for subnet in model.subnets if subnet not in self.latencies]
        return f"it lacks the subnets {', '.join(missing)}" if missing else None

    def join(self, accuracies: Mapping[str, float], margin: float) -> Profile:
        """The table that policies plan with: p99 plus ``margin`` seconds, Pareto-filtered.

        A larger batch is never planned to be quicker than a smaller one, whatever was measured.
        """
        rows = []
        for subnet, accuracy in accuracies.items():
            planned, row = 0.0, {}
            for batch, cell in sorted(self.latencies[subnet].items()):
                planned = max(planned, cell.p99)
                row[batch] = planned + margin
            rows.append((subnet, accuracy, row))
        return Profile.from_table(rows).pareto()


def versions() -> dict[str, str]:
    """The software that latencies depend on; read from metadata, nothing is imported."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    found["cpu ops"] = "compiled" if _ops_are_compiled() else "torch"
    return found


def _ops_are_compiled() -> bool:
    """Whether the installation could build `kernels.native`; it is looked for, not imported."""
    found = find_spec("kernels")
    folders = [] if found is None else found.submodule_search_locations or []
    return any(list(Path(folder, "native").glob("_cpu*.so")) for folder in folders)


def device_name(device_type: str) -> str:
    """A CPU's model name; the names of other device types say what they are."""
    if device_type != "cpu":
        return device_type
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    found = re.search(r"model name\s*:\s*(.+)", text)
    return found.group(1).strip() if found else platform.machine()


def cache_folder() -> Path:
    """Where profiles lie: $SUPERSERVE_CACHE, else superserve/ in the user's cache folder."""
    own = os.environ.get("SUPERSERVE_CACHE")
    if own:
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "superserve"


def profile_path(model: ModelInfo, device_type: str, threads: int) -> Path:
    """The file of this supernet on this device in the cache, under these kernels."""
    device, kernels = _slug(device_name(device_type)), _slug(model.kernels)
    parts = (model.name, model.weights_hash[:12], device, kernels, f"{threads}t")
    return cache_folder() / "profiles" / f"{'-'.join(filter(None, parts))}.json"


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-").lower()


def now_utc() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
