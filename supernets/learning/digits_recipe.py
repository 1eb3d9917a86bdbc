"""How the embedded supernet is made, whole: train, calibrate, select, report, write."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from supernets.accuracy_card import AccuracyCard, AccuracyEntry, card_path
from supernets.calibration import calibrate
from supernets.checkpoint import save
from supernets.data import digits_data
from supernets.digits import PREPROCESSING, digits
from supernets.evaluation import Hits, measure, paired_distance
from supernets.fingerprint import file_hash, weights_hash
from supernets.learning.training import Step, TrainOptions, train
from supernets.ofa_mobilenetv3 import OFAMobileNetV3
from supernets.searching.pareto import Candidate, distinguishable, pareto_front
from supernets.space import SearchSpace, Subnet

BATCH = 64
STEPS = 600
LEARNING_RATE = 4e-3
SELECT_COPIES, REPORT_COPIES = 16, 16
CALIBRATION_IMAGES = 2048
FILE_DTYPE = torch.float16  # halves the file; every accuracy is measured after the rounding

# (kernel, expand, depth), uniform over all blocks, from the smallest to the largest subnet.
LADDER = (
    (3, 1, 1), (5, 1, 1), (3, 2, 1), (5, 2, 1), (5, 4, 1), (7, 4, 1), (3, 2, 2), (5, 2, 2),
    (5, 4, 2), (7, 4, 2), (5, 4, 3), (7, 4, 3), (5, 4, 4), (7, 4, 4), (5, 4, 6), (7, 8, 4),
    (7, 8, 6), (7, 8, 8), (7, 8, 12),
)  # fmt: skip

Progress = Callable[[str, int, int, str], None]  # phase, done, total, detail


@dataclass(frozen=True, slots=True)
class Recipe:
    """What may be changed about it on the command line."""

    folder: Path
    scale: float = 1.0  # of the number of steps; less makes a poor network, quickly
    seed: int = 0
    separation: float = 2.5  # paired standard errors between neighbours, on the select split


def ladder(space: SearchSpace) -> tuple[Subnet, ...]:
    """The candidates among which the subnets that ship are selected."""
    return tuple(space.subnet(ks=k, e=e, d=d) for k, e, d in LADDER)


def train_options(space: SearchSpace, recipe: Recipe) -> TrainOptions:
    return TrainOptions(
        steps=max(1, round(STEPS * recipe.scale)),
        learning_rate=LEARNING_RATE,
        random_subnets=2,
        favourites=ladder(space)[1:-1],  # the two ends are trained in every step anyway
        seed=recipe.seed,
    )


def to_input(images: digits_data.Images) -> Tensor:
    """uint8 [N, 32, 32, 1] -> float32 [N, 1, 32, 32], as the server's workers compute it."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255.0
    return (x - PREPROCESSING.mean[0]) / PREPROCESSING.std[0]


