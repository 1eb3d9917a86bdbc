"""The Once-for-All MobileNetV3 family: elastic depth, expand ratio and kernel size, with SE.

Cai et al., "Once-for-All", ICLR 2020; Howard et al., "Searching for MobileNetV3", ICCV 2019. The
published networks are `MobileNetV3Definition.ofa(width_mult)`; any smaller member of the family is
another definition.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import count
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from supernets.elastic import (
    ACTIVATIONS,
    InvertedResidual,
    PlainSqueezeExcite,
    Residual,
    make_divisible,
    plain_activation,
    plain_conv,
    plain_depthwise,
    plain_norm,
)
from supernets.norms.statistics import Normalisation, SubnetStatistics
from supernets.ofa.ofa_supernet import OFADefinition, OFASupernet
from supernets.operators import LayerSelect, SubnetNorm, WeightSlice
from supernets.options import check_positive
from supernets.registry import register_supernet
from supernets.space import StagedSpace, Subnet
from supernets.supernet import Preprocessing

FAMILY = "ofa_mobilenetv3"


@dataclass(frozen=True, slots=True)
class MobileNetV3Definition(OFADefinition):
    """One member of the family. The defaults are OFA's w1.0 network on ImageNet."""

    stem_width: int = 16
    stem_stride: int = 2
    first_width: int = 16  # of the fixed first block: kernel 3, no expansion
    stage_widths: tuple[int, ...] = (24, 40, 80, 112, 160)
    strides: tuple[int, ...] = (2, 2, 2, 1, 2)
    activations: tuple[str, ...] = ("relu", "relu", "h_swish", "h_swish", "h_swish")
    squeezes: tuple[bool, ...] = (False, True, False, True, True)
    final_width: int = 960
    feature_width: int = 1280
    kernels: tuple[int, ...] = (3, 5, 7)
    expands: tuple[int, ...] = (3, 4, 6)
    depths: tuple[int, ...] = (2, 3, 4)
    eps: float = 1e-5

    def __post_init__(self) -> None:
        check_positive(self)
        stages = len(self.stage_widths)
        if not stages == len(self.strides) == len(self.activations) == len(self.squeezes):
            raise ValueError("widths, strides, activations and squeezes need one value per stage")
        if any(k % 2 == 0 for k in self.kernels):
            raise ValueError(f"kernels must be odd: {self.kernels}")
        for name in self.activations:
            if name not in ACTIVATIONS:
                raise ValueError(f"activation {name!r} is not one of {', '.join(ACTIVATIONS)}")

    @classmethod
    def ofa(cls, width_mult: float = 1.0, num_classes: int = 1000) -> Self:
        """The networks published as ``ofa_mbv3_d234_e346_k357_w{1.0,1.2}``."""

        def scaled(width: int) -> int:
            return make_divisible(width * width_mult)

        return cls(
            num_classes=num_classes,
            stem_width=scaled(16),
            first_width=scaled(16),
            stage_widths=tuple(scaled(w) for w in (24, 40, 80, 112, 160)),
            final_width=scaled(960),
            feature_width=scaled(1280),
        )

    def space(self) -> StagedSpace:
        return StagedSpace(
            FAMILY,
            len(self.stage_widths),
            self.depths,
            {"ks": self.kernels, "e": self.expands},
        )

    def settings(self, subnet: Subnet) -> list[list[tuple[int, int]]]:
        """Per stage the (kernel, expand ratio) of each active block."""
        per_stage = max(self.depths)
        kernels, ratios = subnet["ks"], subnet["e"]
        return [
            [
                (int(kernels[stage * per_stage + i]), int(ratios[stage * per_stage + i]))
                for i in range(int(depth))
            ]
            for stage, depth in enumerate(subnet["d"])
        ]


