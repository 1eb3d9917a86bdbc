"""How the subnets worth serving are found, whole: costs, accuracies, search, statistics, file."""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from supernets.calibration import write_statistics
from supernets.cost import macs
from supernets.data.datasets import LabelledImages
from supernets.errors import DataError
from supernets.fingerprint import weights_hash
from supernets.searching.halving import AccuracyByHalving, HalvingOptions
from supernets.searching.latency import machine, measure_latency
from supernets.searching.measured_search import (
    Clusters,
    Examiner,
    Record,
    front_document,
    remembered,
)
from supernets.searching.predictors import AccuracyPredictor
from supernets.searching.search import EvolutionOptions, Point, front, search
from supernets.space import Subnet
from supernets.supernet import Supernet

Cost = Literal["measured", "macs"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to search. ``budget`` bounds the images shown in all, calibration included."""

    evolution: EvolutionOptions = field(default_factory=EvolutionOptions)
    halving: HalvingOptions = field(default_factory=HalvingOptions)
    cost: Cost = "measured"
    budget: int | None = None
    batch_size: int = 100
    seed: int = 0
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class SearchImages:
    """What accuracies are measured on: all of it is held in memory.

    ``identity`` changes with the images, their order and the calibration.
    """

    images: Tensor  # [N, C, H, W]
    labels: Tensor  # [N]
    clusters: Clusters
    calibration: Sequence[tuple[Tensor, Tensor]]
    identity: str

    @classmethod
    def load(
        cls,
        measured: LabelledImages,
        calibration: LabelledImages,
        images: int,
        calibration_images: int,
        batch_size: int,
        seed: int = 0,
    ) -> "SearchImages":
        """At most so many ``images``, in a random order, so that the first n are a fair sample."""
        chosen = measured.subset(images, seed)
        training = calibration.subset(calibration_images, seed)
        batches = list(chosen.batches(batch_size))
        order = np.random.default_rng(seed).permutation(len(chosen))
        clusters = chosen.clusters
        return cls(
            torch.cat([x for x, _ in batches])[order],
            torch.cat([labels for _, labels in batches])[order],
            None if clusters is None else clusters[order],
            list(training.batches(batch_size)),
            f"{chosen.fingerprint()} {seed} {training.fingerprint()} {batch_size}",
        )


@dataclass(frozen=True, slots=True)
class Progress:
    """Who is told what: generations done with the points so far, images shown, rounds timed."""

    generation: Callable[[int, Sequence[Point]], None] | None = None
    images: Callable[[int], None] | None = None
    timing: Callable[[int, int], None] | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """The front by ascending cost, all points, images spent on them, and what to say of them."""

    front: list[Point]
    points: list[Point]
    images: int
    note: str = ""


def measured_front(
    checkpoint: Path,
    net: Supernet,
    data: SearchImages,
    recipe: Recipe,
    record_file: Path,
    progress: Progress = Progress(),
) -> Result:
    """The front by accuracy on ``data`` and the recipe's cost, of a net on the recipe's device.

    The statistics of its subnets are then in ``net``. What is measured is kept in ``record_file``;
    the same search started again goes on from there.
    """
    weights = weights_hash(checkpoint)
    record = Record(record_file, f"{weights} {data.identity}", _costs_identity(weights, recipe))
    halving = replace(
        recipe.halving,
        last=min(recipe.halving.last, len(data.images)),
        first=min(recipe.halving.first, len(data.images)),
        overhead=sum(len(labels) for _, labels in data.calibration) if net.norms() else 0,
    )
    examiner = Examiner(
        net,
        data.images,
        data.labels,
        data.calibration,
        record,
        clusters=data.clusters,
        batch_size=recipe.batch_size,
        progress=progress.images,
    )
    judge = AccuracyByHalving(examiner, examiner.distance, examiner.error, halving, recipe.budget)
    result = _found(net, judge, recipe, record, progress)
    examiner.calibrate([point.subnet for point in result.front])
    return replace(result, images=judge.spent)


def predicted_front(
    checkpoint: Path,
    net: Supernet,
    predictor: AccuracyPredictor,
    recipe: Recipe,
    record_file: Path,
    progress: Progress = Progress(),
) -> Result:
    """The front by predicted accuracy at the net's input size; see `measured_front`.

    Raises `UnsuitedPredictor` where the predictor does not know that size.
    """
    step = net.preprocessing
    if step.height != step.width:
        raise DataError(f"accuracy is predicted for square images, not {step.height}x{step.width}")
    record = Record(record_file, "", _costs_identity(weights_hash(checkpoint), recipe))

    def judge(costs: dict[Subnet, float]) -> list[Point]:
        accuracies = predictor(list(costs), step.height)
        return [
            Point(subnet, cost, accuracy)
            for (subnet, cost), accuracy in zip(costs.items(), accuracies, strict=True)
        ]

    return replace(_found(net, judge, recipe, record, progress), note=predictor.note)


def write_front(
    file: Path, result: Result, cost: Cost, source: Literal["measured", "predicted"]
) -> None:
    """``front.json``, replaced as a whole."""
    unit = "seconds" if cost == "measured" else "MACs"
    document = front_document(result.front, unit, source, result.note)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(json.dumps(document, indent=1) + "\n")
    partial.replace(file)


def keep_statistics(checkpoint: Path, net: Supernet, result: Result, had: set[Subnet]) -> int:
    """Put the front's statistics into the checkpoint, but for those it had; how many are new."""
    subnets = [point.subnet for point in result.front if point.subnet not in had]
    found = {s: net.statistics[s] for s in subnets if s in net.statistics}
    if found:
        write_statistics(checkpoint, found)
    return len(found)


def _found(
    net: Supernet,
    judge: Callable[[dict[Subnet, float]], list[Point]],
    recipe: Recipe,
    record: Record,
    progress: Progress,
) -> Result:
    def time(subnets: Sequence[Subnet]) -> list[float]:
        return measure_latency(net, subnets, device=recipe.device, progress=progress.timing)

    def count(subnets: Sequence[Subnet]) -> list[float]:
        return [float(macs(net, subnet)) for subnet in subnets]

    price = remembered(time if recipe.cost == "measured" else count, record)

    def evaluate(subnets: Sequence[Subnet]) -> list[Point]:
        return judge(dict(zip(subnets, price(subnets), strict=True)))

    rng = random.Random(recipe.seed)
    points = search(net.space, evaluate, recipe.evolution, rng, progress.generation)
    ahead = front(points)
    if recipe.cost == "measured" and ahead:
        # Generations were timed minutes apart; those that are left are now timed side by side.
        again = time([point.subnet for point in ahead])
        ahead = front([replace(p, cost=cost) for p, cost in zip(ahead, again, strict=True)])
    return Result(ahead, points, 0)


def _costs_identity(weights: str, recipe: Recipe) -> str:
    return f"{weights} {'MACs' if recipe.cost == 'macs' else machine(recipe.device)}"
