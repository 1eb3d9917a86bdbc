"""Supernet training: the sandwich rule with in-place distillation, seeded and resumable.

Each step trains the largest subnet on the labels, then the smallest and a few random ones on the
largest one's soft predictions (Yu & Huang, "Universally Slimmable Networks", ICCV 2019; the recipe
of AttentiveNAS, CVPR 2021). Norms use batch statistics; calibrate afterwards.
"""

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from supernets.errors import CheckpointError
from supernets.space import Subnet
from supernets.supernet import Supernet

# Given the first step to make, batches of preprocessed images [N, C, H, W] and labels int64 [N].
# Step i must be the same batch whether training started before it or with it.
Batches = Callable[[int], Iterator[tuple[Tensor, Tensor]]]


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """How to train.

    ``favourites`` are the subnets worth serving: random ones come from them with probability
    ``favourite_share``, and from the whole space otherwise.
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

    def fingerprint(self) -> dict[str, Any]:
        """What must be equal for a run to be resumed."""
        options = asdict(self)
        del options["save_every"]
        options["favourites"] = [subnet.id for subnet in self.favourites]
        return options


@dataclass(frozen=True, slots=True)
class Step:
    """One step as the progress bar shows it; losses are cross entropies in nats."""

    index: int
    largest_loss: float
    smallest_loss: float
    largest_accuracy: float  # share of this batch


def learning_rate(step: int, options: TrainOptions) -> float:
    """Linear warm-up, then half a cosine down to zero."""
    warmup = max(1, round(options.warmup_share * options.steps))
    if step < warmup:
        return options.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, options.steps - warmup)
    return options.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))


def students(net: Supernet, step: int, options: TrainOptions) -> list[Subnet]:
    """The subnets that learn from the largest at this step: the smallest, and random ones."""
    rng = random.Random(f"{options.seed}/{step}")
    chosen = [net.space.smallest]
    for _ in range(options.random_subnets):
        if options.favourites and rng.random() < options.favourite_share:
            chosen.append(rng.choice(options.favourites))
        else:
            chosen.append(net.space.sample(rng))
    return chosen


def train(
    net: Supernet,
    batches: Batches,
    options: TrainOptions,
    state_file: Path | None = None,
    progress: Callable[[Step], None] | None = None,
) -> None:
    """Train ``net`` in place.

    With ``state_file`` the state is saved there every ``save_every`` steps and at the end, and read
    back if it exists, so that an interrupted run goes on where it was. Training ends after
    ``options.steps``, or when ``batches`` has no more. Raises `CheckpointError` if the file is
    of another network or of a run with other options.
    """
    net.train()
    optimiser = torch.optim.AdamW(
        net.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
    )
    first = _restore(net, optimiser, options, state_file) if state_file else 0
    done = saved = first
    for index, (images, labels) in enumerate(batches(first), start=first):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(index, options)
        step = _step(net, optimiser, images, labels, index, options)
        if progress is not None:
            progress(step)
        done = index + 1
        if state_file and done % options.save_every == 0:
            _save(net, optimiser, options, state_file, done)
            saved = done
        if done >= options.steps:
            break
    if state_file and saved < done:
        _save(net, optimiser, options, state_file, done)
    net.eval()


def _step(
    net: Supernet,
    optimiser: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    index: int,
    options: TrainOptions,
) -> Step:
    optimiser.zero_grad(set_to_none=True)
    logits = net(images, net.space.largest)
    loss = F.cross_entropy(logits, labels, label_smoothing=options.label_smoothing)
    loss.backward()
    teacher = logits.detach().softmax(1)
    losses = []
    for subnet in students(net, index, options):
        distilled = F.cross_entropy(net(images, subnet), teacher)
        distilled.backward()
        losses.append(distilled.item())
    # A setting that no subnet of this step used has no gradient; AdamW then leaves it alone.
    torch.nn.utils.clip_grad_norm_(net.parameters(), options.gradient_clip)
    optimiser.step()
    accuracy = (logits.argmax(1) == labels).float().mean().item()
    return Step(index, loss.item(), losses[0], accuracy)


def _save(
    net: Supernet,
    optimiser: torch.optim.Optimizer,
    options: TrainOptions,
    file: Path,
    done: int,
) -> None:
    state = {
        "options": options.fingerprint(),
        "done": done,
        "net": net.state_dict(),
        "optimiser": optimiser.state_dict(),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(file)  # so that a kill while saving leaves the state before


def _restore(
    net: Supernet, optimiser: torch.optim.Optimizer, options: TrainOptions, file: Path
) -> int:
    if not file.exists():
        return 0
    try:
        state = torch.load(file, weights_only=True)
        same = state["options"] == options.fingerprint()
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