class OFAMobileNetV3(OFASupernet):
    """The trainable form of one member of the family."""

    space: StagedSpace
    spec: MobileNetV3Definition

    def __init__(
        self,
        spec: MobileNetV3Definition,
        *,
        name: str = FAMILY,
        preprocessing: Preprocessing | None = None,
        labels: Sequence[str] | None = None,
    ) -> None:
        super().__init__(spec, name=name, preprocessing=preprocessing, labels=labels)
        layer_ids = count()

        def new_norm(channels: int) -> SubnetNorm:
            return SubnetNorm(next(layer_ids), channels, spec.eps)

        def block(width: int, out: int, **options: Any) -> InvertedResidual:
            return InvertedResidual(width, out, new_norm=new_norm, **options)

        self.stem = WeightSlice(spec.in_channels, spec.stem_width, 3, spec.stem_stride)
        self.stem_norm = new_norm(spec.stem_width)
        self.first = block(
            spec.stem_width,
            spec.first_width,
            stride=1,
            kernels=(3,),
            expands=(1,),
            activation="relu",
            squeeze=False,
        )
        stages, width = [], spec.first_width
        for out, stride, activation, squeeze in zip(
            spec.stage_widths, spec.strides, spec.activations, spec.squeezes, strict=True
        ):
            blocks = []
            for index in range(max(spec.depths)):
                blocks.append(
                    block(
                        width,
                        out,
                        stride=stride if index == 0 else 1,
                        kernels=spec.kernels,
                        expands=spec.expands,
                        activation=activation,
                        squeeze=squeeze,
                    )
                )
                width = out
            stages.append(LayerSelect(blocks))
        self.stages = nn.ModuleList(stages)
        self.final_expand = WeightSlice(width, spec.final_width)
        self.final_norm = new_norm(spec.final_width)
        self.feature_mix = WeightSlice(spec.final_width, spec.feature_width)
        self.classifier = nn.Linear(spec.feature_width, spec.num_classes)

    def blocks(self) -> list[list[InvertedResidual]]:
        """The elastic blocks by stage."""
        return [
            [cast("InvertedResidual", block) for block in cast("LayerSelect", stage).blocks]
            for stage in self.stages
        ]

    def run(self, x: Tensor, subnet: Subnet, normalise: Normalisation) -> Tensor:
        # Depthwise kernels are several times faster channels-last, on CPUs and GPUs alike.
        x = x.contiguous(memory_format=torch.channels_last)
        x = ACTIVATIONS["h_swish"](self.stem_norm(self.stem(x), normalise))
        x = self.first(x, 3, 1, normalise)
        for stage, blocks in zip(self.stages, self.spec.settings(subnet), strict=True):
            x = stage(
                x,
                len(blocks),
                lambda i, block, y, blocks=blocks: block(y, *blocks[i], normalise),
            )
        x = ACTIVATIONS["h_swish"](self.final_norm(self.final_expand(x), normalise))
        x = x.mean((2, 3), keepdim=True)
        x = ACTIVATIONS["h_swish"](self.feature_mix(x))
        return self.classifier(x.flatten(1))

    def extract(self, subnet: Subnet) -> nn.Module:
        statistics = self.statistics[subnet]
        spec = self.spec

        def norm(source: SubnetNorm, channels: int) -> nn.Module:
            entry = statistics[source.layer]
            return plain_norm(source, channels, entry.mean, entry.var)

        blocks = [_plain_block(self.first, 3, 1, statistics)]
        for stage, settings in zip(self.blocks(), self.spec.settings(subnet), strict=True):
            for module, (kernel, ratio) in zip(stage, settings, strict=False):
                blocks.append(_plain_block(module, kernel, ratio, statistics))
        head = nn.Linear(spec.feature_width, spec.num_classes, dtype=self.classifier.weight.dtype)
        head.load_state_dict(self.classifier.state_dict())
        width = spec.stage_widths[-1]
        return nn.Sequential(
            plain_conv(self.stem, spec.in_channels, spec.stem_width),
            norm(self.stem_norm, spec.stem_width),
            plain_activation("h_swish"),
            *blocks,
            plain_conv(self.final_expand, width, spec.final_width),
            norm(self.final_norm, spec.final_width),
            plain_activation("h_swish"),
            nn.AdaptiveAvgPool2d(1),
            plain_conv(self.feature_mix, spec.final_width, spec.feature_width),
            plain_activation("h_swish"),
            nn.Flatten(),
            head,
        ).eval()


def _plain_block(
    source: InvertedResidual, kernel: int, ratio: int, statistics: SubnetStatistics
) -> nn.Module:
    middle = source.middle(ratio)

    def norm(layer: SubnetNorm, channels: int) -> nn.Module:
        entry = statistics[layer.layer]
        return plain_norm(layer, channels, entry.mean, entry.var)

    layers: list[nn.Module] = []
    if source.expand is not None and source.expand_norm is not None:
        layers += [
            plain_conv(source.expand, source.in_channels, middle),
            norm(source.expand_norm, middle),
            plain_activation(source.activation),
        ]
    layers += [
        plain_depthwise(source.depthwise, middle, kernel),
        norm(source.depthwise_norm, middle),
        plain_activation(source.activation),
    ]
    if source.squeeze is not None:
        layers.append(PlainSqueezeExcite(source.squeeze, middle))
    layers += [
        plain_conv(source.project, middle, source.out_channels),
        norm(source.project_norm, source.out_channels),
    ]
    body = nn.Sequential(*layers)
    return Residual(body) if source.residual else body


@register_supernet()
def ofa_mobilenetv3(
    *, num_classes: int = 1000, width_mult: float = 1.0, **definition: Any
) -> OFAMobileNetV3:
    """OFA MobileNetV3; ``definition`` overrides fields of `MobileNetV3Definition`."""
    spec = MobileNetV3Definition.ofa(width_mult, num_classes)
    return OFAMobileNetV3(
        MobileNetV3Definition.from_json({**asdict(spec), **definition}) if definition else spec
    )
