"""The answers of the HTTP API as records: the server writes them, the client reads them.

Milliseconds and percent appear here because this is an edge.
"""

from dataclasses import dataclass

from superserve.messages import ModelMemory


@dataclass(frozen=True, slots=True)
class LabelScore:
    """One class: its label, its index among the model's classes, its softmax probability."""

    label: str
    index: int
    score: float


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds: waiting for a worker, running the network, from arrival to answer."""

    queue: float
    inference: float
    total: float


@dataclass(frozen=True, slots=True)
class Classification:
    """What the network saw in one image, and what it took to say so."""

    predictions: tuple[LabelScore, ...]  # best first
    subnet: str
    accuracy: float  # of the subnet, in percent, by its accuracy card
    deadline_met: bool
    timing_ms: Timing
    batch_size: int  # how many images the network ran on together
    model: str

    @property
    def label(self) -> str:
        """The best prediction; ``IndexError`` from an emulated worker, which predicts nothing."""
        return self.predictions[0].label


@dataclass(frozen=True, slots=True)
class InputSize:
    height: int
    width: int
    channels: int


@dataclass(frozen=True, slots=True)
class SubnetDescription:
    """A subnet that may answer: its accuracy (percent) and latency per batch size."""

    id: str
    settings: str
    accuracy: float
    latency_ms: dict[int, float]


@dataclass(frozen=True, slots=True)
class ModelDescription:
    name: str
    labels: tuple[str, ...]
    input: InputSize
    weights_hash: str
    resident_bytes: int
    subnets: tuple[SubnetDescription, ...]  # ascending in accuracy
    memory: ModelMemory | None = None  # of `resident_bytes`; None where the server does not know
    kernels: str = ""  # what runs the subnets on the device


@dataclass(frozen=True, slots=True)
class ModelList:
    models: tuple[ModelDescription, ...]


@dataclass(frozen=True, slots=True)
class PolicyDescription:
    """The policy that decides now, and the names that can take its place."""

    policy: str
    available: tuple[str, ...]
