"""Stitched ResNets: anchors resident once, 1x1 stitches between them, every stitch a subnet.

Pan et al., "Stitchable Neural Networks", CVPR 2023, for the ResNets of timm and torchvision. What
differs from the published code: stitches in every stage and at every stage boundary, a ReLU behind
the stitch, normalisation statistics per stitch, and the stitch is an argument of the call.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import count, pairwise
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supernets.elastic import plain_conv
from supernets.errors import CheckpointError
from supernets.foreign import check_state
from supernets.norms.statistics import LayerStatistics, Normalisation
from supernets.operators import SubnetNorm, WeightSlice
from supernets.options import check_positive, checked
from supernets.registry import register_supernet
from supernets.space import Subnet
from supernets.stitches.anchors import (
    Anchor,
    Library,
    ResNetDefinition,
    library_name,
    resnet_definition,
)
from supernets.stitches.stitching import Position, Positions, StitchSpace, layer_counts
from supernets.supernet import Preprocessing, Supernet

FAMILY = "stitched_resnet"


@dataclass(frozen=True, slots=True)
class StitchedDefinition:
    """Which anchors, ordered fast to slow, and how they are stitched.

    ``width`` is that of the anchors' first stage; anchors of less than 64 are narrow variants for
    small tasks, which no library has weights for. ``positions`` is "all", or "snnet" for those of
    the published ResNet checkpoints, which also want ``stitch_relu`` off.
    """

    anchors: tuple[str, ...] = ("resnet18", "resnet50")
    library: Library = "timm"
    num_classes: int = 1000
    in_channels: int = 3
    image_size: int = 224
    width: int = 64
    stitch_relu: bool = True
    positions: Positions = "all"

    def __post_init__(self) -> None:
        check_positive(self)
        if len(self.anchors) < 2 or len(set(self.anchors)) != len(self.anchors):
            raise ValueError(f"stitching needs two different anchors or more: {self.anchors}")
        if self.positions not in {"all", "snnet"}:
            raise ValueError(f"positions are all or snnet, not {self.positions!r}")

    def resnets(self) -> list[ResNetDefinition]:
        """``ValueError`` where an anchor has a stage deeper than the next one's."""
        found = [resnet_definition(name, self.library, self.width) for name in self.anchors]
        for fast, slow in pairwise(found):
            if any(a > b for a, b in zip(fast.depths, slow.depths, strict=True)):
                raise ValueError(
                    f"anchors go from fast to slow: {fast.name} with {fast.depths} blocks cannot "
                    f"come before {slow.name} with {slow.depths}"
                )
        return found


