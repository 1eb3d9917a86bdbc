"""The search space of an elastic residual network: how many blocks run, and how wide each is. Pure.

Stages differ in length, and not every ratio changes every block, which `StagedSpace` does not know.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

from supernets.space import Dimension, Random, SearchSpace, Setting, Subnet, Value

Units = tuple[int, ...]  # of each channel group of a block: how many of its units are active
BlockWidths = Mapping[Value, Units]  # by width ratio


@dataclass(frozen=True, slots=True)
class StageChoices:
    """One stage: how many of its blocks may run (ascending), and the widths of each block."""

    depths: tuple[int, ...]
    blocks: tuple[BlockWidths, ...]


class ElasticSpace(SearchSpace):
    """Depth ``d`` per stage and width ratio ``w`` per block of that depth.

    A depth that a stage lacks means the next smaller one it has, so that ``d=4`` can be said of
    stages of 3 and of 6 blocks. Ratios that mean the same widths are one: the largest of them.
    """

    def __init__(
        self, family: str, stages: Sequence[StageChoices], widths: Sequence[float]
    ) -> None:
        self.stages = tuple(stages)
        depths = sorted({depth for stage in stages for depth in stage.depths})
        blocks = sum(len(stage.blocks) for stage in stages)
        super().__init__(
            family,
            [
                Dimension("w", blocks, tuple(sorted(set(widths)))),
                Dimension("d", len(self.stages), tuple(depths)),
            ],
        )

    def canonical(self, settings: dict[str, Setting]) -> dict[str, Setting]:
        narrowest = self.dimensions[0].options[0]
        depths = [
            max((own for own in stage.depths if own <= depth), default=stage.depths[0])
            for stage, depth in zip(self.stages, settings["d"], strict=True)
        ]
        ratios: list[Value] = []
        for stage, depth, own in zip(self.stages, depths, self._split(settings["w"]), strict=True):
            ratios += [
                _widest(block, ratio) if index < depth else narrowest
                for index, (block, ratio) in enumerate(zip(stage.blocks, own, strict=True))
            ]
        return {"w": tuple(ratios), "d": tuple(depths)}

    def describe(self, settings: dict[str, Setting]) -> str:
        active = [
            own[: int(depth)]
            for own, depth in zip(self._split(settings["w"]), settings["d"], strict=True)
        ]
        whole = [ratio for own in active for ratio in own]
        parts = [whole] if len(set(whole)) == 1 else active
        return f"d={_compact(settings['d'])} w={'|'.join(_compact(part) for part in parts)}"

    def active(self, subnet: Subnet) -> tuple[tuple[Units, ...], ...]:
        """Per stage and active block the active units of each channel group."""
        return tuple(
            tuple(
                block[ratio] for block, ratio in zip(stage.blocks, own[: int(depth)], strict=False)
            )
            for stage, own, depth in zip(
                self.stages, self._split(subnet["w"]), subnet["d"], strict=True
            )
        )

    def sample(self, rng: Random) -> Subnet:
        """Each stage's depth uniform over its own, each ratio uniform over all."""
        ratios = self.dimensions[0]
        return self.subnet(
            d=[_pick(stage.depths, rng) for stage in self.stages],
            w=[_pick(ratios.options, rng) for _ in range(ratios.length)],
        )

    def mutate(self, subnet: Subnet, rng: Random, probability: float = 0.1) -> Subnet:
        """Redraw each setting with this probability."""
        ratios = self.dimensions[0].options
        return self.subnet(
            d=[
                _pick(stage.depths, rng) if rng.random() < probability else depth
                for stage, depth in zip(self.stages, subnet["d"], strict=True)
            ],
            w=[_pick(ratios, rng) if rng.random() < probability else w for w in subnet["w"]],
        )

    def __iter__(self) -> Iterator[Subnet]:
        """Every subnet once, by depth and then by width. Most spaces are too large to finish."""
        narrowest = self.dimensions[0].options[0]
        for depths in product(*(stage.depths for stage in self.stages)):
            choices = [
                _distinct(block) if index < depth else [narrowest]
                for stage, depth in zip(self.stages, depths, strict=True)
                for index, block in enumerate(stage.blocks)
            ]
            for ratios in product(*choices):
                yield self.subnet(w=ratios, d=depths)

    @property
    def size(self) -> int:
        """How many subnets there are; exact, without enumerating them."""
        return prod(
            sum(
                prod(len(_distinct(block)) for block in stage.blocks[:depth])
                for depth in stage.depths
            )
            for stage in self.stages
        )

    def _split(self, ratios: Setting) -> list[Setting]:
        parts, start = [], 0
        for stage in self.stages:
            parts.append(ratios[start : start + len(stage.blocks)])
            start += len(stage.blocks)
        return parts


def _widest(block: BlockWidths, ratio: Value) -> Value:
    return max(other for other, units in block.items() if units == block[ratio])


def _distinct(block: BlockWidths) -> list[Value]:
    return sorted({_widest(block, ratio) for ratio in block})


def _pick(options: Setting, rng: Random) -> Value:
    return options[int(rng.random() * len(options))]


def _compact(setting: Sequence[Value]) -> str:
    same = len(set(setting)) == 1
    return str(setting[0]) if same else ",".join(str(value) for value in setting)
