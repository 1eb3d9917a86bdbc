"""How a supernet is trained on somebody's images, whole: train, validate, calibrate, measure."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from supernets.accuracy_card import AccuracyCard
from supernets.calibration import calibrate
from supernets.checkpoint import refuse_to_lose, save
from supernets.data.datasets import LabelledBatches, LabelledImages
from supernets.data.image_sources import Augmentation
from supernets.evaluation import evaluate, measure
from supernets.learning.shrinking import progressive_phases
from supernets.learning.training import Step, Teacher, TrainOptions, train
from supernets.searching.search import diagonal
from supernets.space import Subnet
from supernets.supernet import Supernet

BATCH = 100  # images per forward pass outside training


@dataclass(frozen=True, slots=True)
class Recipe:
    """What may be said about it. A run that is resumed must agree in all that trains."""

    folder: Path
    epochs: float = 30.0
    batch_size: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    random_subnets: int = 2
    seed: int = 0
    shrink: bool = False
    amp: Literal["", "bfloat16", "float16"] = ""
    teacher: str = ""  # which; the teacher itself is an argument
    device: str = "cpu"
    augmentation: Augmentation | None = field(default_factory=Augmentation)
    validation_images: int = 1000
    validation_calibration: int = 512  # images for the statistics of a validation
    calibration_images: int = 2000  # for those that are written

    def steps(self, images: int) -> int:
        return max(1, round(self.epochs * images / self.batch_size))


@dataclass(frozen=True, slots=True)
class Data:
    """Three disjoint parts: to train and calibrate, to watch the training, to report."""

    train: LabelledImages
    select: LabelledImages
    report: LabelledImages


@dataclass(frozen=True, slots=True)
class Epoch:
    """How training stands after an epoch; accuracies in percent on the select part."""

    index: int
    step: Step
    smallest: float
    largest: float


def train_options(net: Supernet, recipe: Recipe, images: LabelledImages) -> TrainOptions:
    """Raises ``ValueError`` where the net's space cannot grow in phases, and is asked to."""
    return TrainOptions(
        steps=recipe.steps(len(images)),
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        random_subnets=recipe.random_subnets,
        seed=recipe.seed,
        phases=progressive_phases(net.space) if recipe.shrink else (),
        amp=recipe.amp,
        data=f"{images.fingerprint()} {recipe.batch_size} {recipe.augmentation} {recipe.teacher} "
        f"{_weights(net)}",
    )


def _weights(net: Supernet) -> str:
    """Of the weights to start from: a state that began elsewhere is not gone on with."""
    digest = hashlib.blake2b(digest_size=8)
    for tensor in net.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def validate(net: Supernet, data: Data, recipe: Recipe) -> tuple[float, float]:
    """Accuracy in percent of the smallest and the largest subnet as they are now.

    The net goes on as it was: training or not, its statistics renewed for these two alone.
    """
    ends = [net.space.smallest, net.space.largest]
    calibrate(net, ends, _batches(data.train, recipe.validation_calibration, recipe.seed))
    held_out = _batches(data.select, recipe.validation_images, recipe.seed)
    training = net.training
    net.eval()
    place = next(net.parameters()).device
    entries, _ = measure(lambda images, subnet: net(images.to(place), subnet), ends, held_out)
    net.train(training)
    return entries[0].accuracy, entries[1].accuracy


def epoch_ends(steps: int, epochs: float) -> list[int]:
    """How many steps are done when each epoch ends; part of one at the end counts as one."""
    return [min(steps, round(steps * (i + 1) / epochs)) for i in range(math.ceil(epochs))]


def make(
    net: Supernet,
    data: Data,
    recipe: Recipe,
    teacher: Teacher | None = None,
    on_step: Callable[[Step], None] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    on_subnet: Callable[[str, Subnet], None] | None = None,
) -> AccuracyCard:
    """Train ``net`` and write ``NAME.safetensors`` with calibrated subnets and an accuracy card.

    Those are the smallest, the largest and three between them; `superserve search` finds better
    ones. Interrupted, it goes on from the last saved training state in the same folder.
    """
    file, subnets = recipe.folder / f"{net.name}.safetensors", diagonal(net.space)
    refuse_to_lose(file, len(subnets))
    options = train_options(net, recipe, data.train)
    ends = {end: index for index, end in enumerate(epoch_ends(options.steps, recipe.epochs))}

    def watch(step: Step) -> None:
        if on_step is not None:
            on_step(step)
        index = ends.get(step.index + 1)
        if index is not None and on_epoch is not None:
            on_epoch(Epoch(index, step, *validate(net, data, recipe)))

    train(
        net,
        data.train.training_batches(recipe.batch_size, recipe.seed, recipe.augmentation),
        options,
        recipe.folder / "training-state.pt",
        watch,
        teacher=teacher,
        device=recipe.device,
    )
    calibrate(
        net,
        subnets,
        _batches(data.train, recipe.calibration_images, recipe.seed),
        lambda subnet: on_subnet and on_subnet("calibrate", subnet),
    )
    save(net, file)
    return evaluate(
        file,
        net.name,
        subnets,
        data.report.batches(BATCH),
        data.report.name,
        clusters=data.report.clusters,
        device=recipe.device,
        progress=lambda subnet: on_subnet and on_subnet("report", subnet),
    )


def _batches(images: LabelledImages, count: int, seed: int) -> LabelledBatches:
    return images.subset(count, seed).batches(BATCH)
