"""Accuracy of subnets on labelled images, with standard errors."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from supernets.accuracy_card import AccuracyCard, AccuracyEntry, card_path
from supernets.fingerprint import file_hash, weights_hash
from supernets.space import Subnet
from supernets.statistics import MissingStatistics

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
    if error == 0:
        return 0.0 if difference.mean() == 0 else float(np.copysign(np.inf, difference.mean()))
    return float(difference.mean() / error)


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


def evaluate(
    checkpoint: str | Path,
    supernet: str,
    subnets: Sequence[Subnet],
    batches: Sequence[tuple[Tensor, Tensor]],
    dataset: str,
) -> AccuracyCard:
    """Measure subnets of a saved supernet and write the accuracy card beside it.

    ``batches`` are held-out, preprocessed images [N, C, H, W] with labels int64 [N]; ``dataset``
    says which. Raises `MissingStatistics` for a subnet that is not calibrated in the file.
    """
    from supernets.registry import create_supernet

    path = Path(checkpoint)
    weights, whole = weights_hash(path), file_hash(path)
    net = create_supernet(supernet, path)
    missing = [s for s in subnets if net.norms() and s not in net.statistics]
    if missing:
        raise MissingStatistics(
            f"subnet {missing[0].id} ({missing[0]}) is not calibrated in {path}"
        )
    entries, right = measure(net.resident(), subnets, batches)
    card = AccuracyCard(
        supernet, weights, whole, dataset, len(next(iter(right.values()))), tuple(entries)
    )
    card.write(card_path(path))
    return card
