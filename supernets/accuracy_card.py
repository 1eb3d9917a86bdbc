"""The accuracy card: what is known of the accuracy of a checkpoint's subnets, and from where."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from supernets.errors import CheckpointError

CARD_FORMAT = "superserve.accuracy/1"
# Predicted ones of an OFA MobileNetV3 are for width 1.2, and not corrected for width 1.0.
Source = Literal["measured", "published", "predicted"]


@dataclass(frozen=True, slots=True)
class AccuracyEntry:
    """One subnet on the card; accuracy (top-1), its standard error and top-5 in percent."""

    id: str
    config: dict[str, Any]
    accuracy: float
    standard_error: float | None
    source: Source = "measured"
    top5: float | None = None  # unknown, or there are no more than five classes
    top5_standard_error: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.accuracy, int | float) or not 0 <= self.accuracy <= 100:
            raise ValueError(f"the accuracy of {self.id} is no percentage: {self.accuracy!r}")
        if not isinstance(self.config, dict):
            raise TypeError(f"the settings of {self.id} are no object: {self.config!r}")


@dataclass(frozen=True, slots=True)
class AccuracyCard:
    """What is known of the accuracy of one checkpoint's subnets, and from where."""

    supernet: str
    weights_hash: str
    file_hash: str  # of the whole checkpoint: recalibrating changes accuracies
    dataset: str
    samples: int
    subnets: tuple[AccuracyEntry, ...]
    notes: str = ""

    def write(self, path: Path) -> None:
        """Replace the file as a whole: whoever reads it finds the card before or this one."""
        document = {"format": CARD_FORMAT, **asdict(self)}
        partial = path.with_name(f"{path.name}.partial")
        partial.write_text(json.dumps(document, indent=1) + "\n")
        partial.replace(path)

    @classmethod
    def read(cls, path: Path) -> "AccuracyCard":
        """Raises `CheckpointError` for a file that is no accuracy card."""
        try:
            document = json.loads(path.read_text())
            if document.pop("format") != CARD_FORMAT:
                raise ValueError(CARD_FORMAT)
            entries = tuple(AccuracyEntry(**entry) for entry in document.pop("subnets"))
            return cls(subnets=entries, **document)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise CheckpointError(f"{path} is no accuracy card: {error}") from error


def card_path(checkpoint: Path) -> Path:
    """Where the card of a checkpoint lies: beside it, ``x.safetensors`` -> ``x.accuracy.json``."""
    return checkpoint.with_name(f"{checkpoint.name.removesuffix('.safetensors')}.accuracy.json")
