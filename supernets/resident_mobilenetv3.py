"""The resident form of OFA MobileNetV3: every subnet runs in place from one arena, through our ops.

A plan is what activating a subnet comes to: the slices of the arena that it reads, made once and
looked up afterwards. Making one copies nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.activation import Activation
from kernels.arena import Arena
from kernels.ops.conv import conv
from kernels.ops.depthwise import depthwise
from kernels.ops.pointwise import pointwise
from kernels.ops.squeeze_excite import squeeze_excite
from supernets.elastic import InvertedResidual, expanded, make_divisible
from supernets.norms.compact_norms import norm_tables
from supernets.norms.norm_tables import ResidentMemory, Storage, SubnetNormTable
from supernets.ofa_mobilenetv3 import OFAMobileNetV3
from supernets.space import Subnet
from supernets.supernet import ResidentForm

# Bytes of the widest activation that a block works on at once on a CPU. A batch of large images is
# taken in parts: they stay in the cache, and the allocator then reuses their memory instead of
# mapping fresh pages for every op, which can take longer than the op itself.
CPU_WORKING_SET = 4 << 20


@dataclass(frozen=True, slots=True)
class Norm:
    """(scale, shift) of one layer, [C] each."""

    scale: Tensor
    shift: Tensor


@dataclass(frozen=True, slots=True)
class Gate:
    """Squeeze-and-excite weights: [M, C], [M], [C, M], [C]."""

    reduce: Tensor
    reduce_bias: Tensor
    expand: Tensor
    expand_bias: Tensor


@dataclass(frozen=True, slots=True)
class Block:
    """One active inverted residual block: slices [M, C_in], [k, k, M], [C_out, M]."""

    expand: Tensor | None
    expand_norm: Norm | None
    filters: Tensor
    depthwise_norm: Norm
    gate: Gate | None
    project: Tensor
    project_norm: Norm
    stride: int
    activation: Activation
    residual: bool

    def __call__(self, x: Tensor) -> Tensor:
        """``x`` [N, H, W, C_in] -> [N, H', W', C_out]."""
        if len(x) > 1 and x.device.type == "cpu":
            widest = x[0, :, :, 0].numel() * self.filters.shape[2] * x.element_size()
            together = max(1, CPU_WORKING_SET // widest)
            if together < len(x):
                return torch.cat([self._run(part) for part in x.split(together)])
        return self._run(x)

    def _run(self, x: Tensor) -> Tensor:
        y, act, before = x, self.activation, None
        if self.expand is not None and self.expand_norm is not None:
            y = pointwise(y, self.expand)  # the next op normalises what it reads
            before = (self.expand_norm.scale, self.expand_norm.shift, act)
        norm, gate = self.depthwise_norm, self.gate
        pooled = None if gate is None else y.new_empty((len(y), self.filters.shape[2]))
        y = depthwise(y, self.filters, norm.scale, norm.shift, self.stride, act, before, pooled)
        if gate is not None:
            y = squeeze_excite(
                y, gate.reduce, gate.reduce_bias, gate.expand, gate.expand_bias, pooled
            )
        norm = self.project_norm
        shortcut = x if self.residual else None
        return pointwise(y, self.project, norm.scale, norm.shift, "identity", shortcut)


@dataclass(frozen=True, slots=True)
class Plan:
    """All slices of one subnet, in execution order."""

    stem: Tensor
    stem_norm: Norm
    stem_stride: int
    blocks: tuple[Block, ...]
    final: Tensor
    final_norm: Norm
    feature: Tensor
    classifier: Tensor
    classifier_bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """``x`` [N, H, W, C] -> logits [N, classes]."""
        norm = self.stem_norm
        y = conv(x, self.stem, norm.scale, norm.shift, self.stem_stride, "h_swish")
        for block in self.blocks:
            y = block(y)
        norm = self.final_norm
        y = pointwise(y, self.final, norm.scale, norm.shift, "h_swish")
        y = pointwise(y.mean((1, 2)), self.feature, activation="h_swish")
        return F.linear(y, self.classifier, self.classifier_bias)


@dataclass(frozen=True, slots=True)
class BlockLayout:
    """What of a block does not depend on the subnet: its names in the arena and its norm layers."""

    name: str
    in_channels: int
    out_channels: int
    stride: int
    activation: Activation
    expands: bool
    squeezes: bool
    residual: bool
    expand_layer: int
    depthwise_layer: int
    project_layer: int

    @classmethod
    def of(cls, name: str, block: InvertedResidual) -> Self:
        return cls(
            name,
            block.in_channels,
            block.out_channels,
            block.stride,
            cast("Activation", block.activation),
            expands=block.expand is not None,
            squeezes=block.squeeze is not None,
            residual=block.residual,
            expand_layer=-1 if block.expand_norm is None else block.expand_norm.layer,
            depthwise_layer=block.depthwise_norm.layer,
            project_layer=block.project_norm.layer,
        )


class ResidentMobileNetV3(ResidentForm):
    """Made by `OFAMobileNetV3.resident`; independent of the trainable net afterwards."""

    def __init__(
        self,
        net: OFAMobileNetV3,
        device: torch.device,
        dtype: torch.dtype,
        norms: Storage = "auto",
    ) -> None:
        self.device, self.dtype = device, dtype
        self._spec = net.spec
        self._first = BlockLayout.of("first", net.first)
        self._stages = [
            [BlockLayout.of(f"stages.{s}.{b}", block) for b, block in enumerate(stage)]
            for s, stage in enumerate(net.blocks())
        ]
        self._stem_layer, self._final_layer = net.stem_norm.layer, net.final_norm.layer
        self._norms = norm_tables(net.norms(), net.statistics, dtype, "scale-shift", norms)
        self._arena = Arena({**dict(_weights(net)), **self._norms.slots}, device, dtype)
        self._norms.attach(self._arena, self._forget)
        largest = f"filters{max(net.spec.kernels)}"
        self._derived = tuple(
            name
            for name in self._arena.slots
            if ".filters" in name and not name.startswith("first") and not name.endswith(largest)
        )
        self._plans: dict[Subnet, Plan] = {}

    @torch.inference_mode()
    def __call__(self, x: Tensor, subnet: Subnet) -> Tensor:
        nhwc = x.to(self.dtype).permute(0, 2, 3, 1).contiguous()
        with self._norms.held(subnet):
            return self.plan(subnet)(nhwc)

    def plan(self, subnet: Subnet) -> Plan:
        """The subnet's slices; building them is the whole of actuation, and is done once."""
        found = self._plans.get(subnet)
        if found is None:
            with self._norms.held(subnet) as table:
                found = self._plans[subnet] = self._make_plan(subnet, table)
        return found

    def _forget(self, subnet: Subnet) -> None:
        self._plans.pop(subnet, None)

    @property
    def arena(self) -> Arena:
        return self._arena

    def tensors(self, subnet: Subnet) -> dict[str, Tensor]:
        return dict(_tensors("", self.plan(subnet)))

    def memory(self) -> ResidentMemory:
        return ResidentMemory.of(self._arena, self._norms.memory(), self._derived)

    def _make_plan(self, subnet: Subnet, table: SubnetNormTable) -> Plan:
        arena = self._arena
        blocks = [self._block(self._first, 3, 1, table)]
        for layouts, settings in zip(self._stages, self._spec.settings(subnet), strict=True):
            for layout, (kernel, ratio) in zip(layouts, settings, strict=False):
                blocks.append(self._block(layout, kernel, ratio, table))
        return Plan(
            stem=arena["stem"],
            stem_norm=Norm(*table.layer(self._stem_layer, self._spec.stem_width)),
            stem_stride=self._spec.stem_stride,
            blocks=tuple(blocks),
            final=arena["final"],
            final_norm=Norm(*table.layer(self._final_layer, self._spec.final_width)),
            feature=arena["feature"],
            classifier=arena["classifier"],
            classifier_bias=arena["classifier_bias"],
        )

    def _block(self, at: BlockLayout, kernel: int, ratio: int, table: SubnetNormTable) -> Block:
        arena, name = self._arena, at.name
        middle = expanded(at.in_channels, ratio) if at.expands else at.in_channels
        gate = None
        if at.squeezes:
            squeezed = make_divisible(middle // 4)
            gate = Gate(
                arena[f"{name}.reduce"][:squeezed, :middle],
                arena[f"{name}.reduce_bias"][:squeezed],
                arena[f"{name}.gate"][:middle, :squeezed],
                arena[f"{name}.gate_bias"][:middle],
            )
        return Block(
            expand=arena[f"{name}.expand"][:middle] if at.expands else None,
            expand_norm=Norm(*table.layer(at.expand_layer, middle)) if at.expands else None,
            filters=arena[f"{name}.filters{kernel}"][..., :middle],
            depthwise_norm=Norm(*table.layer(at.depthwise_layer, middle)),
            gate=gate,
            project=arena[f"{name}.project"][:, :middle],
            project_norm=Norm(*table.layer(at.project_layer, at.out_channels)),
            stride=at.stride,
            activation=at.activation,
            residual=at.residual,
        )


def _weights(net: OFAMobileNetV3) -> Iterator[tuple[str, Tensor]]:
    """Every weight in execution order, with the smaller kernels' filters made for all channels."""
    yield "stem", net.stem.weight
    yield from _block_weights("first", net.first)
    for s, stage in enumerate(net.blocks()):
        for b, block in enumerate(stage):
            yield from _block_weights(f"stages.{s}.{b}", block)
    yield "final", net.final_expand.weight.flatten(1)
    yield "feature", net.feature_mix.weight.flatten(1)
    yield "classifier", net.classifier.weight
    yield "classifier_bias", net.classifier.bias


def _block_weights(name: str, block: InvertedResidual) -> Iterator[tuple[str, Tensor]]:
    if block.expand is not None:
        yield f"{name}.expand", block.expand.weight.flatten(1)
    for kernel in block.depthwise.kernels:
        yield f"{name}.filters{kernel}", block.depthwise.filters(kernel)[:, 0].permute(1, 2, 0)
    if block.squeeze is not None:
        squeeze = block.squeeze
        yield f"{name}.reduce", squeeze.reduce.weight.flatten(1)
        yield f"{name}.gate", squeeze.expand.weight.flatten(1)
        for part, layer in (("reduce", squeeze.reduce), ("gate", squeeze.expand)):
            if layer.bias is not None:
                yield f"{name}.{part}_bias", layer.bias
    yield f"{name}.project", block.project.weight.flatten(1)


def _tensors(name: str, part: object) -> Iterator[tuple[str, Tensor]]:
    """The tensors inside a plan, by their path of field names."""
    if isinstance(part, Tensor):
        yield name, part
    elif isinstance(part, tuple):
        for index, item in enumerate(part):
            yield from _tensors(f"{name}.{index}", item)
    elif is_dataclass(part):
        for field in fields(part):
            yield from _tensors(f"{name}.{field.name}".lstrip("."), getattr(part, field.name))
