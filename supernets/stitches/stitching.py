"""Where two networks can be stitched, and the search space of anchors and stitches. Pure.

Stitchable neural networks (Pan et al., CVPR 2023): run the first blocks of a fast anchor, one 1x1
convolution, then the last blocks of a slow anchor. Blocks and stages count from 0.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from supernets.space import Dimension, Random, SearchSpace, Setting, Subnet, Value

Positions = Literal["all", "snnet"]
STAGES = 4
_SETTINGS = ("front", "back", "stage", "front_block", "back_block")


@dataclass(frozen=True, slots=True)
class Position:
    """Where the front anchor hands over to the back anchor.

    The front runs up to ``front_block`` of ``stage``, the back goes on at its ``back_block``. A
    ``back_block`` one beyond the back's last block of the stage is the boundary: the next stage,
    or the classifier. ``layer`` numbers the stitching layers of these anchors in this stage.
    """

    front: int
    back: int
    stage: int
    front_block: int
    back_block: int
    layer: int

    @property
    def settings(self) -> tuple[int, ...]:
        return (self.front, self.back, self.stage, self.front_block, self.back_block)


def nearest(front_depth: int, back_depth: int) -> list[int]:
    """For each block of the back stage the front block that lies at the same relative depth."""
    return [block * front_depth // back_depth for block in range(back_depth)]


def within_stage(front_depth: int, back_depth: int) -> list[tuple[int, int]]:
    """SN-Net's (front block, back block) pairs of a stage, in its order.

    Equal depths are paired, a window of two sliding over them; otherwise the shorter stage is
    stretched over the longer one. A back stage's first block is never entered: it changes the
    resolution. ``ValueError`` for a front stage deeper than the back one.
    """
    if front_depth > back_depth:
        raise ValueError(f"a stage of {front_depth} blocks cannot go before one of {back_depth}")
    if front_depth == back_depth:
        return [(block, block + 1) for block in range(front_depth - 1)]
    partner = nearest(front_depth, back_depth)
    return [
        (front, back)
        for front in range(front_depth)
        for back in range(1, back_depth)
        if partner[back] == front < back
    ]


def stitch_positions(
    depths: Sequence[Sequence[int]], which: Positions = "all"
) -> tuple[Position, ...]:
    """All positions between neighbouring anchors, by stage, then by pair, in SN-Net's order.

    ``depths`` are the blocks per stage of each anchor, ordered fast to slow. ``all`` has every
    stage and every stage boundary, each position with a layer of its own. ``snnet`` has what
    SN-Net's ResNets have: the two middle stages, no boundary, and its sharing of layers, which
    takes the i-th position's layer from the partner of the i-th *block* of the back stage.
    """
    found = []
    for stage in range(STAGES) if which == "all" else (1, 2):
        for front, back in pairwise(range(len(depths))):
            first, second = depths[front][stage], depths[back][stage]
            pairs = within_stage(first, second)
            if which == "all":
                pairs = [*pairs, (first - 1, second)]
            shared = which == "snnet" and first != second
            layers = nearest(first, second) if shared else range(len(pairs))
            found += [
                Position(front, back, stage, *pair, layer)
                for pair, layer in zip(pairs, layers, strict=False)
            ]
    return tuple(found)


def layer_counts(
    depths: Sequence[Sequence[int]], which: Positions = "all"
) -> dict[int, dict[int, int]]:
    """Stage -> front anchor -> how many stitching layers there are.

    SN-Net keeps one per block of the front stage where depths differ, used or not.
    """
    counts: dict[int, dict[int, int]] = {}
    for position in stitch_positions(depths, which):
        of_stage = counts.setdefault(position.stage, {})
        of_stage[position.front] = max(of_stage.get(position.front, 0), position.layer + 1)
    if which == "snnet":
        for stage, of_stage in counts.items():
            for front in of_stage:
                first, second = depths[front][stage], depths[front + 1][stage]
                of_stage[front] = first if first != second else first - 1
    return counts


class StitchSpace(SearchSpace):
    """The anchors, and the stitches between neighbours. Small enough to enumerate.

    A subnet has five settings: ``front`` and ``back`` (anchors), ``stage``, ``front_block`` and
    ``back_block`` (see `Position`). An anchor has itself as front and back; the others are then 0.
    """

    def __init__(
        self,
        family: str,
        anchors: Sequence[str],
        depths: Sequence[Sequence[int]],
        which: Positions = "all",
    ) -> None:
        self.anchors, self.depths = tuple(anchors), tuple(tuple(d) for d in depths)
        self.positions = stitch_positions(depths, which)
        self._by_settings = {position.settings: position for position in self.positions}
        deepest = max(max(d) for d in depths)
        ranges = (len(anchors), len(anchors), STAGES, deepest, deepest + 1)
        super().__init__(
            family,
            [
                Dimension(name, 1, tuple(range(n)))
                for name, n in zip(_SETTINGS, ranges, strict=True)
            ],
        )
        self._all = (
            *(self.anchor(index) for index in range(len(anchors))),
            *(self._subnet(position.settings) for position in self.positions),
        )

    def canonical(self, settings: dict[str, Setting]) -> dict[str, Setting]:
        """Raises ``ValueError``, with the legal positions, for one that does not exist."""
        values = tuple(int(settings[name][0]) for name in _SETTINGS)
        front, back = values[:2]
        if front == back:
            return {name: (front if name in {"front", "back"} else 0,) for name in _SETTINGS}
        if values not in self._by_settings:
            legal = ", ".join(str(p.settings) for p in self.positions)
            raise ValueError(
                f"no stitch has ({', '.join(_SETTINGS)}) = {values}; there are {legal}"
            )
        return settings

    def describe(self, settings: dict[str, Setting]) -> str:
        """The anchor's name, or "resnet18 -> resnet50 at stage 2, block 1|3"."""
        front, back, stage, front_block, back_block = (int(settings[n][0]) for n in _SETTINGS)
        if front == back:
            return self.anchors[front]
        pair = f"{self.anchors[front]} -> {self.anchors[back]}"
        if back_block == self.depths[back][stage]:
            return f"{pair} after stage {stage}"
        return f"{pair} at stage {stage}, block {front_block}|{back_block}"

    def anchor(self, index: int) -> Subnet:
        """The subnet that is one whole anchor; ``ValueError`` where there is no such one."""
        return self._subnet((index, index, 0, 0, 0))

    def position(self, subnet: Subnet) -> Position | None:
        """Where this subnet is stitched; nothing for an anchor."""
        return self._by_settings.get(tuple(int(subnet[name][0]) for name in _SETTINGS))

    @property
    def stitches(self) -> tuple[Subnet, ...]:
        """All subnets that are no anchors."""
        return self._all[len(self.anchors) :]

    def sample(self, rng: Random) -> Subnet:
        """Uniform over all anchors and stitches."""
        return self._all[int(rng.random() * len(self._all))]

    def mutate(self, subnet: Subnet, rng: Random, probability: float = 0.1) -> Subnet:
        """Another draw, as often as any of the five settings would have been redrawn."""
        stays = rng.random() < (1.0 - probability) ** len(_SETTINGS)
        return subnet if stays else self.sample(rng)

    def __iter__(self) -> Iterator[Subnet]:
        """The anchors, then the stitches in the order of `stitch_positions`: SN-Net's numbers."""
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def _subnet(self, values: Sequence[Value]) -> Subnet:
        return self.subnet(**dict(zip(_SETTINGS, values, strict=True)))
