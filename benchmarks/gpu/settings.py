"""What a run measures and with what; the same for all phases of it."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

NETS = ("mobilenetv3-w1.2", "resnet50")
TINY = ("tiny-mobilenetv3", "tiny-resnet")


@dataclass(frozen=True, slots=True)
class Settings:
    """``subnets`` in the order in which they are timed, the most telling first.

    ``extra`` random ones stand beside them where many subnets take turns.
    """

    device: str = "cuda"
    nets: tuple[str, ...] = NETS
    dtype: torch.dtype = torch.bfloat16
    subnets: tuple[str, ...] = ("mid", "max", "min")
    batches: tuple[int, ...] = (1, 8, 32)
    side: int = 224
    rounds: int = 40
    extra: int = 3
    seed: int = 0
    output: Path = field(default=Path("benchmarks/results"))

    @classmethod
    def dry(cls, output: Path, seed: int = 0) -> "Settings":
        """Everything once on a CPU, in float32, with nets of a few channels."""
        return cls(
            device="cpu",
            nets=TINY,
            dtype=torch.float32,
            subnets=("mid",),
            batches=(1, 4),
            side=32,
            rounds=2,
            extra=1,
            seed=seed,
            output=output,
        )

    @property
    def place(self) -> torch.device:
        return torch.device(self.device)

    @property
    def is_dry(self) -> bool:
        return self.place.type != "cuda"

    def to_json(self) -> dict[str, Any]:
        """As a document holds it: what changes a figure, and not where it is written."""
        found = {**asdict(self), "dtype": str(self.dtype).removeprefix("torch.")}
        del found["output"]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in found.items()}
