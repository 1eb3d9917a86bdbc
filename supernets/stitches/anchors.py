"""ResNets as anchors of a stitched net: their structure, their blocks, and their plain form.

He et al., "Deep Residual Learning", CVPR 2016, with the stride in the 3x3 convolution, as timm and
torchvision build them. Parameters have the names that both libraries give them, except that a
stage's blocks lie under ``blocks``.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supernets.elastic import plain_conv, plain_norm
from supernets.norms.statistics import Normalisation, SubnetStatistics
from supernets.operators import LayerSelect, SubnetNorm, WeightSlice

Library = Literal["timm", "torchvision"]
NewNorm = Callable[[int], SubnetNorm]  # channels -> a norm with the next layer id

# What a ResNet of the plain form consists of; anything else computes something else.
_PLAIN_MODULES = frozenset(
    {"ResNet", "Sequential", "BasicBlock", "Bottleneck", "Conv2d", "BatchNorm2d", "ReLU",
     "MaxPool2d", "AdaptiveAvgPool2d", "SelectAdaptivePool2d", "Flatten", "Identity", "Linear"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ResNetDefinition:
    """One plain ResNet. ``width`` is that of the stem and of the first stage, 64 in the paper."""

    name: str
    bottleneck: bool
    depths: tuple[int, ...]
    width: int = 64
    middle_factor: float = 1.0  # of a bottleneck's 3x3 convolution; 2 in the wide ResNets

    @property
    def stage_widths(self) -> tuple[int, ...]:
        """Output channels of each stage."""
        expansion = 4 if self.bottleneck else 1
        return tuple(self.width * 2**stage * expansion for stage in range(len(self.depths)))


_KNOWN = {
    definition.name: definition
    for definition in (
        ResNetDefinition("resnet18", bottleneck=False, depths=(2, 2, 2, 2)),
        ResNetDefinition("resnet34", bottleneck=False, depths=(3, 4, 6, 3)),
        ResNetDefinition("resnet50", bottleneck=True, depths=(3, 4, 6, 3)),
        ResNetDefinition("resnet101", bottleneck=True, depths=(3, 4, 23, 3)),
        ResNetDefinition("resnet152", bottleneck=True, depths=(3, 8, 36, 3)),
    )
}


def resnet_definition(name: str, library: Library = "timm", width: int = 64) -> ResNetDefinition:
    """The structure of a ResNet by its name in a library.

    The common five are known; others (``resnet26``, ``wide_resnet50_2``) are read off the library's
    own model. ``ValueError`` for one that has no plain form: deep stem, groups, gates, blurring.
    """
    known = _KNOWN.get(name)
    return replace(known or read_library(name, library), width=width)


def library_model(name: str, library: Library, **options: Any) -> nn.Module:
    """The library's own network with random weights; ``ValueError`` if it knows no such name."""
    if library == "timm":
        import timm

        if not timm.is_model(name):
            raise ValueError(f"timm has no model {name!r}")
        return timm.create_model(name, pretrained=False, **options)
    if library != "torchvision":
        raise ValueError(f"the library is timm or torchvision, not {library!r}")
    models = import_module("torchvision.models")  # it has no type stubs
    if name not in models.list_models():
        raise ValueError(f"torchvision has no model {name!r}")
    return cast("nn.Module", models.get_model(name, weights=None, **options))


def read_library(name: str, library: Library) -> ResNetDefinition:
    """Read the structure off the library's model, and check that ours would be the same network.

    ``ValueError`` names the first thing that differs.
    """
    with torch.device("meta"):
        theirs = library_model(name, library)
        strange = {type(m).__name__ for m in theirs.modules()} - _PLAIN_MODULES
        if strange:
            raise ValueError(f"{name} is no plain ResNet: it has {', '.join(sorted(strange))}")
        state = theirs.state_dict()
        depths = tuple(len(getattr(theirs, f"layer{s}")) for s in range(1, 5))
        bottleneck = "layer1.0.conv3.weight" in state
        middle = state["layer1.0.conv2.weight"].shape[0] if bottleneck else 64
        found = ResNetDefinition(name, bottleneck, depths, middle_factor=middle / 64)
        norms = iter(range(10**6))
        ours = Anchor(found, 3, 1000, lambda channels: SubnetNorm(next(norms), channels))
    mine = {library_name(n): (tuple(p.shape), _geometry(ours, n)) for n, p in _named(ours)}
    yours = {n: (tuple(p.shape), _geometry(theirs, n)) for n, p in theirs.named_parameters()}
    for key in sorted(mine.keys() ^ yours.keys()) or sorted(
        key for key, value in mine.items() if yours[key] != value
    ):
        raise ValueError(f"{name} is no plain ResNet: {key} differs")
    return found


