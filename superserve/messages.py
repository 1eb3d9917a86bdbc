"""The records that pass between the front end, the scheduler and the workers. Plain data."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, Self


class Query(NamedTuple):
    """One image that waits for an answer. Times are seconds on the monotonic clock."""

    id: int
    arrival: float
    deadline: float
    model: str = ""
    priority: int = 0
    min_accuracy: float = 0.0


class DropReason(StrEnum):
    EXPIRED = "expired"  # no subnet could answer by the deadline any more
    SHED = "shed"  # the policy gave it up
    REFUSED = "refused"  # the policy's `admit` said no
    FULL = "full"  # too many queries wait
    NO_WORKER = "no_worker"  # no worker is connected
    WORKER_LOST = "worker_lost"  # two workers died with it
    CANCELLED = "cancelled"  # the client went away


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Run these queries with this subnet on this worker. ``start`` and ``finish`` are planned."""

    id: int
    worker: str
    model: str
    subnet: str
    accuracy: float
    queries: tuple[Query, ...]
    start: float
    finish: float


@dataclass(frozen=True, slots=True)
class Complete:
    """The dispatch came back in time to count: its queries are answered now."""

    dispatch: Dispatch
    now: float


@dataclass(frozen=True, slots=True)
class Fail:
    """The worker lives but could not run this dispatch: its queries are answered with an error."""

    dispatch: Dispatch
    now: float


@dataclass(frozen=True, slots=True)
class Drop:
    """This query gets no result."""

    query: Query
    reason: DropReason
    now: float


@dataclass(frozen=True, slots=True)
class Wake:
    """Call ``tick`` at this time. One timer is enough: a new `Wake` replaces the one before it,
    and an event in between leaves it standing.
    """

    at: float


Command = Dispatch | Complete | Fail | Drop | Wake


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How an image becomes the network's input.

    The front end decodes and resizes to uint8 [height, width, channels]; the worker computes
    ``(pixels / 255 - mean) / std``. ``crop`` is the share of the shorter side that is kept, from
    the centre. With ``ink_on_dark`` an image whose border is bright is inverted first, so that a
    digit drawn in black on white paper looks like the training data.
    """

    height: int
    width: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: float = 1.0
    ink_on_dark: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one image, as it lies in its slot."""
        return self.height, self.width, self.channels


@dataclass(frozen=True, slots=True)
class ModelMemory:
    """What the resident bytes of a model are for, on one worker. They add up to all of them."""

    weights_bytes: int
    derived_bytes: int  # weights made of others beforehand
    norms_bytes: int  # of all subnets together
    calibrated_subnets: int  # those with norms of their own


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What the front end must know of a supernet; it comes with the worker's ready message."""

    name: str
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    subnets: dict[str, str]  # id -> readable form, those that this worker holds
    weights_hash: str
    resident_bytes: int
    accuracies: dict[str, float] = field(default_factory=dict)  # id -> percent, from the card
    accuracy_source: str = ""  # the card's data set
    memory: ModelMemory | None = None  # None of an engine that does not tell
    kernels: str = ""  # what runs its subnets; empty of an engine that does not tell

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """Read ``dataclasses.asdict`` back after it went through JSON."""
        fields = dict(document)
        steps = dict(fields.pop("preprocessing"))
        for name in ("mean", "std"):
            steps[name] = tuple(steps[name])
        labels = tuple(fields.pop("labels"))
        held = fields.pop("memory", None)
        memory = None if held is None else ModelMemory(**held)
        return cls(**fields, labels=labels, preprocessing=Preprocessing(**steps), memory=memory)


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    name: str
    device: str  # "cpu", "cuda:0"
    device_type: str  # "cpu", "NVIDIA H200", "emulated": workers of one type share a profile
    pid: int
    models: tuple[ModelInfo, ...]


@dataclass(frozen=True, slots=True)
class Prediction:
    index: int
    score: float  # softmax probability


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What a worker answers: per query its top-k, and how long the network ran (seconds).

    ``loading`` is how long the batch waited, at the worker, for its subnet to be loaded.
    """

    dispatch_id: int
    predictions: tuple[tuple[Prediction, ...], ...]
    inference: float
    loading: float = 0.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What the front end tells the client about one query. Times are seconds."""

    predictions: tuple[Prediction, ...]
    subnet: str
    accuracy: float
    deadline_met: bool
    queue: float
    inference: float
    total: float
    batch_size: int
