"""What a comparison is: policies under workloads, on so many workers, from these seeds."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from math import inf
from pathlib import Path
from typing import Any, Literal, Self

from loadtest.paper_profile import PAPER_PROFILE
from loadtest.simulation_noise import Noise
from loadtest.simulation_workers import Fail, FleetEvent, Join, Restart, WorkerSpec
from loadtest.workloads import describe
from policies import POLICIES, load_policy
from policies.types import Profile
from superserve.errors import ConfigError
from superserve.profile_store import LatencyProfile

PAPER = "paper"  # the profile's name that needs no file
PENALTY = 100.0  # what a miss costs in the utility, in accuracy points

Slo = float | tuple[tuple[float, float], ...]  # seconds, or (seconds, share) pairs
Happening = tuple[float, Literal["fail", "restart", "join"], str]  # seconds, what, the worker


@dataclass(frozen=True, slots=True)
class Serving:
    """How the server and its workers are, beside the policy; times in seconds.

    ``reserve`` and ``late``: see `superserve.scheduler.Scheduler`. ``actuation``, ``loading`` (one
    time for every subnet, or by subnet) and ``resident``: see `Switching` of the simulator.
    ``margin`` is planned on top of the profile, but batches really take the profile.
    """

    reserve: float = 0.0
    late: Literal["drop", "serve"] = "drop"
    actuation: float = 0.0
    loading: float | Mapping[str, float] = 0.0
    resident: int = 1
    margin: float = 0.0


@dataclass(frozen=True, slots=True)
class Failures:
    """Which workers die and come back.

    Every ``every`` seconds the last one of those that are left dies, until ``left`` are; besides,
    there are ``events``.
    """

    every: float = inf
    left: int = 1
    events: tuple[Happening, ...] = ()

    def script(self, workers: int, seconds: float) -> list[FleetEvent]:
        """What happens to workers w0 to w(n-1) within ``seconds``, in order of time."""
        made: list[FleetEvent] = []
        for number, victim in enumerate(range(workers - 1, self.left - 1, -1), start=1):
            if number * self.every <= seconds:
                made.append(Fail(number * self.every, f"w{victim}"))
        for at, what, name in self.events:
            if what == "fail":
                made.append(Fail(at, name))
            else:
                made.append(Restart(at, name) if what == "restart" else Join(at, WorkerSpec(name)))
        return sorted(made, key=lambda event: event.at)


def fleet_sizes(workers: int, script: list[FleetEvent]) -> list[tuple[float, int]]:
    """How many workers live from each time on, as the bounds want it."""
    alive = {f"w{number}" for number in range(workers)}
    sizes = {0.0: len(alive)}
    for event in script:
        if isinstance(event, Fail):
            alive.discard(event.worker)
        else:
            alive.add(event.worker if isinstance(event, Restart) else event.worker.name)
        sizes[event.at] = len(alive)
    return sorted(sizes.items())


@dataclass(frozen=True, slots=True)
class PolicySpec:
    """A policy by name or ``package.module:Class``, with its options as text."""

    name: str
    options: Mapping[str, str] = field(default_factory=dict)
    label: str = ""
    serving: Serving = Serving()

    def __post_init__(self) -> None:
        if not self.label:
            name = self.name
            if name == "default":  # a name for whatever is best at the time: say what it is
                name = f"default ({POLICIES[name].__name__})"
            made = " ".join([name, *(f"{key}={value}" for key, value in self.options.items())])
            object.__setattr__(self, "label", made)


@dataclass(frozen=True, slots=True)
class WorkloadSpec:
    """A load, see `loadtest.workloads`, and what the queries and the workers go through under it.

    ``slo`` is for all queries or drawn for each. ``workers``, where given, replace the study's.
    ``tuned_on`` says that some policy's settings were chosen on this load; it is only reported.
    """

    spec: Mapping[str, Any]
    slo: Slo = 0.036
    noise: Noise | None = None
    failures: Failures | None = None
    workers: tuple[int, ...] = ()
    label: str = ""
    tuned_on: bool = False

    def __post_init__(self) -> None:
        if not self.label:
            object.__setattr__(self, "label", describe(self.spec))


@dataclass(frozen=True, slots=True, order=True)
class Setting:
    """A workload, by its label, on so many workers: what policies are compared in."""

    workload: str
    workers: int


@dataclass(frozen=True, slots=True)
class Cell:
    """One simulation; without a policy it stands for the bounds on all policies."""

    setting: Setting
    seed: int
    policy: str | None = None

    def __str__(self) -> str:
        setting = self.setting
        what = self.policy or "bounds"
        return f"{what}, {setting.workload}, {setting.workers} workers, seed {self.seed}"


@dataclass(frozen=True, slots=True)
class Study:
    """A comparison; ``profile`` is "paper" or a latency profile of `superserve profile`.

    ``timelines`` are the labels of the policies that are drawn over time, by default the first
    few. Raises `ConfigError` for labels that are not unique or unknown, and for empty lists.
    """

    name: str
    policies: tuple[PolicySpec, ...]
    workloads: tuple[WorkloadSpec, ...]
    profile: str = PAPER
    seeds: tuple[int, ...] = (0,)
    workers: tuple[int, ...] = (8,)
    bounds: bool = True
    timelines: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        labels: dict[str, list[object]] = {
            "policies": [policy.label for policy in self.policies],
            "workloads": [workload.label for workload in self.workloads],
            "seeds": list(self.seeds),
            "workers": list(self.workers),
        }
        for what, given in labels.items():
            if not given:
                raise ConfigError(f"a study needs {what}")
            twice = sorted({str(label) for label in given if given.count(label) > 1})
            if twice:
                raise ConfigError(f"{what} need labels of their own: {', '.join(twice)} is twice")
        unknown = [label for label in self.timelines if label not in labels["policies"]]
        if unknown:
            raise ConfigError(f"timelines names no policy of the study: {', '.join(unknown)}")

    def settings(self) -> list[Setting]:
        return [
            Setting(workload.label, workers)
            for workload in self.workloads
            for workers in workload.workers or self.workers
        ]

    def cells(self) -> Iterator[Cell]:
        """All of them, those that share arrivals next to each other."""
        labels = [policy.label for policy in self.policies]
        for setting, seed in product(self.settings(), self.seeds):
            if self.bounds:
                yield Cell(setting, seed)
            for label in labels:
                yield Cell(setting, seed, label)

    def policy(self, label: str) -> PolicySpec:
        return next(policy for policy in self.policies if policy.label == label)

    def workload(self, label: str) -> WorkloadSpec:
        return next(workload for workload in self.workloads if workload.label == label)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A study with its profile: all that a cell depends on."""

    study: Study
    profile: Profile

    @classmethod
    def of(cls, study: Study) -> Self:
        """Raises `ConfigError` for what would fail later: the profile, policies, subnets."""
        profile = load_profile(study.profile)
        for policy in study.policies:
            check_policy(policy, profile)
            loading = policy.serving.loading
            missing = [] if isinstance(loading, float) else set(loading).difference(profile.subnets)
            if missing:
                raise ConfigError(
                    f"policy {policy.label}: loading_ms names {', '.join(sorted(missing))}, but "
                    f"the subnets are {', '.join(profile.subnets)}"
                )
        return cls(study, profile)


def check_policy(policy: PolicySpec, profile: Profile) -> None:
    """Raises `ConfigError` where it cannot be built for this profile."""
    try:
        load_policy(policy.name, policy.options)(profile)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"policy {policy.label}: {error}") from error


def load_profile(name: str) -> Profile:
    """That of the paper, or a file of `superserve profile` joined with the accuracies in it.

    Raises `ConfigError` for a file that is none, or that has no accuracies.
    """
    if name == PAPER:
        return PAPER_PROFILE
    measured = LatencyProfile.read(Path(name))
    known = {s: a for s, a in measured.model.accuracies.items() if s in measured.latencies}
    if not known:
        raise ConfigError(f"{name} knows no accuracies: give superserve profile an accuracy card")
    return measured.join(known, margin=0.0)
