"""The Once-for-All ResNet50 family: elastic depth, expand ratio and width, in ResNet-D form.

Cai et al., "Once-for-All", ICLR 2020; the network is the `ofa` package's OFAResNets. The published
one is `ResNet50Definition()`; any smaller member of the family is another definition.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from supernets.elastic import Residual, expanded, make_divisible, plain_conv, plain_norm
from supernets.norms.statistics import Normalisation
from supernets.ofa.ofa_resnet_blocks import Bottleneck, PlainBottleneck
from supernets.ofa.ofa_resnet_space import ResNetSpace
from supernets.ofa.ofa_supernet import OFADefinition, OFASupernet
from supernets.operators import LayerSelect, SubnetNorm, WeightSlice
from supernets.options import check_positive
from supernets.registry import register_supernet
from supernets.space import Subnet
from supernets.supernet import Preprocessing

FAMILY = "ofa_resnet50"


@dataclass(frozen=True, slots=True)
class ResNetWidths:
    """One subnet in channels: per stage its output width and the middle width of each block."""

    stem_middle: int
    stem_residual: bool
    stem: int
    stages: tuple[tuple[int, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True)
class ResNet50Definition(OFADefinition):
    """One member of the family. The defaults are the published network on ImageNet."""

    stem_width: int = 64
    stage_widths: tuple[int, ...] = (256, 512, 1024, 2048)
    strides: tuple[int, ...] = (1, 2, 2, 2)
    base_depths: tuple[int, ...] = (2, 2, 4, 2)  # blocks that always run
    depths: tuple[int, ...] = (0, 1, 2)  # blocks beyond them
    expands: tuple[float, ...] = (0.2, 0.25, 0.35)
    width_mults: tuple[float, ...] = (0.65, 0.8, 1.0)
    eps: float = 1e-5

    def __post_init__(self) -> None:
        check_positive(self, "base_depths", "depths")
        if not len(self.stage_widths) == len(self.strides) == len(self.base_depths):
            raise ValueError("widths, strides and base depths need one value per stage")
        if min(self.base_depths) < 1 or min(self.depths) < 0:
            raise ValueError("a stage needs at least one block")
        for name, values in (("expands", self.expands), ("width_mults", self.width_mults)):
            if not values or list(values) != sorted(values):
                raise ValueError(f"{name} must ascend, at least one of them: {values}")

    def space(self) -> ResNetSpace:
        return ResNetSpace(
            FAMILY, self.base_depths, self.depths, self.expands, len(self.width_mults)
        )

    def stem(self, index: int) -> int:
        """Output channels of the stem at this width index."""
        return make_divisible(self.stem_width * self.width_mults[index])

    def stem_middle(self, index: int) -> int:
        return make_divisible(self.stem(index) // 2)

    def stage(self, stage: int, index: int) -> int:
        """Output channels of a stage at this width index."""
        return make_divisible(self.stage_widths[stage] * self.width_mults[index])

    def widths(self, space: ResNetSpace, subnet: Subnet) -> ResNetWidths:
        """What the subnet's settings mean. Middle widths follow from the active output width."""
        middle, stem, *indices = (int(index) for index in subnet["w"])
        stages = []
        for stage, (index, ratios) in enumerate(zip(indices, space.stages(subnet), strict=True)):
            out = self.stage(stage, index)
            stages.append((out, tuple(expanded(out, ratio) for ratio in ratios)))
        residual = subnet["d"][0] == max(self.depths)
        return ResNetWidths(self.stem_middle(middle), residual, self.stem(stem), tuple(stages))


