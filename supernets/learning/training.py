"""Supernet training: the sandwich rule with in-place distillation, seeded and resumable.

Each step trains the largest subnet on the labels, then the smallest and a few random ones on the
largest one's soft predictions (Yu & Huang, "Universally Slimmable Networks", ICCV 2019; the recipe
of AttentiveNAS, CVPR 2021). Norms use batch statistics; calibrate afterwards. Which subnets those
are may grow in phases: see `supernets.learning.shrinking`.
"""

import copy
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from supernets.errors import CheckpointError
from supernets.learning.shrinking import Phase, phase_at
from supernets.norms.statistics import StatisticsTable, batch_statistics
from supernets.ofa.expand_order import sort_expansions
from supernets.space import Subnet
from supernets.supernet import Supernet

# Given the first step to make, batches of preprocessed images [N, C, H, W] and labels int64 [N].
# Step i must be the same batch whether training started before it or with it.
Batches = Callable[[int], Iterator[tuple[Tensor, Tensor]]]
Teacher = Callable[[Tensor], Tensor]  # images [N, C, H, W] -> logits [N, classes]


class TrainingDiverged(ArithmeticError):
    """The loss is no number any more; the last saved state is from before."""


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """How to train.

    ``favourites`` are the subnets worth serving: random ones come from them with probability
    ``favourite_share``, and from the whole space otherwise. With ``phases`` (see
    `shrinking.progressive_phases`) the phase says what is drawn, and how many. ``amp`` is
    the type that forward passes are computed in where that is safe; a CPU may lack it.
    ``teacher_weight`` is that of a teacher's soft labels beside the labels. ``data`` identifies the
    batches, for a run to be resumed on the same.
    """

    steps: int
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    warmup_share: float = 0.05
    label_smoothing: float = 0.05
    gradient_clip: float = 1.0
    random_subnets: int = 1
    favourites: tuple[Subnet, ...] = field(default=(), repr=False)
    favourite_share: float = 0.75
    seed: int = 0
    save_every: int = 50
    phases: tuple[Phase, ...] = ()
    amp: Literal["", "bfloat16", "float16"] = ""
    teacher_weight: float = 1.0
    data: str = ""

    def __post_init__(self) -> None:
        if self.phases and self.favourites:
            raise ValueError("phases say what is sampled: there can be no favourites beside them")

    def fingerprint(self) -> dict[str, Any]:
        """What must be equal for a run to be resumed."""
        options = asdict(self)
        del options["save_every"]
        options["favourites"] = [subnet.id for subnet in self.favourites]
        # These are younger than states that may lie on disk.
        for name in ("phases", "amp", "teacher_weight", "data"):
            if options[name] == TrainOptions.__dataclass_fields__[name].default:
                del options[name]
        return options


@dataclass(frozen=True, slots=True)
class Step:
    """One step as the progress bar shows it; losses are cross entropies in nats."""

    index: int
    largest_loss: float
    smallest_loss: float  # nan while only the largest learns
    largest_accuracy: float  # share of this batch
    phase: str = ""


def learning_rate(step: int, options: TrainOptions) -> float:
    """Linear warm-up, then half a cosine down to zero; in every phase anew."""
    peak, first, end = options.learning_rate, 0, options.steps
    warmup = max(1, round(options.warmup_share * options.steps))
    if options.phases:
        index, first, end = phase_at(options.phases, options.steps, step)
        phase = options.phases[index]
        peak *= phase.learning_rate
        warmup = round(phase.warmup_epochs / phase.epochs * (end - first))
    step -= first
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, end - first - warmup)
    return peak * 0.5 * (1.0 + math.cos(math.pi * progress))


def students(net: Supernet, step: int, options: TrainOptions) -> list[Subnet]:
    """The subnets that learn from the largest at this step: the smallest, and random ones."""
    rng = random.Random(f"{options.seed}/{step}")
    if options.phases:
        phase = options.phases[phase_at(options.phases, options.steps, step)[0]]
        drawn = [phase.sample(net.space, rng) for _ in range(phase.subnets - 1)]
        return [phase.smallest(net.space), *drawn] if phase.subnets else []
    chosen = [net.space.smallest]
    for _ in range(options.random_subnets):
        if options.favourites and rng.random() < options.favourite_share:
            chosen.append(rng.choice(options.favourites))
        else:
            chosen.append(net.space.sample(rng))
    return chosen


def frozen_teacher(net: Supernet) -> Teacher:
    """The largest subnet of ``net`` as it is now, whatever becomes of ``net``.

    Its norms use batch statistics, as the Once-for-All code lets its teacher do, so that it needs
    none of its own.
    """
    frozen = copy.deepcopy(net).requires_grad_(requires_grad=False).eval()

    @torch.no_grad()
    def teach(images: Tensor) -> Tensor:
        frozen.to(images.device)
        return frozen.run(images, frozen.space.largest, batch_statistics)

    return teach