def library_name(name: str) -> str:
    """A parameter's name in timm and torchvision."""
    return name.replace(".blocks.", ".")


def _named(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()


def _geometry(net: nn.Module, name: str) -> tuple[Any, ...]:
    """Of the convolution or norm that a parameter belongs to: what its shape does not say."""
    owner = net.get_submodule(name.rpartition(".")[0])
    if isinstance(owner, WeightSlice):
        half = owner.weight.shape[2] // 2
        return ((owner.stride, owner.stride), (half, half), (1, 1), 1)
    if isinstance(owner, nn.Conv2d):
        return (owner.stride, owner.padding, owner.dilation, owner.groups)
    return (owner.eps,) if isinstance(owner, SubnetNorm | nn.BatchNorm2d) else ()


class ResidualBlock(nn.Module):
    """Basic (3x3, 3x3) or bottleneck (1x1, 3x3, 1x1) block, with its shortcut."""

    def __init__(
        self, spec: ResNetDefinition, in_width: int, stage: int, stride: int, new_norm: NewNorm
    ) -> None:
        super().__init__()
        narrow, out_width = spec.width * 2**stage, spec.stage_widths[stage]
        if spec.bottleneck:
            middle = round(narrow * spec.middle_factor)
            shapes = [(in_width, middle, 1, 1), (middle, middle, 3, stride),
                      (middle, out_width, 1, 1)]  # fmt: skip
        else:
            shapes = [(in_width, out_width, 3, stride), (out_width, out_width, 3, 1)]
        self.convolutions = len(shapes)
        for index, shape in enumerate(shapes, start=1):
            self.add_module(f"conv{index}", WeightSlice(*shape))
            self.add_module(f"bn{index}", new_norm(shape[1]))
        # Each block starts as its shortcut: a deep anchor then trains like a shallow one.
        nn.init.zeros_(self.layers()[-1][1].weight)
        changes = stride != 1 or in_width != out_width
        self.downsample = (
            nn.ModuleList([WeightSlice(in_width, out_width, 1, stride), new_norm(out_width)])
            if changes
            else None
        )

    def layers(self) -> list[tuple[WeightSlice, SubnetNorm]]:
        """The convolutions of the body, each with its norm."""
        return [
            (getattr(self, f"conv{i}"), getattr(self, f"bn{i}"))
            for i in range(1, self.convolutions + 1)
        ]

    def shortcut(self) -> tuple[WeightSlice, SubnetNorm] | None:
        """The projection, where the shape changes."""
        if self.downsample is None:
            return None
        convolution, norm = self.downsample
        return cast("WeightSlice", convolution), cast("SubnetNorm", norm)

    def forward(self, x: Tensor, normalise: Normalisation) -> Tensor:
        """``x`` [N, C, H, W] -> [N, C', H / stride, W / stride], not negative."""
        y = x
        for index, (convolution, norm) in enumerate(self.layers()):
            y = norm(convolution(F.relu(y) if index else y), normalise)
        projection = self.shortcut()
        if projection is not None:
            x = projection[1](projection[0](x), normalise)
        return F.relu(x + y)


class PlainBlock(nn.Module):
    """The extracted form of `ResidualBlock`: relu(shortcut(x) + body(x))."""

    def __init__(self, body: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.shortcut(x) + self.body(x))


class Stage(LayerSelect):
    """`LayerSelect` of which any run of blocks can be active: a stitch ends or begins inside."""

    def between(self, x: Tensor, first: int, stop: int, normalise: Normalisation) -> Tensor:
        """Apply the blocks ``first`` to ``stop - 1``; the input passes by the others."""
        return self(x, stop, lambda i, block, y: block(y, normalise) if i >= first else y)


class Anchor(nn.Module):
    """One ResNet that can be left, or entered, at any block."""

    def __init__(
        self, spec: ResNetDefinition, in_channels: int, num_classes: int, new_norm: NewNorm
    ) -> None:
        super().__init__()
        self.spec, self.in_channels = spec, in_channels
        self.conv1 = WeightSlice(in_channels, spec.width, 7, 2)
        self.bn1 = new_norm(spec.width)
        width = spec.width
        for stage, depth in enumerate(spec.depths):
            blocks = []
            for index in range(depth):
                stride = 2 if stage and not index else 1
                blocks.append(ResidualBlock(spec, width, stage, stride, new_norm))
                width = spec.stage_widths[stage]
            self.add_module(f"layer{stage + 1}", Stage(blocks))
        self.fc = nn.Linear(width, num_classes)

    def stages(self) -> list[Stage]:
        return [getattr(self, f"layer{s + 1}") for s in range(len(self.spec.depths))]

    def blocks(self, stage: int) -> list[ResidualBlock]:
        return [cast("ResidualBlock", block) for block in self.stages()[stage].blocks]

    def stem(self, x: Tensor, normalise: Normalisation) -> Tensor:
        """Images [N, C, H, W] -> features [N, width, H / 4, W / 4]."""
        return F.max_pool2d(F.relu(self.bn1(self.conv1(x), normalise)), 3, 2, 1)

    def until(self, x: Tensor, stage: int, block: int, normalise: Normalisation) -> Tensor:
        """Images -> what ``block`` of ``stage`` puts out."""
        x = self.stem(x, normalise)
        for index, blocks in enumerate(self.stages()[: stage + 1]):
            stop = block + 1 if index == stage else self.spec.depths[index]
            x = blocks.between(x, 0, stop, normalise)
        return x

    def onwards(self, x: Tensor, stage: int, block: int, normalise: Normalisation) -> Tensor:
        """What goes into ``block`` of ``stage`` -> logits [N, classes]."""
        for index in range(stage, len(self.spec.depths)):
            first = block if index == stage else 0
            x = self.stages()[index].between(x, first, self.spec.depths[index], normalise)
        return self.fc(x.mean((2, 3)))

    def forward(self, x: Tensor, normalise: Normalisation) -> Tensor:
        """Images [N, C, H, W] -> logits [N, classes]."""
        return self.onwards(self.stem(x, normalise), 0, 0, normalise)

    def features(
        self, x: Tensor, normalise: Normalisation
    ) -> Iterator[tuple[tuple[int, int], Tensor]]:
        """(stage, block) and what that block puts out, in turn."""
        x = self.stem(x, normalise)
        for stage in range(len(self.spec.depths)):
            for index, block in enumerate(self.blocks(stage)):
                x = block(x, normalise)
                yield (stage, index), x

    def plain_stem(self, statistics: SubnetStatistics) -> list[nn.Module]:
        """`stem` as ordinary modules that share no storage."""
        return [*_plain_pair(self.conv1, self.bn1, statistics), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]

    def plain_blocks(
        self, stage: int, first: int, stop: int, statistics: SubnetStatistics
    ) -> list[nn.Module]:
        """Those blocks of a stage as ordinary modules."""
        return [plain_block(block, statistics) for block in self.blocks(stage)[first:stop]]

    def plain_head(self) -> list[nn.Module]:
        """Pooling and classifier as ordinary modules."""
        head = nn.Linear(self.fc.in_features, self.fc.out_features, dtype=self.fc.weight.dtype)
        head.load_state_dict(self.fc.state_dict())
        return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), head]


def plain_block(block: ResidualBlock, statistics: SubnetStatistics) -> PlainBlock:
    """An ordinary module with its own copy of the block's weights and statistics."""
    body: list[nn.Module] = []
    for convolution, norm in block.layers():
        body += [*([nn.ReLU()] if body else []), *_plain_pair(convolution, norm, statistics)]
    projection = block.shortcut()
    shortcut = nn.Sequential(*_plain_pair(*projection, statistics)) if projection else nn.Identity()
    return PlainBlock(nn.Sequential(*body), shortcut)


def _plain_pair(
    convolution: WeightSlice, norm: SubnetNorm, statistics: SubnetStatistics
) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    out_channels, in_channels = convolution.weight.shape[:2]
    entry = statistics[norm.layer]
    return (
        plain_conv(convolution, in_channels, out_channels),
        plain_norm(norm, out_channels, entry.mean, entry.var),
    )
