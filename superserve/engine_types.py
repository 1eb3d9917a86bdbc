"""What an engine is built from and what it returns; torch-free, for every process."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from superserve.messages import ModelInfo

WorkerKind = Literal["resident", "extracted"]
# The engine of each kind of worker, as module:attribute.
ENGINES: dict[WorkerKind, str] = {
    "resident": "superserve.engine:Engine",
    "extracted": "superserve.extracted:ExtractedEngine",
}


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """Which supernet to hold on which device."""

    supernet: str
    checkpoint: str = ""
    accuracy_card: str = ""
    plugins: tuple[str, ...] = ()
    device: str = "cpu"
    threads: int = 1
    allow_uncalibrated: bool = False
    kernels: Literal["auto", "triton", "torch"] = "auto"
    arena_file: str = ""  # where the CPU workers of a host share their weights' memory
    worker: WorkerKind = "resident"
    resident_models: int = 1  # extracted subnets that an extracted worker holds at once
    model_folder: str = ""  # where extracted workers share their files; empty: one of its own


@dataclass(frozen=True, slots=True)
class EngineResult:
    """The top-k of each image, best first, and how long that took (seconds).

    ``loading`` came before ``seconds``: making the subnet ready, where it was not in memory.
    """

    indices: npt.NDArray[np.int32]  # [N, k]
    scores: npt.NDArray[np.float32]  # [N, k], softmax probabilities
    seconds: float
    loading: float = 0.0


class EngineLike(Protocol):
    """The surface of `superserve.engine.Engine` that a worker relies on."""

    device_type: str
    models: tuple[ModelInfo, ...]

    def warm_up(self) -> None: ...

    def run(
        self, model: str, subnet: str, pixels: npt.NDArray[np.uint8], top_k: int
    ) -> EngineResult:
        """``pixels`` is uint8 [N, H, W, C]; raises ``KeyError`` for an unknown model or subnet."""
        ...


def build_engine(spec: EngineSpec, name: str = "") -> EngineLike:
    """The engine of the spec's kind of worker, or what ``module:attribute`` makes of the spec.

    Raises whatever the engine raises, and ``ImportError`` or ``AttributeError`` if there is none of
    this name.
    """
    module, _, attribute = (name or ENGINES[spec.worker]).partition(":")
    make: Callable[[EngineSpec], EngineLike] = getattr(import_module(module), attribute)
    return make(spec)
