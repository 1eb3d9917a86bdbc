"""The workers of a simulation: how fast each is, what it has loaded, when it comes and goes."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from policies.types import Profile


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """A worker that takes ``1 / speed`` of the time its device type should take.

    The scheduler does not know of ``speed``: below 1 it makes a straggler. ``loaded`` names the
    subnets that the worker holds when it starts, the active one last.
    """

    name: str
    device_type: str = "cpu"
    speed: float = 1.0
    loaded: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.speed > 0:
            raise ValueError(f"the speed of worker {self.name} must be positive: {self.speed}")


@dataclass(frozen=True, slots=True)
class Fail:
    """The worker dies at this time (seconds) with all that it holds. One already dead stays so."""

    at: float
    worker: str


@dataclass(frozen=True, slots=True)
class Join:
    """A worker joins; one of its name that is there is replaced, and what that held is lost."""

    at: float
    worker: WorkerSpec


@dataclass(frozen=True, slots=True)
class Restart:
    """The worker of this name starts anew as it once joined; if it is alive it dies first."""

    at: float
    worker: str


FleetEvent = Fail | Join | Restart


def as_specs(workers: int | Sequence[WorkerSpec]) -> tuple[WorkerSpec, ...]:
    """``n`` workers are w0 to w(n-1) of type "cpu". ``ValueError`` for a name given twice."""
    if isinstance(workers, int):
        if workers < 0:
            raise ValueError(f"there cannot be {workers} workers")
        return tuple(WorkerSpec(f"w{number}") for number in range(workers))
    names = [spec.name for spec in workers]
    if len(set(names)) != len(names):
        raise ValueError(f"workers need names of their own: {', '.join(names)}")
    return tuple(workers)


def in_order(events: Iterable[FleetEvent], specs: Sequence[WorkerSpec]) -> list[FleetEvent]:
    """By time, those of one time as given; ``ValueError`` if one names a worker that never was."""
    ordered = sorted(events, key=lambda event: event.at)
    known = {spec.name for spec in specs}
    for event in ordered:
        if not 0.0 <= event.at < float("inf"):
            raise ValueError(f"{event} must happen at a time from 0")
        if isinstance(event, Join):
            known.add(event.worker.name)
        elif event.worker not in known:
            raise ValueError(f"{event}: there is no such worker by then")
    return ordered


@dataclass(frozen=True, slots=True)
class Switching:
    """Seconds that it takes a worker to run another subnet than in its last batch.

    ``actuation`` for any change, but not for a worker's first batch, which has none before it.
    ``loading``, by subnet, where the subnet is not among the ``resident`` most recent ones of the
    worker: what a server pays that switches between separate models. A subnet that ``loading``
    does not name is always there.
    """

    actuation: float = 0.0
    loading: Mapping[str, float] = field(default_factory=dict)
    resident: int = 1

    def __post_init__(self) -> None:
        if self.actuation < 0 or any(seconds < 0 for seconds in self.loading.values()):
            raise ValueError("switching cannot take less than no time")
        if self.resident < 1:
            raise ValueError(f"a worker has at least one subnet resident, not {self.resident}")

    def change(self, recent: list[str], subnet: str) -> float:
        """Make ``subnet`` the last of the worker's ``recent`` ones; the seconds that this takes."""
        if recent and recent[-1] == subnet:
            return 0.0
        seconds = self.actuation if recent else 0.0
        if subnet in recent:
            recent.remove(subnet)
        else:
            seconds += self.loading.get(subnet, 0.0)
        recent.append(subnet)
        del recent[: -self.resident]
        return seconds


class VirtualWorker:
    """A live worker: it runs what it is given, one batch after the other."""

    __slots__ = ("alive", "free_at", "number", "profile", "recent", "spec")

    def __init__(self, number: int, spec: WorkerSpec, profile: Profile, resident: int) -> None:
        """``number`` tells workers apart in arrays, ``profile`` what its batches really take."""
        self.number = number
        self.spec = spec
        self.profile = profile
        self.recent = list(spec.loaded[-resident:])
        self.free_at = 0.0  # when all that it was given will really be done
        self.alive = True

    def __repr__(self) -> str:
        return f"<VirtualWorker {self.spec.name}, free at {self.free_at:g}>"

    def begin(
        self,
        subnet: str,
        size: int,
        now: float,
        times: Callable[[float], float],
        switching: Switching,
    ) -> tuple[float, float]:
        """Take a batch; when it really starts, switching included, and when it is done.

        ``times`` makes the time that it takes of the usual one.
        """
        start = max(now, self.free_at)
        latency = times(self.profile.latency(subnet, size)) / self.spec.speed
        self.free_at = start + (switching.change(self.recent, subnet) + latency)
        return start, self.free_at
