"""What a policy sees and what it answers: the profile, the view of the queue, the choice."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite
from typing import NamedTuple, Protocol


@dataclass(frozen=True, slots=True)
class Profile:
    """Accuracy and latency of each subnet of one supernet on one type of device.

    ``subnets`` ascend in accuracy (percent). ``latencies[s][b]`` is the time in seconds that a
    worker needs for ``batch_sizes[b]`` queries with ``subnets[s]``; a batch between two profiled
    sizes costs what the next larger one costs, because it is padded to it.
    """

    subnets: tuple[str, ...]
    accuracies: tuple[float, ...]
    batch_sizes: tuple[int, ...]
    latencies: tuple[tuple[float, ...], ...]
    _index: dict[str, int] = field(init=False, repr=False, compare=False, hash=False)

    def __post_init__(self) -> None:
        if not self.subnets or not self.batch_sizes:
            raise ValueError("a profile needs at least one subnet and one batch size")
        if not len(self.subnets) == len(self.accuracies) == len(self.latencies):
            raise ValueError("a profile needs one accuracy and one latency row per subnet")
        if list(self.batch_sizes) != sorted(set(self.batch_sizes)) or self.batch_sizes[0] < 1:
            raise ValueError(f"batch sizes must ascend from 1 or more: {self.batch_sizes}")
        if not all(map(isfinite, self.accuracies)):
            raise ValueError(f"accuracies must be numbers, not {self.accuracies}")
        if list(self.accuracies) != sorted(self.accuracies):
            raise ValueError("subnets must be ordered by ascending accuracy")
        for subnet, row in zip(self.subnets, self.latencies, strict=True):
            if len(row) != len(self.batch_sizes):
                raise ValueError(f"{subnet}: one latency per batch size is needed")
            if not all(0 < latency < inf for latency in row):
                raise ValueError(f"{subnet}: latencies must be positive seconds, not {row}")
        index = {subnet: i for i, subnet in enumerate(self.subnets)}
        if len(index) != len(self.subnets):
            raise ValueError("a subnet is listed twice")
        object.__setattr__(self, "_index", index)

    @classmethod
    def from_table(cls, rows: Iterable[tuple[str, float, Mapping[int, float]]]) -> "Profile":
        """Build a profile from ``(subnet_id, accuracy_percent, {batch: latency_seconds})`` rows."""
        table = sorted(rows, key=lambda row: (row[1], -min(row[2].values(), default=0.0)))
        if not table:
            raise ValueError("a profile needs at least one subnet")
        sizes = tuple(sorted(table[0][2]))
        for subnet, _, latencies in table:
            if tuple(sorted(latencies)) != sizes:
                raise ValueError(f"{subnet} is not profiled at the batch sizes {sizes}")
        return cls(
            subnets=tuple(row[0] for row in table),
            accuracies=tuple(float(row[1]) for row in table),
            batch_sizes=sizes,
            latencies=tuple(tuple(float(row[2][size]) for size in sizes) for row in table),
        )

    def pareto(self) -> "Profile":
        """Leave out each subnet that another beats: no less accurate, nowhere slower."""
        rows = zip(self.subnets, self.accuracies, self.latencies, strict=True)
        kept: list[tuple[str, float, tuple[float, ...]]] = []
        # From the most accurate down, and the faster first among equals: only what is kept already
        # can beat the next one.
        for row in sorted(rows, key=lambda row: (-row[1], row[2])):
            if not any(
                all(theirs <= ours for theirs, ours in zip(other[2], row[2], strict=True))
                for other in kept
            ):
                kept.append(row)
        kept.reverse()
        return Profile(
            tuple(row[0] for row in kept),
            tuple(row[1] for row in kept),
            self.batch_sizes,
            tuple(row[2] for row in kept),
        )

    @property
    def smallest(self) -> str:
        return self.subnets[0]

    @property
    def largest(self) -> str:
        return self.subnets[-1]

    @property
    def max_batch(self) -> int:
        return self.batch_sizes[-1]

    @property
    def peak_rate(self) -> float:
        """Queries per second of one worker: the smallest subnet in full batches."""
        return self.batch_sizes[-1] / self.latencies[0][-1]

    def index(self, subnet: str) -> int:
        """The row of a subnet; ``KeyError`` names the subnets that exist."""
        try:
            return self._index[subnet]
        except KeyError:
            raise KeyError(
                f"no subnet {subnet!r} here; there are {', '.join(self.subnets)}"
            ) from None

    def accuracy(self, subnet: str) -> float:
        return self.accuracies[self.index(subnet)]

    def latency(self, subnet: str, batch: int) -> float:
        """Seconds for ``batch`` queries; ``ValueError`` beyond the largest profiled batch."""
        column = bisect_left(self.batch_sizes, batch)
        if batch < 1 or column == len(self.batch_sizes):
            raise ValueError(f"batch {batch} is outside 1..{self.max_batch}")
        return self.latencies[self.index(subnet)][column]

    def largest_batch(self, subnet: str, budget: float) -> int:
        """The largest profiled batch that finishes within ``budget`` seconds; 0 if none does."""
        row = self.latencies[self.index(subnet)]
        return max(
            (b for b, t in zip(self.batch_sizes, row, strict=True) if t <= budget), default=0
        )

    def cheapest_above(self, floor: float) -> str | None:
        """The least accurate subnet with at least ``floor`` percent; None if no subnet has it."""
        row = bisect_left(self.accuracies, floor)
        return self.subnets[row] if row < len(self.subnets) else None

    def batch_bucket(self, waiting: int) -> int:
        """The largest profiled batch size that ``waiting`` queries fill; at least the smallest."""
        return self.batch_sizes[max(bisect_right(self.batch_sizes, waiting) - 1, 0)]


class Waiting(NamedTuple):
    """A query that waits: its deadline (seconds, the clock of ``now``) and what it asks for."""

    deadline: float
    priority: int = 0
    min_accuracy: float = 0.0
    model: str = ""


def deadline_reader(waiting: Sequence[Waiting]) -> Callable[[int], float]:
    """What gives the deadline at a place in EDF order: the queue's own way where it has one."""
    own: Callable[[int], float] | None = getattr(waiting, "deadline", None)
    return own if own is not None else lambda index: waiting[index].deadline


