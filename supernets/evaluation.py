"""Accuracy of subnets on labelled images, with standard errors."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from supernets.accuracy_card import AccuracyCard, AccuracyEntry, card_path
from supernets.calibration import groups
from supernets.fingerprint import file_hash, weights_hash
from supernets.norms.statistics import MissingStatistics
from supernets.space import Subnet
from supernets.supernet import ResidentForm, Supernet

Hits = npt.NDArray[np.bool_]
# Of copies: how many independent images there are, repeated whole one after the other, or for each
# value the number of the image that it is a copy of.
Clusters = int | npt.NDArray[np.integer[Any]] | None

AT_ONCE = 8  # subnets that share one pass over the images, which are then decoded once for all


def standard_error(values: npt.NDArray[Any], clusters: Clusters = None) -> float:
    """Standard error of the mean of ``values`` [N]; copies of one item are not independent.

    With ``clusters`` it is that of a mean over clusters of any size (Cochran, "Sampling
    Techniques", section 9A.1, without the correction for a finite population). Not a number where
    there are fewer than two items.
    """
    deviations = values.astype(np.float64) - values.mean()
    total = len(deviations)
    if isinstance(clusters, int):
        if total % clusters:
            raise ValueError(f"{total} values are no whole number of copies of {clusters}")
        clusters = np.arange(total) % clusters
    if clusters is not None:
        _, clusters = np.unique(clusters, return_inverse=True)
        deviations = np.bincount(clusters, weights=deviations)
    count = len(deviations)
    if count < 2:
        return float("nan")
    return float(np.sqrt(count / (count - 1) * (deviations**2).sum()) / total)


def paired_distance(a: Hits, b: Hits, clusters: Clusters = None) -> float:
    """The difference of two subnets on the same images, in standard errors of that difference."""
    difference = a.astype(np.float64) - b.astype(np.float64)
    error = standard_error(difference, clusters)
    if error == 0:
        return 0.0 if difference.mean() == 0 else float(np.copysign(np.inf, difference.mean()))
    return float(difference.mean() / error)


def measure(
    net: Callable[[Tensor, Subnet], Tensor],
    subnets: Sequence[Subnet],
    batches: Iterable[tuple[Tensor, Tensor]],
    clusters: Clusters = None,
    progress: Callable[[Subnet], None] | None = None,
) -> tuple[list[AccuracyEntry], dict[Subnet, Hits]]:
    """Top-1 and top-5 accuracy of each subnet, and which images it got right.

    One batch is in memory at a time. Raises ``ValueError`` if there are none.
    """
    entries, found = [], {}
    for group in groups(subnets, batches, AT_ONCE):
        for subnet, answers in _answers(net, group, batches).items():
            found[subnet] = answers[0]
            entries.append(_entry(subnet, answers, clusters))
            if progress is not None:
                progress(subnet)
    return entries, found


def _answers(
    net: Callable[[Tensor, Subnet], Tensor],
    subnets: Sequence[Subnet],
    batches: Iterable[tuple[Tensor, Tensor]],
) -> dict[Subnet, list[Hits]]:
    """Per subnet: is the top answer right, and, above five classes, are the top five. Bool [N]."""
    device = net.device if isinstance(net, ResidentForm) else None
    tops: dict[Subnet, list[Tensor]] = {subnet: [] for subnet in subnets}
    seen = []
    with torch.inference_mode():
        for images, labels in batches:
            seen.append(labels)
            there = images.to(device)
            for subnet, found in tops.items():
                logits = net(there, subnet)
                found.append(logits.topk(5 if logits.shape[1] > 5 else 1, dim=1).indices.cpu())
    if not seen:
        raise ValueError("accuracy needs at least one batch of labelled images")
    expected = torch.cat(seen)[:, None]
    answers = {}
    for subnet, found in tops.items():
        right = torch.cat(found) == expected
        answers[subnet] = [right[:, :k].any(1).numpy() for k in sorted({1, right.shape[1]})]
    return answers


def _entry(subnet: Subnet, answers: list[Hits], clusters: Clusters) -> AccuracyEntry:
    top1, *more = [(_percent(right.mean()), _error(right, clusters)) for right in answers]
    top5: tuple[float | None, float | None] = more[0] if more else (None, None)
    config = subnet.config()
    return AccuracyEntry(subnet.id, config, *top1, "measured", *top5)


def _percent(share: float) -> float:
    return round(100.0 * float(share), 4)


def _error(right: Hits, clusters: Clusters) -> float | None:
    error = standard_error(right, clusters)
    return None if np.isnan(error) else _percent(error)


def evaluate(
    checkpoint: str | Path,
    supernet: str,
    subnets: Sequence[Subnet],
    batches: Iterable[tuple[Tensor, Tensor]],
    dataset: str,
    *,
    clusters: Clusters = None,
    allow_uncalibrated: bool = False,
    device: str = "cpu",
    data: str = "",
    progress: Callable[[Subnet], None] | None = None,
) -> AccuracyCard:
    """Measure subnets of a saved supernet and write the accuracy card beside it.

    ``batches`` are held-out, preprocessed images [N, C, H, W] with labels int64 [N]; ``dataset``
    says which. With ``data``, which identifies them, an interrupted run goes on where it was.
    Raises `MissingStatistics` for a subnet that is not calibrated in the file; those that
    ``allow_uncalibrated`` lets pass, with statistics all subnets share, are named on the card.
    """
    from supernets.registry import create_supernet

    path, subnets = Path(checkpoint), list(dict.fromkeys(subnets))
    weights, whole = weights_hash(path), file_hash(path)
    net = create_supernet(supernet, path)
    missing = _uncalibrated(net, subnets)
    if missing and (not allow_uncalibrated or net.statistics.shared is None):
        raise MissingStatistics(
            f"subnet {missing[0].id} ({missing[0]}) is not calibrated in {path}: its accuracy may "
            "collapse; run superserve calibrate first"
        )
    state = _State(path, f"{whole} {data}" if data else "")
    samples, known = state.read()
    for subnet in subnets:
        if subnet.id in known and progress is not None:
            progress(subnet)
    resident = net.resident(device)
    for group in groups([s for s in subnets if s.id not in known], batches, AT_ONCE):
        entries, right = measure(resident, group, batches, clusters, progress)
        samples = len(next(iter(right.values())))
        known.update({entry.id: entry for entry in entries})
        state.write(samples, known)
    notes = []
    if missing:
        ids = ", ".join(subnet.id for subnet in missing)
        notes.append(f"Not calibrated, measured with statistics that all subnets share: {ids}.")
    if clusters is not None:
        independent = clusters if isinstance(clusters, int) else len(np.unique(clusters))
        notes.append(
            f"{independent} independent images; standard errors are over those, as copies of one "
            "are not independent."
        )
    measured = tuple(known[subnet.id] for subnet in subnets)
    card = AccuracyCard(supernet, weights, whole, dataset, samples, measured, " ".join(notes))
    card.write(card_path(path))
    state.remove()
    return card


def _uncalibrated(net: Supernet, subnets: Sequence[Subnet]) -> list[Subnet]:
    return [s for s in subnets if net.norms() and s not in net.statistics]


class _State:
    """What an unfinished run has measured, in a file beside the checkpoint."""

    def __init__(self, checkpoint: Path, run: str) -> None:
        """Without ``run``, which identifies weights and data, nothing is read or written."""
        self._path = checkpoint.with_name(f"{checkpoint.name}.evaluating")
        self._run = run

    def read(self) -> tuple[int, dict[str, AccuracyEntry]]:
        """Sample count and entries; none where there is no file, or one of another run."""
        if not self._run or not self._path.exists():
            return 0, {}
        try:
            document = json.loads(self._path.read_text())
            if document["run"] != self._run:
                return 0, {}
            entries = [AccuracyEntry(**entry) for entry in document["entries"]]
            return int(document["samples"]), {entry.id: entry for entry in entries}
        except (OSError, ValueError, TypeError, KeyError):
            return 0, {}  # cut off: measured again

    def write(self, samples: int, known: dict[str, AccuracyEntry]) -> None:
        if not self._run:
            return
        entries = [asdict(entry) for entry in known.values()]
        partial = self._path.with_name(f"{self._path.name}.partial")
        partial.write_text(json.dumps({"run": self._run, "samples": samples, "entries": entries}))
        partial.replace(self._path)

    def remove(self) -> None:
        if self._run:
            self._path.unlink(missing_ok=True)
