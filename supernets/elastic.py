"""Elastic building blocks made of SubNetAct operators: squeeze-and-excite, inverted residual."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supernets.norms.statistics import Normalisation
from supernets.operators import DepthwiseSlice, SubnetNorm, WeightSlice

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "h_swish": F.hardswish,
    "identity": lambda x: x,
}

NewNorm = Callable[[int], SubnetNorm]  # channels -> a norm with the next layer id


def make_divisible(value: float, divisor: int = 8) -> int:
    """The multiple of ``divisor`` nearest to ``value``, at most 10 % below it.

    The rounding of the MobileNet code, on which every width of the family depends.
    """
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def expanded(channels: int, ratio: float) -> int:
    """Middle channels of an inverted residual block."""
    return make_divisible(round(channels * ratio))


class SqueezeExcite(nn.Module):
    """Channel gates from the global mean: x · h_sigmoid(W₂ relu(W₁ mean(x) + b₁) + b₂)."""

    def __init__(self, channels_max: int) -> None:
        super().__init__()
        middle = make_divisible(channels_max // 4)
        self.reduce = WeightSlice(channels_max, middle, bias=True)
        self.expand = WeightSlice(middle, channels_max, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        pooled = x.mean((2, 3), keepdim=True)
        squeezed = F.relu(self.reduce(pooled, make_divisible(channels // 4)))
        return x * F.hardsigmoid(self.expand(squeezed, channels))


class InvertedResidual(nn.Module):
    """1x1 expand, depthwise kxk, squeeze-excite, 1x1 project; elastic in width and kernel.

    A block whose input and output have the same shape adds its input (MobileNetV2/V3).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int,
        kernels: tuple[int, ...],
        expands: tuple[float, ...],
        activation: str,
        squeeze: bool,
        new_norm: NewNorm,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.stride = in_channels, out_channels, stride
        self.activation = activation
        middle = expanded(in_channels, max(expands))
        # A block that does not expand (the first one) has no 1x1 in front, as in the `ofa` package.
        self.expand = WeightSlice(in_channels, middle) if max(expands) > 1 else None
        self.expand_norm = new_norm(middle) if self.expand is not None else None
        self.depthwise = DepthwiseSlice(middle, kernels, stride)
        self.depthwise_norm = new_norm(middle)
        self.squeeze = SqueezeExcite(middle) if squeeze else None
        self.project = WeightSlice(middle, out_channels)
        self.project_norm = new_norm(out_channels)
        self.residual = stride == 1 and in_channels == out_channels
        if self.residual:
            # Every block starts as the identity: a deep subnet then trains like a shallow one.
            nn.init.zeros_(self.project_norm.weight)

    def middle(self, ratio: float) -> int:
        """Active middle channels at this expand ratio."""
        return expanded(self.in_channels, ratio) if self.expand is not None else self.in_channels

    def forward(self, x: Tensor, kernel: int, ratio: float, normalise: Normalisation) -> Tensor:
        """``x`` [N, in_channels, H, W] -> [N, out_channels, H / stride, W / stride]."""
        act = ACTIVATIONS[self.activation]
        y = x
        if self.expand is not None and self.expand_norm is not None:
            y = act(self.expand_norm(self.expand(y, self.middle(ratio)), normalise))
        y = act(self.depthwise_norm(self.depthwise(y, kernel), normalise))
        if self.squeeze is not None:
            y = self.squeeze(y)
        y = self.project_norm(self.project(y), normalise)
        return x + y if self.residual else y


class PlainSqueezeExcite(nn.Module):
    """The extracted form of `SqueezeExcite`: ordinary convolutions of fixed width."""

    def __init__(self, source: SqueezeExcite, channels: int) -> None:
        super().__init__()
        middle = make_divisible(channels // 4)
        self.reduce = plain_conv(source.reduce, channels, middle)
        self.expand = plain_conv(source.expand, middle, channels)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.expand(F.relu(self.reduce(x.mean((2, 3), keepdim=True))))
        return x * F.hardsigmoid(gate)


class Residual(nn.Module):
    """x + body(x)."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def plain_conv(source: WeightSlice, in_channels: int, out_channels: int) -> nn.Conv2d:
    """An `nn.Conv2d` that holds its own copy of the active weight."""
    kernel = source.weight.shape[2]
    conv = nn.Conv2d(
        in_channels,
        out_channels,
        kernel,
        source.stride,
        kernel // 2,
        bias=source.bias is not None,
        dtype=source.weight.dtype,
    )
    with torch.no_grad():
        conv.weight.copy_(source.slice(in_channels, out_channels))
        if source.bias is not None and conv.bias is not None:
            conv.bias.copy_(source.bias[:out_channels])
    return conv


def plain_depthwise(source: DepthwiseSlice, channels: int, kernel: int) -> nn.Conv2d:
    """An `nn.Conv2d` that holds its own copy of the transformed filters."""
    conv = nn.Conv2d(
        channels,
        channels,
        kernel,
        source.stride,
        kernel // 2,
        groups=channels,
        bias=False,
        dtype=source.weight.dtype,
    )
    with torch.no_grad():
        conv.weight.copy_(source.filters(kernel, channels))
    return conv


def plain_norm(source: SubnetNorm, channels: int, mean: Tensor, var: Tensor) -> nn.BatchNorm2d:
    """An `nn.BatchNorm2d` with the subnet's statistics."""
    norm = nn.BatchNorm2d(channels, eps=source.eps, dtype=source.weight.dtype)
    with torch.no_grad():
        norm.weight.copy_(source.weight[:channels])
        norm.bias.copy_(source.bias[:channels])
        norm.running_mean.copy_(mean[:channels])  # type: ignore[union-attr]
        norm.running_var.copy_(var[:channels])  # type: ignore[union-attr]
    return norm


def plain_activation(name: str) -> nn.Module:
    return {"relu": nn.ReLU, "h_swish": nn.Hardswish, "identity": nn.Identity}[name]()
