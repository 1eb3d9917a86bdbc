"""How stitched nets are trained: anchors, least squares, sandwich fine-tuning, calibration, choice.

Fine-tuning runs every anchor in every step, on the labels, and lets a few stitches learn from the
largest anchor's soft predictions: the sandwich rule of Yu & Huang (ICCV 2019) where SN-Net (Pan et
al., CVPR 2023) draws one configuration per step. Seeded, and resumable after every phase.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from supernets.calibration import calibrate
from supernets.cost import macs
from supernets.errors import CheckpointError
from supernets.evaluation import measure
from supernets.learning.training import Batches
from supernets.searching.pareto import Candidate, pareto_front
from supernets.space import Subnet
from supernets.stitched_resnet import StitchedResNet
from supernets.stitches.stitch_fit import initialise_stitches

Progress = Callable[[str, int, int, str], None]  # phase, done, total, detail


@dataclass(frozen=True, slots=True)
class StitchOptions:
    """How to train; for fine-tuning take about a tenth of the anchors' learning rate."""

    steps: int
    learning_rate: float
    optimiser: Literal["adamw", "sgd"] = "adamw"
    weight_decay: float = 1e-2
    momentum: float = 0.9  # of SGD, after Nesterov
    warmup_share: float = 0.05
    gradient_clip: float = 1.0
    stitches_per_step: int = 1  # when fine-tuning
    seed: int = 0
    save_every: int = 50


@dataclass(frozen=True, slots=True)
class StitchData:
    """Preprocessed images. What ``select`` is must not be in ``train``."""

    train: Batches
    images: Sequence[Tensor]  # of the training set, to fit and to calibrate
    select: Sequence[tuple[Tensor, Tensor]]  # held out, labelled


def make_stitched(
    net: StitchedResNet,
    data: StitchData,
    anchors: StitchOptions | None,
    stitches: StitchOptions,
    folder: Path,
    progress: Progress,
) -> list[Candidate]:
    """Train, stitch and calibrate ``net`` in place; the Pareto front of accuracy and MACs.

    The anchors are trained first, each alone, or kept as they are where ``anchors`` is nothing
    (they then need their statistics, as `StitchedResNet.load_anchor` gives them). Every subnet ends
    with statistics of its own; accuracies of the front are on ``data.select``. An interrupted run
    goes on from the states in ``folder``.
    """
    wholes = [net.space.anchor(index) for index in range(len(net.anchors))]
    if anchors is not None:
        for index, subnet in enumerate(wholes):
            file = folder / f"anchor-{index}.pt"
            train_anchor(net, index, data.train, anchors, file, _steps(progress, str(subnet)))
        calibrate(net, wholes, data.images)
    initialise_stitches(net, data.images)
    file = folder / "stitches.pt"
    train_stitches(net, data.train, stitches, file, _steps(progress, "fine-tune"))
    subnets = list(net.space)
    count = iter(range(1, len(subnets) + 1))
    calibrate(net, subnets, data.images,
              lambda s: progress("calibrate", next(count), len(subnets), str(s)))  # fmt: skip
    return stitched_front(net, data.select)


def stitched_front(
    net: StitchedResNet, labelled: Sequence[tuple[Tensor, Tensor]]
) -> list[Candidate]:
    """Evaluate every anchor and stitch; those that no cheaper one beats, by ascending MACs.

    Stitched nets are not monotone (SN-Netv2 publishes stitches below its smallest anchor).
    """
    subnets = list(net.space)
    entries, _ = measure(net, subnets, labelled)
    return pareto_front(
        [Candidate(s, e.accuracy, macs(net, s)) for s, e in zip(subnets, entries, strict=True)]
    )