def batches(
    split: digits_data.Split, steps: int, seed: int, first: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    for images, labels in digits_data.distorted_batches(split, BATCH, steps, seed, first):
        yield to_input(images), torch.from_numpy(labels)


def labelled(split: digits_data.Split, copies: int) -> list[tuple[Tensor, Tensor]]:
    """The fixed evaluation set of a split in batches of 100."""
    images, labels = digits_data.evaluation_set(split, copies)
    return [
        (to_input(images[i : i + 100]), torch.from_numpy(labels[i : i + 100]))
        for i in range(0, len(labels), 100)
    ]


def make(recipe: Recipe, progress: Progress) -> AccuracyCard:
    """Do everything and write ``digits.safetensors``, its accuracy card and its model card.

    Interrupted, it goes on from the last saved training state in the same folder.
    """
    torch.manual_seed(recipe.seed)
    net = digits()
    _train(net, recipe, progress)
    for parameter in net.parameters():
        parameter.data = parameter.data.to(FILE_DTYPE).float()
    chosen = _select(net, recipe, progress)
    checkpoint = recipe.folder / "digits.safetensors"
    save(net, checkpoint, FILE_DTYPE)
    return _report(checkpoint, chosen, progress)


def _train(net: OFAMobileNetV3, recipe: Recipe, progress: Progress) -> None:
    options = train_options(net.space, recipe)

    def on_step(step: Step) -> None:
        detail = f"loss {step.largest_loss:.3f}, smallest {step.smallest_loss:.3f}"
        progress("train", step.index + 1, options.steps, detail)

    train(
        net,
        lambda first: batches("train", options.steps, recipe.seed, first),
        options,
        recipe.folder / "training-state.pt",
        on_step,
    )


def _select(net: OFAMobileNetV3, recipe: Recipe, progress: Progress) -> list[Subnet]:
    """Calibrate the ladder and keep the subnets that the select split can tell apart."""
    candidates = ladder(net.space)
    calibration = batches("select", CALIBRATION_IMAGES // BATCH, recipe.seed + 1)
    done = iter(range(1, len(candidates) + 1))
    calibrate(
        net,
        candidates,
        (images for images, _ in calibration),
        lambda s: progress("calibrate", next(done), len(candidates), str(s)),
    )
    resident = net.resident()
    done = iter(range(1, len(candidates) + 1))
    entries, right = measure(
        resident,
        candidates,
        labelled("select", SELECT_COPIES),
        progress=lambda s: progress("select", next(done), len(candidates), str(s)),
    )
    measured = [
        Candidate(subnet, entry.accuracy, multiplications(net, subnet))
        for subnet, entry in zip(candidates, entries, strict=True)
    ]
    digits_in_split = len(digits_data.split("select")[1])
    kept = distinguishable(
        pareto_front(measured),
        lambda a, b: paired_distance(right[a.subnet], right[b.subnet], digits_in_split),
        recipe.separation,
    )
    chosen = [candidate.subnet for candidate in kept]
    for subnet in candidates:
        if subnet not in chosen:
            del net.statistics[subnet]
    return chosen


def multiplications(net: OFAMobileNetV3, subnet: Subnet) -> float:
    """Multiply-accumulates for one image: unlike a time, the same on every machine."""
    image = torch.zeros(1, 1, PREPROCESSING.height, PREPROCESSING.width)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        net(image, subnet)
    return counter.get_total_flops() / 2


def _report(checkpoint: Path, chosen: list[Subnet], progress: Progress) -> AccuracyCard:
    """Accuracy on the report split, of the file as it was written."""
    from supernets.registry import create_supernet

    net = create_supernet("digits", checkpoint)
    done = iter(range(1, len(chosen) + 1))
    entries, right = measure(
        net.resident(),
        chosen,
        labelled("report", REPORT_COPIES),
        len(digits_data.split("report")[1]),
        lambda s: progress("report", next(done), len(chosen), str(s)),
    )
    independent = len(digits_data.split("report")[1])
    card = AccuracyCard(
        supernet="digits",
        weights_hash=weights_hash(checkpoint),
        file_hash=file_hash(checkpoint),
        dataset=f"{digits_data.SOURCE}; report split, never used for training or selection",
        samples=independent * REPORT_COPIES,
        subnets=tuple(entries),
        notes=(
            f"{independent} independent digits, {REPORT_COPIES} fixed distortions of each; "
            "standard errors are over digits, as the copies of a digit are not independent."
        ),
    )
    card.write(card_path(checkpoint))
    model_card = checkpoint.with_suffix(".md")
    model_card.write_text(_model_card(card, entries, right))
    return card


def _model_card(card: AccuracyCard, entries: list[AccuracyEntry], right: dict[Subnet, Hits]) -> str:
    independent = len(digits_data.split("report")[1])
    order = list(right.values())
    gaps = [
        "",
        *(f"{paired_distance(b, a, independent):.1f}" for a, b in pairwise(order)),
    ]
    rows = [
        f"| `{entry.id}` | {subnet} | {entry.accuracy:.2f} | {entry.standard_error:.2f} | {gap} |"
        for entry, subnet, gap in zip(entries, right, gaps, strict=True)
    ]
    how = digits_data.DISTORTION
    text = f"""# Model card: digits

A small member of the Once-for-All MobileNetV3 family for 32x32 grey images of single handwritten
digits, made by `superserve train digits`. It exists to show and test elastic serving on any
machine; it is no OCR system.

- **Data**: {digits_data.SOURCE}. 1097 digits to train,
  300 to calibrate and select the subnets, {independent} to report; the splits share no digit.
- **Distortion**: rotation ±{how.rotation_degrees:g}°, scale {how.scale[0]:g}-{how.scale[1]:g},
  shift ±{how.shift:g} of the side, Gaussian noise with a deviation of
  {how.noise[0]:g}-{how.noise[1]:g} of full scale; each drawn uniformly per image.
- **Training**: sandwich rule with in-place distillation;
  `supernets/learning/digits_recipe.py` is the whole recipe.
- **Weights**: stored as float16, SHA-256 `{card.weights_hash}`.
- **Accuracy**: top-1, measured on {card.samples} distorted images of the report split.
  {independent} independent digits, {REPORT_COPIES} fixed distortions of each; standard errors are
  over digits, as the copies of a digit are not independent.

| subnet | settings | accuracy % | s.e. | above the row before, in paired s.e. |
|---|---|---|---|---|
"""
    return text + "\n".join(rows) + "\n"