class Stitch(nn.Module):
    """A 1x1 convolution with bias from the front's channels to the back's."""

    def __init__(self, front_width: int, back_width: int, *, relu: bool) -> None:
        super().__init__()
        self.relu = relu
        self.transform = WeightSlice(front_width, back_width, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """[N, front, H, W] -> [N, back, H, W]."""
        # Blocks put out what a ReLU left, so a block expects nothing negative.
        y = self.transform(x)
        return F.relu(y) if self.relu else y


class StitchedResNet(Supernet):
    """The trainable form. `initialise_stitches` makes the stitches worth fine-tuning."""

    space: StitchSpace

    def __init__(
        self,
        spec: StitchedDefinition,
        *,
        preprocessing: Preprocessing | None = None,
        labels: Sequence[str] | None = None,
    ) -> None:
        resnets = spec.resnets()
        depths = [resnet.depths for resnet in resnets]
        super().__init__(
            FAMILY,
            StitchSpace(FAMILY, spec.anchors, depths, spec.positions),
            preprocessing or Preprocessing.usual(spec.image_size, spec.in_channels),
            labels or [str(i) for i in range(spec.num_classes)],
        )
        self.spec = spec
        layer_ids = count()

        def new_norm(channels: int) -> SubnetNorm:
            return SubnetNorm(next(layer_ids), channels)

        self.anchors = nn.ModuleList(
            Anchor(resnet, spec.in_channels, spec.num_classes, new_norm) for resnet in resnets
        )
        # As SN-Net nests them: the stages that are stitched, the pairs of anchors, the layers.
        counts = layer_counts(depths, spec.positions)
        self._stage_index = {stage: index for index, stage in enumerate(counts)}
        self.stitch_layers = nn.ModuleList(
            nn.ModuleList(
                nn.ModuleList(
                    Stitch(
                        resnets[front].stage_widths[stage],
                        resnets[front + 1].stage_widths[stage],
                        relu=spec.stitch_relu,
                    )
                    for _ in range(number)
                )
                for front, number in pairs.items()
            )
            for stage, pairs in counts.items()
        )

    def anchor(self, index: int) -> Anchor:
        """The module of an anchor; ``ValueError`` where there is no such one."""
        if not 0 <= index < len(self.anchors):
            raise ValueError(f"there are {len(self.anchors)} anchors, and no anchor {index}")
        return cast("Anchor", self.anchors[index])

    def stitch(self, position: Position) -> Stitch:
        """The layer at this position; with ``positions="snnet"`` some share one."""
        pairs = cast("nn.ModuleList", self.stitch_layers[self._stage_index[position.stage]])
        return cast("Stitch", cast("nn.ModuleList", pairs[position.front])[position.layer])

    def run(self, x: Tensor, subnet: Subnet, normalise: Normalisation) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        at = self.space.position(subnet)
        if at is None:
            return self.anchor(int(subnet["front"][0]))(x, normalise)
        x = self.anchor(at.front).until(x, at.stage, at.front_block, normalise)
        x = self.stitch(at)(x)
        return self.anchor(at.back).onwards(x, at.stage, at.back_block, normalise)

    def extract(self, subnet: Subnet) -> nn.Module:
        statistics = self.statistics[subnet]
        at = self.space.position(subnet)
        front = self.anchor(int(subnet["front"][0]))
        layers = front.plain_stem(statistics)
        for stage, depth in enumerate(front.spec.depths):
            if at is None or stage < at.stage:
                layers += front.plain_blocks(stage, 0, depth, statistics)
        if at is None:
            return nn.Sequential(*layers, *front.plain_head()).eval()
        layers += front.plain_blocks(at.stage, 0, at.front_block + 1, statistics)
        stitch, back = self.stitch(at), self.anchor(at.back)
        out_width, in_width = stitch.transform.weight.shape[:2]
        layers.append(plain_conv(stitch.transform, in_width, out_width))
        layers += [nn.ReLU()] if stitch.relu else []
        for stage in range(at.stage, len(back.spec.depths)):
            first = at.back_block if stage == at.stage else 0
            layers += back.plain_blocks(stage, first, back.spec.depths[stage], statistics)
        return nn.Sequential(*layers, *back.plain_head()).eval()

    def load_anchor(self, index: int, state_dict: dict[str, Tensor]) -> None:
        """Take an anchor's weights from a timm or torchvision state dict.

        Its running statistics become those of the anchor's own subnet, which then counts as
        calibrated; statistics of stitches with this anchor are dropped, and the stitches want
        `initialise_stitches` again. Raises `CheckpointError` with every missing, unexpected,
        misshapen or non-finite entry; the net is then unchanged.
        """
        anchor = self.anchor(index)
        check_anchor(anchor, state_dict)
        copy_anchor(anchor, state_dict)
        for subnet in list(self.statistics):
            if index in {subnet["front"][0], subnet["back"][0]}:
                del self.statistics[subnet]
        self.statistics.shared = None
        self.statistics[self.space.anchor(index)] = anchor_statistics(anchor, state_dict)

    def load_foreign(self, state_dict: dict[str, Tensor]) -> None:
        """Take a checkpoint of SN-Net's ResNets; see `supernets.stitches.snnet_names`."""
        from supernets.stitches.snnet_names import load_snnet

        load_snnet(self, state_dict)

    def definition(self) -> dict[str, Any]:
        return {**asdict(self.spec), "anchors": list(self.spec.anchors)}


def anchor_shapes(anchor: Anchor) -> dict[str, tuple[int, ...]]:
    """The libraries' names and shapes of all that an anchor needs, statistics included."""
    shapes = {library_name(n): tuple(p.shape) for n, p in anchor.named_parameters()}
    for name, norm in _norms(anchor):
        shapes |= dict.fromkeys(
            (f"{name}.running_mean", f"{name}.running_var"), tuple(norm.weight.shape)
        )
    return shapes


def anchor_counters(anchor: Anchor) -> frozenset[str]:
    """Names that may be there or not, and say nothing."""
    return frozenset(f"{name}.num_batches_tracked" for name, _ in _norms(anchor))


def check_anchor(anchor: Anchor, state_dict: dict[str, Tensor]) -> None:
    """Raises `CheckpointError` with all problems."""
    message = f"these are not the weights of a {anchor.spec.name} of this shape"
    check_state(state_dict, anchor_shapes(anchor), message, anchor_counters(anchor))
    negative = [
        f"{name}.running_var has negative entries"
        for name, _ in _norms(anchor)
        if (state_dict[f"{name}.running_var"] < 0).any()
    ]
    if negative:
        raise CheckpointError(message, negative)


@torch.no_grad()
def copy_anchor(anchor: Anchor, state_dict: dict[str, Tensor]) -> None:
    """Copy checked weights in."""
    for name, parameter in anchor.named_parameters():
        parameter.copy_(state_dict[library_name(name)])


def anchor_statistics(anchor: Anchor, state_dict: dict[str, Tensor]) -> dict[int, LayerStatistics]:
    """The running statistics of a checked state dict, by layer id."""
    return {
        norm.layer: LayerStatistics(
            state_dict[f"{name}.running_mean"].detach().float().clone(),
            state_dict[f"{name}.running_var"].detach().float().clone(),
        )
        for name, norm in _norms(anchor)
    }


def _norms(anchor: Anchor) -> list[tuple[str, SubnetNorm]]:
    return [(library_name(n), m) for n, m in anchor.named_modules() if isinstance(m, SubnetNorm)]


@register_supernet()
def stitched_resnet(
    *,
    anchors: Sequence[str] = ("resnet18", "resnet50"),
    library: Library = "timm",
    num_classes: int = 1000,
    **definition: Any,
) -> StitchedResNet:
    """ResNets stitched fast to slow; ``definition`` sets further `StitchedDefinition` fields."""
    fields = {"anchors": tuple(anchors), "library": library, "num_classes": num_classes}
    return StitchedResNet(StitchedDefinition(**checked(StitchedDefinition, fields | definition)))
