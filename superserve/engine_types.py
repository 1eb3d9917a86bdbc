"""What an engine is built from and what it returns; torch-free, for every process."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from superserve.messages import ModelInfo


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


@dataclass(frozen=True, slots=True)
class EngineResult:
    """The top-k of each image, best first, and how long the device worked (seconds)."""

    indices: npt.NDArray[np.int32]  # [N, k]
    scores: npt.NDArray[np.float32]  # [N, k], softmax probabilities
    seconds: float


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
