"""The calls of ops that whole networks come to, as shapes: what the audit and the tuner go through.

Published widths, strides and ratios of OFA MobileNetV3 (Cai et al., "Once-for-All", ICLR 2020),
OFA ResNet50 (the same, ResNet-D form) and the stitched ResNets; every weight is a slice of the
largest subnet's.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Spec:
    """A tensor: the first ``shape`` of each dimension of one of shape ``whole``."""

    shape: tuple[int, ...]
    whole: tuple[int, ...]


def whole(*shape: int) -> Spec:
    """A tensor that is no slice."""
    return Spec(shape, shape)


@dataclass(frozen=True, slots=True)
class Call:
    """One call of ``kernels.ops.<op>``: its arguments by name, tensors as specifications."""

    op: str
    arguments: Mapping[str, Any] = field(hash=False)

    @property
    def aligned(self) -> bool:
        """Whether all channel counts are multiples of 8, so that 128-bit accesses are possible."""
        specs = [s for s in self.arguments.values() if isinstance(s, Spec)]
        return all(s.shape[-1] % 8 == 0 and s.whole[-1] % 8 == 0 for s in specs)

    def make(self, device: torch.device | str, dtype: torch.dtype) -> dict[str, Any]:
        """The arguments, with tensors of seeded normal numbers (empty ones on "meta").

        Weights are scaled by 1 / √columns, so that results stay near one. What a slice leaves out
        of its matrix is NaN.
        """
        generator = None if str(device) == "meta" else torch.Generator(device).manual_seed(0)

        def tensor(name: str, spec: Spec) -> Tensor:
            made = torch.empty(spec.whole, device=device, dtype=dtype)
            part = made[tuple(slice(size) for size in spec.shape)]
            if generator is not None:
                made.fill_(torch.nan)
                scale = spec.shape[-1] ** -0.5 if "weight" in name else 1.0
                part.normal_(0.0, scale, generator=generator)
            return part

        return {
            name: tensor(name, value) if isinstance(value, Spec) else value
            for name, value in self.arguments.items()
        }


def pointwise(
    x: tuple[int, ...],
    outputs: int,
    activation: str = "identity",
    *,
    most: tuple[int, int] | None = None,
    norm: str = "both",
    residual: bool = False,
    gate: bool = False,
) -> Call:
    """``x`` [N, ..., C] to ``outputs`` channels; ``most`` is the whole matrix's [outputs, C]."""
    return Call(
        "pointwise",
        {
            "x": whole(*x),
            "weight": Spec((outputs, x[-1]), most or (outputs, x[-1])),
            "scale": whole(outputs) if norm == "both" else None,
            "shift": None if norm == "none" else whole(outputs),
            "activation": activation,
            "residual": whole(*x[:-1], outputs) if residual else None,
            "gate": whole(x[0], x[-1]) if gate else None,
        },
    )


def conv(
    x: tuple[int, ...],
    outputs: int,
    kernel: int,
    stride: int,
    activation: str = "relu",
    *,
    most: tuple[int, int] | None = None,
    residual: bool = False,
) -> Call:
    """A square convolution with padding k // 2; ``most`` is the whole weight's [outputs, C]."""
    taps, (rows, columns) = kernel * kernel, most or (outputs, x[-1])
    out = [(side - 1) // stride + 1 for side in x[1:3]]
    return Call(
        "conv",
        {
            "x": whole(*x),
            "weight": Spec((outputs, taps, x[-1]), (rows, taps, columns)),
            "scale": whole(outputs),
            "shift": whole(outputs),
            "stride": stride,
            "padding": kernel // 2,
            "activation": activation,
            "residual": whole(x[0], *out, outputs) if residual else None,
        },
    )


def depthwise(
    x: tuple[int, ...], kernel: int, stride: int, activation: str, *, most: int, pool: bool
) -> Call:
    """``most`` is the number of channels of the filter bank."""
    channels = x[-1]
    return Call(
        "depthwise",
        {
            "x": whole(*x),
            "filters": Spec((kernel, kernel, channels), (kernel, kernel, most)),
            "scale": whole(channels),
            "shift": whole(channels),
            "stride": stride,
            "activation": activation,
            "pool": pool,
        },
    )


def depthwise_project(
    x: tuple[int, ...],
    kernel: int,
    stride: int,
    activation: str,
    outputs: int,
    *,
    most: int,
    residual: bool,
) -> Call:
    """A depthwise convolution and the projection to ``outputs`` channels behind it."""
    channels = x[-1]
    out = [(side - 1) // stride + 1 for side in x[1:3]]
    return Call(
        "depthwise_project",
        {
            "x": whole(*x),
            "filters": Spec((kernel, kernel, channels), (kernel, kernel, most)),
            "middle_scale": whole(channels),
            "middle_shift": whole(channels),
            "stride": stride,
            "middle_activation": activation,
            "weight": Spec((outputs, channels), (outputs, most)),
            "scale": whole(outputs),
            "shift": whole(outputs),
            "activation": "identity",
            "residual": whole(x[0], *out, outputs) if residual else None,
        },
    )


def squeeze_excite(batch: int, channels: int, middle: int, *, most: tuple[int, int]) -> Call:
    """``most`` is the whole weight's [middle, channels]."""
    rows, columns = most
    return Call(
        "squeeze_excite",
        {
            "pooled": whole(batch, channels),
            "reduce_weight": Spec((middle, channels), (rows, columns)),
            "reduce_bias": whole(middle),
            "expand_weight": Spec((channels, middle), (columns, rows)),
            "expand_bias": whole(channels),
        },
    )


def head(x: tuple[int, ...], outputs: int, activation: str, *, norm: str, most: int) -> Call:
    """The mean of ``x`` [N, H, W, C], then a linear layer; ``most`` is the whole matrix's C."""
    return Call(
        "head",
        {
            "x": whole(*x),
            "weight": Spec((outputs, x[-1]), (outputs, most)),
            "scale": None,
            "shift": None if norm == "none" else whole(outputs),
            "activation": activation,
        },
    )


def distinct(calls: Iterator[Call]) -> list[Call]:
    """Without repetitions, in the order of first appearance."""
    seen: dict[str, Call] = {}
    for call in calls:
        seen.setdefault(repr(call), call)
    return list(seen.values())