class OFAResNet50(OFASupernet):
    """The trainable form of one member of the family."""

    space: ResNetSpace
    spec: ResNet50Definition

    def __init__(
        self,
        spec: ResNet50Definition,
        *,
        name: str = FAMILY,
        preprocessing: Preprocessing | None = None,
        labels: Sequence[str] | None = None,
    ) -> None:
        super().__init__(spec, name=name, preprocessing=preprocessing, labels=labels)
        layer_ids = count()

        def new_norm(channels: int) -> SubnetNorm:
            return SubnetNorm(next(layer_ids), channels, spec.eps)

        middle, width = spec.stem_middle(-1), spec.stem(-1)
        self.stem1 = WeightSlice(spec.in_channels, middle, 3, 2)
        self.stem1_norm = new_norm(middle)
        self.stem2 = WeightSlice(middle, middle, 3)
        self.stem2_norm = new_norm(middle)
        self.stem3 = WeightSlice(middle, width, 3)
        self.stem3_norm = new_norm(width)
        stages = []
        for stage, (base, stride) in enumerate(zip(spec.base_depths, spec.strides, strict=True)):
            out, blocks = spec.stage(stage, -1), []
            for index in range(base + max(spec.depths)):
                blocks.append(
                    Bottleneck(
                        width,
                        expanded(out, max(spec.expands)),
                        out,
                        stride=stride if index == 0 else 1,
                        first=index == 0,
                        new_norm=new_norm,
                    )
                )
                width = out
            stages.append(LayerSelect(blocks))
        self.stages = nn.ModuleList(stages)
        self.classifier = nn.Linear(width, spec.num_classes)

    def blocks(self) -> list[list[Bottleneck]]:
        """The elastic blocks by stage."""
        return [
            [cast("Bottleneck", block) for block in cast("LayerSelect", stage).blocks]
            for stage in self.stages
        ]

    def widths(self, subnet: Subnet) -> ResNetWidths:
        """The subnet in channels."""
        return self.spec.widths(self.space, subnet)

    def run(self, x: Tensor, subnet: Subnet, normalise: Normalisation) -> Tensor:
        # The memory layout stays the caller's: dense convolutions gain 10 to 20 % on a CPU from
        # channels-last, and lose the agreement with other implementations in the last bits.
        widths = self.widths(subnet)
        x = F.relu(self.stem1_norm(self.stem1(x, widths.stem_middle), normalise))
        if widths.stem_residual:
            x = x + F.relu(self.stem2_norm(self.stem2(x, widths.stem_middle), normalise))
        x = F.relu(self.stem3_norm(self.stem3(x, widths.stem), normalise))
        x = F.max_pool2d(x, 3, 2, 1)
        for stage, (out, middles) in zip(self.stages, widths.stages, strict=True):
            x = stage(
                x,
                len(middles),
                lambda i, block, y, out=out, middles=middles: block(y, middles[i], out, normalise),
            )
        x = x.mean((2, 3))
        return F.linear(x, self.classifier.weight[:, : x.shape[1]], self.classifier.bias)

    def extract(self, subnet: Subnet) -> nn.Module:
        statistics, widths = self.statistics[subnet], self.widths(subnet)

        def layer(
            conv: WeightSlice, norm: SubnetNorm, in_channels: int, out: int
        ) -> list[nn.Module]:
            entry = statistics[norm.layer]
            return [
                plain_conv(conv, in_channels, out),
                plain_norm(norm, out, entry.mean, entry.var),
                nn.ReLU(),
            ]

        middle, width = widths.stem_middle, widths.stem
        layers = layer(self.stem1, self.stem1_norm, self.spec.in_channels, middle)
        if widths.stem_residual:
            body = layer(self.stem2, self.stem2_norm, middle, middle)
            layers.append(Residual(nn.Sequential(*body)))
        layers += layer(self.stem3, self.stem3_norm, middle, width)
        layers.append(nn.MaxPool2d(3, 2, 1))
        for blocks, (out, middles) in zip(self.blocks(), widths.stages, strict=True):
            for block, block_middle in zip(blocks, middles, strict=False):
                layers.append(PlainBottleneck(block, width, block_middle, out, statistics))
                width = out
        weight = self.classifier.weight
        head = nn.Linear(width, self.spec.num_classes, dtype=weight.dtype)
        head.load_state_dict({"weight": weight[:, :width], "bias": self.classifier.bias})
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head).eval()


@register_supernet()
def ofa_resnet50(
    *, num_classes: int = 1000, image_size: int = 224, **definition: Any
) -> OFAResNet50:
    """OFA ResNet50; ``definition`` overrides fields of `ResNet50Definition`."""
    return OFAResNet50(
        ResNet50Definition.from_json(
            {"num_classes": num_classes, "image_size": image_size, **definition}
        )
    )
