"""Progressive shrinking: which subnets are trained at which step. Pure.

Cai et al., "Once-for-All", ICLR 2020, section 3.3: the full network first, then elastic kernel
size, depth and width in this order, each phase with all that came before. Epochs, rates and
options are those of `train_ofa_net.py` of its code; of the full network, of the paper.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from supernets.space import Dimension, Random, SearchSpace, Setting, Subnet

KERNEL = "ks"
# Widths inside blocks (expand ratio, heads...) come between depth and the width of all blocks.
_PLACES = {"ks": 0, "d": 1, "w": 3}

_FULL_EPOCHS, _FULL_RATE = 180.0, 2.6 / 32  # 2.6 for 32 GPUs
_LONG_EPOCHS, _SHORT_EPOCHS, _WARMUP_EPOCHS = 120.0, 25.0, 5.0
_SUBNETS = {"ks": 1, "d": 2, "e": 4}  # that learn in each step of the setting's phases
_KERNEL_RATE, _SHORT_RATE, _LONG_RATE = 3e-2, 2.5e-3, 7.5e-3


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of training with one set of options.

    ``epochs`` say how long it is beside the other phases, ``learning_rate`` is a share of the
    first phase's, ``subnets`` is how many learn in each step beside the largest, and ``allowed``
    holds the options of every setting that they are drawn from.
    """

    name: str
    epochs: float
    warmup_epochs: float
    learning_rate: float
    subnets: int
    allowed: tuple[tuple[str, Setting], ...]

    def options(self, setting: str) -> Setting:
        return dict(self.allowed)[setting]

    def smallest(self, space: SearchSpace) -> Subnet:
        """Every setting at the least that is allowed."""
        return space.subnet(**{name: options[0] for name, options in self.allowed})

    def sample(self, space: SearchSpace, rng: Random) -> Subnet:
        """Each setting uniform over what is allowed, as the Once-for-All code samples."""
        config = {
            d.name: [
                self.options(d.name)[int(rng.random() * len(self.options(d.name)))]
                for _ in range(d.length)
            ]
            for d in space.dimensions
        }
        return space.subnet(**config)


def progressive_phases(space: SearchSpace) -> tuple[Phase, ...]:
    """Full network, kernel in one phase, then depth, widths inside blocks, width, in two each.

    The first of the two adds the upper half of the options, the second all; a setting with two
    options needs one phase. Raises ``ValueError`` for a space whose settings exclude each other.
    """
    allowed: dict[str, Setting] = {d.name: (d.options[-1],) for d in space.dimensions}
    phases = [Phase("full", _FULL_EPOCHS, _WARMUP_EPOCHS, 1.0, 0, _frozen(space, allowed))]
    for dimension in _ordered(space):
        if len(dimension.options) < 2:
            continue
        steps = _growth(dimension)
        for index, options in enumerate(steps):
            allowed[dimension.name] = options
            short = index < len(steps) - 1
            kernel = dimension.name == KERNEL
            rate = _SHORT_RATE if short else _KERNEL_RATE if kernel else _LONG_RATE
            phases.append(
                Phase(
                    dimension.name if len(steps) == 1 else f"{dimension.name} {index + 1}",
                    _SHORT_EPOCHS if short else _LONG_EPOCHS,
                    0.0 if short else _WARMUP_EPOCHS,
                    rate / _FULL_RATE,
                    _SUBNETS.get(dimension.name, 4),
                    _frozen(space, allowed),
                )
            )
    try:
        for phase in phases:
            phase.smallest(space)
    except ValueError as error:
        raise ValueError(
            f"the settings of {space.family} exclude each other: it cannot grow one at a time"
        ) from error
    return tuple(phases)


def boundaries(phases: Sequence[Phase], steps: int) -> list[int]:
    """The step at which each phase ends, when all take ``steps`` together."""
    whole = sum(phase.epochs for phase in phases)
    return [round(steps * done / whole) for done in accumulate(p.epochs for p in phases)]


def phase_at(phases: Sequence[Phase], steps: int, step: int) -> tuple[int, int, int]:
    """The index of the phase at a step, that phase's first step, and where it ends."""
    ends = boundaries(phases, steps)
    index = next((i for i, end in enumerate(ends) if step < end), len(ends) - 1)
    return index, ends[index - 1] if index else 0, ends[index]


def _ordered(space: SearchSpace) -> list[Dimension]:
    return sorted(space.dimensions, key=lambda dimension: _PLACES.get(dimension.name, 2))


def _growth(dimension: Dimension) -> list[Setting]:
    options = dimension.options
    half = options[-(len(options) // 2 + 1) :]
    return [options] if dimension.name == KERNEL or half == options else [half, options]


def _frozen(space: SearchSpace, allowed: dict[str, Setting]) -> tuple[tuple[str, Setting], ...]:
    return tuple((d.name, allowed[d.name]) for d in space.dimensions)
