"""What a live experiment is: a study, the server that it runs on, the load, the competitors."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from loadtest.compare.study import Cell, PolicySpec, Serving, Study, WorkloadSpec
from loadtest.workloads import describe, scaled
from policies.types import Profile
from superserve.config import DEFAULTS
from superserve.errors import ConfigError

EMULATED = "emulated"
PAPER = "paper"  # the profile of the paper's CNNs, for emulated workers

Unit = Literal["queries/s", "largest", "smallest"]


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """The server that all policies share.

    ``devices`` and ``settings`` are those of `Config`. ``profile`` names a latency profile, is
    `PAPER`, or is empty: then it is measured before the first run, for ``profile_seconds``.
    ``slowdown`` stretches the latencies that emulated workers wait.
    """

    supernet: str = DEFAULTS.supernet
    devices: tuple[str, ...] = DEFAULTS.devices
    profile: str = ""
    profile_seconds: float = 60.0
    slowdown: float = 1.0
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def emulated(self) -> bool:
        return self.devices[0].startswith(EMULATED)

    @property
    def workers(self) -> int:
        """How many; ``emulated:8`` is eight."""
        return sum(int(device.partition(":")[2] or 1) if device.startswith(EMULATED) else 1
                   for device in self.devices)  # fmt: skip


@dataclass(frozen=True, slots=True)
class LoadSpec:
    """How queries are sent; see `loadtest.locusts.run.LocustSettings`. ``timeout`` in seconds.

    An invalid run is made again, until it has been tried ``attempts`` times.
    """

    processes: int = 0
    connections: int = 512
    images: Path | None = None  # a folder; None: the held-out digits, where the supernet is that
    image_count: int = 2000
    pixels: bool = False  # raw grey ones in place of images
    timeout: float | None = None
    attempts: int = 3


@dataclass(frozen=True, slots=True)
class System:
    """What serves a policy's choices; see `Config.worker` and `Config.resident_models`."""

    worker: Literal["resident", "extracted"] = "resident"
    resident_models: int = 1


@dataclass(frozen=True, slots=True)
class PeerSpec:
    """Another server, with one fixed subnet ("smallest", "largest" or an id)."""

    name: str
    subnet: str
    label: str
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Experiment:
    """``unit`` is what the rates of the study's workloads are multiples of.

    With "largest" that is what the workers serve with the most accurate subnet in full batches, by
    the median latencies of the profile. ``systems`` are by the labels of the study's policies.
    With ``throughput`` it is also measured what each subnet alone sustains.
    """

    study: Study
    server: ServerSpec = ServerSpec()
    load: LoadSpec = LoadSpec()
    systems: Mapping[str, System] = field(default_factory=dict)
    peers: tuple[PeerSpec, ...] = ()
    unit: Unit = "queries/s"
    throughput: bool = False

    def __post_init__(self) -> None:
        labels = [policy.label for policy in self.study.policies]
        twice = [peer.label for peer in self.peers if peer.label in labels]
        if twice:
            raise ConfigError(f"policies and peers need labels of their own: {', '.join(twice)}")
        if self.server.emulated and (self.peers or any(map(_extracts, self.systems.values()))):
            raise ConfigError("emulated workers have no models: leave out peers and extracted ones")
        if self.server.slowdown != 1.0 and not self.server.emulated:
            raise ConfigError("slowdown is for emulated workers; others take the time they take")

    def system(self, label: str) -> System:
        return self.systems.get(label, System())

    @property
    def worker_kinds(self) -> tuple[str, ...]:
        """Those that need a profile."""
        return tuple(dict.fromkeys(self.system(p.label).worker for p in self.study.policies))

    def peer(self, label: str) -> PeerSpec | None:
        return next((peer for peer in self.peers if peer.label == label), None)

    @property
    def contest(self) -> Study:
        """The study with the peers among its policies, for tables and pictures."""
        named = tuple(PolicySpec(f"peer {p.name}", {}, p.label, Serving()) for p in self.peers)
        return replace(self.study, policies=(*self.study.policies, *named), bounds=False)

    def cells(self) -> Iterator[Cell]:
        """All live runs, so ordered that a machine that changes slowly harms all policies alike."""
        labels = [policy.label for policy in self.contest.policies]
        for seed in self.study.seeds:
            for setting in self.study.settings():
                yield from (Cell(setting, seed, label) for label in labels)

    def at_rates_of(self, profile: Profile) -> "Experiment":
        """With rates in queries per second; ``profile`` has median latencies."""
        if self.unit == "queries/s":
            return self
        subnet = profile.largest if self.unit == "largest" else profile.smallest
        rate = self.server.workers * profile.max_batch / profile.latency(subnet, profile.max_batch)
        workloads = tuple(_at(workload, rate) for workload in self.study.workloads)
        return replace(self, study=replace(self.study, workloads=workloads), unit="queries/s")


def _extracts(system: System) -> bool:
    return system.worker == "extracted"


def _at(workload: WorkloadSpec, unit: float) -> WorkloadSpec:
    try:
        spec = scaled(workload.spec, unit)
    except ValueError as error:
        raise ConfigError(f"workload {workload.label}: {error}") from error
    # A label made from multiples would name queries per second that are none.
    label = describe(spec) if workload.label == describe(workload.spec) else workload.label
    return replace(workload, spec=spec, label=label)