def due_before(waiting: Sequence[Waiting], time: float, low: int, high: int) -> int:
    """How many deadlines are before this time, known to be from ``low`` to ``high``; O(log n)."""
    own: Callable[[float, int, int], int] | None = getattr(waiting, "due_before", None)
    if own is not None:
        return own(time, low, high)
    return bisect_left(waiting, time, low, high, key=lambda query: query.deadline)


@dataclass(frozen=True, slots=True)
class WorkerView:
    """A worker: its device type, seconds until all that it was given is done (0 = idle), and the
    subnet of its last batch, which is the active one ("" before the first).
    """

    name: str
    device_type: str = "cpu"
    residual: float = 0.0
    subnet: str = ""


@dataclass(frozen=True, slots=True)
class QueueView:
    """Read-only picture of one model's queue at one decision.

    ``waiting`` is in EDF order and may be lazy: read only as deep as the rule needs. It leaves out
    what the worker that asks could not serve in time any more.
    ``asking`` names the worker that would run the batch ("" in ``admit`` and ``on_tick``).
    ``arrival_rate`` (queries per second) and ``dispersion`` (variance over mean of the counts per
    window; 1 for a Poisson stream) are kept by the scheduler. ``capacity`` is how many workers like
    the one that asks all that serve the model amount to: a device half as fast counts one half.
    ``slo`` is the mean budget (seconds from arrival to deadline) of the latest arrivals.
    ``slowdown`` is how many times as long as planned batches on this type of device have taken
    lately: by their mean, which is what throughput suffers, and at their 95th percentile (1 or
    more), which is what a deadline has to bear.
    """

    waiting: Sequence[Waiting]
    workers: Sequence[WorkerView] = ()
    arrival_rate: float = 0.0
    dispersion: float = 1.0
    asking: str = ""
    capacity: float = 1.0
    slo: float = 0.0
    slowdown: float = 1.0
    slowdown_p95: float = 1.0

    @classmethod
    def of(cls, deadlines: Iterable[float], workers: Sequence[WorkerView] = ()) -> "QueueView":
        """A view of queries that have nothing but deadlines: for tables and notebooks."""
        waiting = tuple(Waiting(d) for d in sorted(deadlines))
        return cls(waiting, workers, capacity=float(max(1, len(workers))))

    def __len__(self) -> int:
        return len(self.waiting)

    @property
    def head(self) -> Waiting:
        """The earliest deadline; ``IndexError`` when nothing waits."""
        return self.waiting[0]


@dataclass(frozen=True, slots=True)
class Choice:
    """Run the ``batch_size`` earliest deadlines with ``subnet``, after giving up ``shed`` heads.

    ``batch_size`` may exceed what waits: the scheduler then sends what there is.
    """

    subnet: str
    batch_size: int
    shed: int = 0

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.shed < 0:
            raise ValueError(f"a choice needs a batch of 1 or more and no negative shed: {self}")


@dataclass(frozen=True, slots=True)
class Wait:
    """Run nothing yet: ask again at the next event, and no later than ``until`` (seconds)."""

    until: float


class Policy(Protocol):
    """One form for all policies: built from a profile, then pure.

    ``choose`` is called when a worker can take a batch and something waits. ``now`` is the time at
    which the batch would start. None means: wait, and ask again at the next event; `Wait` also
    sets a time. Each idle worker is asked in turn until none takes a batch.

    Two optional methods are looked up by name. ``admit(view, waiting) -> bool`` may refuse a query
    at its arrival. ``on_tick(view, now)`` is the one place where a policy may change its memory,
    called every ``tick_period`` seconds.
    """

    def choose(self, view: QueueView, now: float) -> Choice | Wait | None: ...