def train(
    net: Supernet,
    batches: Batches,
    options: TrainOptions,
    state_file: Path | None = None,
    progress: Callable[[Step], None] | None = None,
    *,
    teacher: Teacher | None = None,
    device: str | torch.device | None = None,
) -> None:
    """Train ``net`` in place; it ends in evaluation mode, without statistics: calibrate it.

    With ``state_file`` the state is saved there every ``save_every`` steps and at the end, and read
    back if it exists, so that an interrupted run goes on where it was. Training ends after
    ``options.steps``, or when ``batches`` has no more. With a ``teacher`` all subnets learn from
    its soft labels, the largest from the labels as well. ``device`` is where to compute: the net
    moves there and stays. Raises `CheckpointError` if the file is of another network or of a run
    with other options, and `TrainingDiverged`.
    """
    if device is not None:
        net.to(device)
    place = next(net.parameters()).device
    net.train()
    state = _State(net, options, place)
    first = _restore(state, options, state_file) if state_file else 0
    done = saved = first
    remaining = islice(batches(first), max(0, options.steps - first))
    for index, (images, labels) in enumerate(remaining, start=first):
        name = state.enter(index)
        for group in state.optimiser.param_groups:
            group["lr"] = learning_rate(index, options)
        step = _step(state, images.to(place), labels.to(place), index, teacher)
        if progress is not None:
            progress(Step(*step, phase=name))
        done = index + 1
        if state_file and done % options.save_every == 0:
            _save(state, options, state_file, done)
            saved = done
    if state_file and saved < done:
        _save(state, options, state_file, done)
    net.statistics = StatisticsTable()  # what was recorded before belongs to other weights
    net.eval()


class _State:
    """The network, and what beside it a step changes."""

    def __init__(self, net: Supernet, options: TrainOptions, device: torch.device) -> None:
        self.net, self.options, self.device = net, options, device
        self.optimiser = self._fresh()
        # float16 has no room for small gradients; bfloat16 and float32 have.
        self.scaler = torch.amp.GradScaler(device.type, enabled=options.amp == "float16")

    def _fresh(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            self.net.parameters(),
            lr=self.options.learning_rate,
            weight_decay=self.options.weight_decay,
        )

    def enter(self, step: int) -> str:
        """The name of this step's phase; at its first step, what a phase begins with.

        That is an optimiser without memory, as the published phases were runs of their own, and,
        where the expand ratio grows, sorted channels.
        """
        phases = self.options.phases
        if not phases:
            return ""
        index, first, _ = phase_at(phases, self.options.steps, step)
        if step == first and index > 0:
            self.optimiser = self._fresh()
            before, now = (phases[i].allowed for i in (index - 1, index))
            if dict(before).get("e") != dict(now).get("e"):
                sort_expansions(self.net, dict(before)["e"])
        return phases[index].name

    def autocast(self) -> torch.autocast:
        kind = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(self.options.amp)
        return torch.autocast(self.device.type, dtype=kind, enabled=kind is not None)

    def logits(self, images: Tensor, subnet: Subnet) -> Tensor:
        with self.autocast():
            logits = self.net(images, subnet)
        return logits.float() if self.options.amp else logits


def _step(
    state: _State, images: Tensor, labels: Tensor, index: int, teacher: Teacher | None
) -> tuple[int, float, float, float]:
    net, options = state.net, state.options
    state.optimiser.zero_grad(set_to_none=True)
    logits = state.logits(images, net.space.largest)
    loss = F.cross_entropy(logits, labels, label_smoothing=options.label_smoothing)
    if teacher is None:
        soft, whole = logits.detach().softmax(1), loss
    else:
        with state.autocast():
            soft = teacher(images).to(logits.dtype).softmax(1)
        whole = loss + options.teacher_weight * F.cross_entropy(logits, soft)
    if not math.isfinite(value := loss.item()):
        raise TrainingDiverged(
            f"the loss is {value} at step {index}: use a smaller learning rate, or look at the data"
        )
    state.scaler.scale(whole).backward()
    losses = []
    for subnet in students(net, index, options):
        distilled = F.cross_entropy(state.logits(images, subnet), soft)
        state.scaler.scale(distilled).backward()
        losses.append(distilled.item())
    state.scaler.unscale_(state.optimiser)
    # A setting that no subnet of this step used has no gradient; AdamW then leaves it alone.
    torch.nn.utils.clip_grad_norm_(net.parameters(), options.gradient_clip)
    state.scaler.step(state.optimiser)
    state.scaler.update()
    accuracy = (logits.argmax(1) == labels).float().mean().item()
    return index, value, losses[0] if losses else math.nan, accuracy


def _save(state: _State, options: TrainOptions, file: Path, done: int) -> None:
    content = {
        "options": options.fingerprint(),
        "done": done,
        "net": state.net.state_dict(),
        "optimiser": state.optimiser.state_dict(),
        "scaler": state.scaler.state_dict(),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    torch.save(content, partial)
    partial.replace(file)  # so that a kill while saving leaves the state before


def _restore(state: _State, options: TrainOptions, file: Path) -> int:
    if not file.exists():
        return 0
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
        same = content["options"] == options.fingerprint()
        if same:
            state.net.load_state_dict(content["net"])
            state.optimiser.load_state_dict(content["optimiser"])
            state.scaler.load_state_dict(content.get("scaler", {}))
            return int(content["done"])
    except Exception as error:
        # A file that is cut off or of another network fails in many ways, with one remedy.
        raise CheckpointError(
            f"{file} is no training state of this network; delete it or give another folder"
        ) from error
    raise CheckpointError(
        f"{file} is the state of a run with other options; delete it or give another folder"
    )