def train_anchor(
    net: StitchedResNet,
    index: int,
    batches: Batches,
    options: StitchOptions,
    state_file: Path | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> None:
    """Train one anchor alone on the labels; no other weight changes. See `train_stitches`."""
    subnet = net.space.anchor(index)

    def step(images: Tensor, labels: Tensor, number: int) -> float:
        del number
        loss = F.cross_entropy(net(images, subnet), labels)
        loss.backward()
        return loss.item()

    _train(net, f"anchor {index}", step, batches, options, state_file, progress)


def train_stitches(
    net: StitchedResNet,
    batches: Batches,
    options: StitchOptions,
    state_file: Path | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> None:
    """Fine-tune everything in place, norms on batch statistics; calibrate afterwards.

    ``progress`` gets the steps done, the steps in all, and the mean loss of the anchors. With
    ``state_file`` the state is saved there every ``save_every`` steps and at the end, and read back
    if it exists. Raises `CheckpointError` if that is of another network or of other options.
    """
    wholes = [net.space.anchor(index) for index in range(len(net.anchors))]

    def step(images: Tensor, labels: Tensor, number: int) -> float:
        losses, teacher = [], torch.empty(0)
        for subnet in wholes:
            logits = net(images, subnet)
            loss = F.cross_entropy(logits, labels)
            loss.backward()
            losses.append(loss.item())
            teacher = logits.detach().softmax(1)  # of the last, the largest
        for subnet in drawn_stitches(net, number, options):
            F.cross_entropy(net(images, subnet), teacher).backward()
        return sum(losses) / len(losses)

    _train(net, "stitches", step, batches, options, state_file, progress)


def drawn_stitches(net: StitchedResNet, step: int, options: StitchOptions) -> list[Subnet]:
    """The stitches of one step: shuffled again and again, so that all are trained equally often.

    Drawn independently some would be rare by chance, and rare ones stay bad.
    """
    every = net.space.stitches
    first = step * options.stitches_per_step
    chosen = []
    for number in range(first, first + options.stitches_per_step):
        order = list(range(len(every)))
        random.Random(f"{options.seed}/{number // len(every)}").shuffle(order)
        chosen.append(every[order[number % len(every)]])
    return chosen


def learning_rate(step: int, options: StitchOptions) -> float:
    """Linear warm-up, then half a cosine down to zero."""
    warmup = max(1, round(options.warmup_share * options.steps))
    if step < warmup:
        return options.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, options.steps - warmup)
    return options.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))


def _train(
    net: StitchedResNet,
    phase: str,
    step: Callable[[Tensor, Tensor, int], float],
    batches: Batches,
    options: StitchOptions,
    state_file: Path | None,
    progress: Callable[[int, int, float], None] | None,
) -> None:
    net.train()
    optimiser = _optimiser(net, options)
    run = {"phase": phase, **asdict(options)}
    del run["save_every"]
    done = saved = _restore(net, optimiser, run, state_file) if state_file else 0
    for images, labels in batches(done) if done < options.steps else ():
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(done, options)
        # Parameters of no subnet of this step have no gradient; the optimisers leave them alone.
        optimiser.zero_grad(set_to_none=True)
        loss = step(images, labels, done)
        torch.nn.utils.clip_grad_norm_(net.parameters(), options.gradient_clip)
        optimiser.step()
        done += 1
        if progress is not None:
            progress(done, options.steps, loss)
        if state_file and (done % options.save_every == 0 or done == options.steps):
            _save(net, optimiser, run, state_file, done)
            saved = done
        if done >= options.steps:
            break
    if state_file and saved < done:  # the batches ended early
        _save(net, optimiser, run, state_file, done)
    for subnet in list(net.statistics):
        del net.statistics[subnet]  # they belong to weights before training
    net.statistics.shared = None
    net.eval()


def _optimiser(net: StitchedResNet, options: StitchOptions) -> torch.optim.Optimizer:
    if options.optimiser == "adamw":
        return torch.optim.AdamW(
            net.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
        )
    return torch.optim.SGD(
        net.parameters(),
        lr=options.learning_rate,
        momentum=options.momentum,
        nesterov=True,
        weight_decay=options.weight_decay,
    )


def _save(
    net: StitchedResNet,
    optimiser: torch.optim.Optimizer,
    run: dict[str, Any],
    file: Path,
    done: int,
) -> None:
    state = {
        "run": run,
        "done": done,
        "net": net.state_dict(),
        "optimiser": optimiser.state_dict(),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(file)  # so that a kill while saving leaves the state before


def _restore(
    net: StitchedResNet, optimiser: torch.optim.Optimizer, run: dict[str, Any], file: Path
) -> int:
    if not file.exists():
        return 0
    try:
        state = torch.load(file, weights_only=True)
        same = state["run"] == run
        if same:
            net.load_state_dict(state["net"])
            optimiser.load_state_dict(state["optimiser"])
            return int(state["done"])
    except Exception as error:
        # A file that is cut off or of another network fails in many ways, with one remedy.
        raise CheckpointError(
            f"{file} is no training state of this network; delete it or give another folder"
        ) from error
    raise CheckpointError(
        f"{file} is the state of a run with other options; delete it or give another folder"
    )


def _steps(progress: Progress, phase: str) -> Callable[[int, int, float], None]:
    return lambda done, total, loss: progress(phase, done, total, f"loss {loss:.3f}")
