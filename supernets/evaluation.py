"""Accuracy of subnets on labelled images, with standard errors; and the card that records it."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from supernets.errors import CheckpointError
from supernets.space import Subnet

CARD_FORMAT = "superserve.accuracy/1"
Source = Literal["measured", "published", "predicted"]
Hits = npt.NDArray[np.bool_]


def hits(
    net: Callable[[Tensor, Subnet], Tensor],
    subnet: Subnet,
    batches: Iterable[tuple[Tensor, Tensor]],
) -> Hits:
    """Whether the top answer is right, bool [N], over batches of (images, labels)."""
    right = []
    with torch.inference_mode():
        for images, labels in batches:
            right.append((net(images, subnet).argmax(1).cpu() == labels).numpy())
    return np.concatenate(right)


def standard_error(values: npt.NDArray[Any], clusters: int | None = None) -> float:
    """Standard error of the mean of ``values`` [N].

    ``clusters``: the values are that many independent items, repeated whole one after the other
    (several distorted copies of each image); copies of one item are not independent.
    """
    items = values.astype(np.float64)
    if clusters is not None:
        if len(items) % clusters:
            raise ValueError(f"{len(items)} values are no whole number of copies of {clusters}")
        items = items.reshape(-1, clusters).mean(axis=0)
    return float(items.std(ddof=1) / np.sqrt(len(items)))


def paired_distance(a: Hits, b: Hits, clusters: int | None = None) -> float:
    """The difference of two subnets on the same images, in standard errors of that difference."""
    difference = a.astype(np.float64) - b.astype(np.float64)
    error = standard_error(difference, clusters)
    return float(difference.mean() / error) if error > 0 else float("inf") * difference.mean()


@dataclass(frozen=True, slots=True)
class AccuracyEntry:
    """One subnet on the card; accuracy and standard error in percent."""

    id: str
    config: dict[str, Any]
    accuracy: float
    standard_error: float | None
    source: Source = "measured"


@dataclass(frozen=True, slots=True)
class AccuracyCard:
    """What is known of the accuracy of one checkpoint's subnets, and from where."""

    supernet: str
    weights_hash: str
    dataset: str
    samples: int
    subnets: tuple[AccuracyEntry, ...]
    notes: str = ""

    def write(self, path: Path) -> None:
        document = {"format": CARD_FORMAT, **asdict(self)}
        path.write_text(json.dumps(document, indent=1) + "\n")

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
    return checkpoint.with_suffix(".accuracy.json")


def measure(
    net: Callable[[Tensor, Subnet], Tensor],
    subnets: Sequence[Subnet],
    batches: Sequence[tuple[Tensor, Tensor]],
    clusters: int | None = None,
    progress: Callable[[Subnet], None] | None = None,
) -> tuple[list[AccuracyEntry], dict[Subnet, Hits]]:
    """Top-1 accuracy of each subnet, and which images it got right."""
    entries, found = [], {}
    for subnet in subnets:
        found[subnet] = right = hits(net, subnet, batches)
        entries.append(
            AccuracyEntry(
                subnet.id,
                subnet.config(),
                round(100.0 * float(right.mean()), 4),
                round(100.0 * standard_error(right, clusters), 4),
            )
        )
        if progress is not None:
            progress(subnet)
    return entries, found
