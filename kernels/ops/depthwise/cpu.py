"""Depthwise convolution on a CPU: our compiled op, else oneDNN channels-last."""

import torch
from torch import Tensor

from kernels import native
from kernels.activation import IN_PLACE, Activation


def depthwise(
    x: Tensor,
    filters: Tensor,
    scale: Tensor,
    shift: Tensor,
    stride: int = 1,
    activation: Activation = "identity",
    before: tuple[Tensor, Tensor, Activation] | None = None,
    pooled: Tensor | None = None,
) -> Tensor:
    kernel, _, channels = filters.shape
    known = kernel in native.KERNELS and stride in native.STRIDES
    if known and x.is_contiguous() and native.usable(x, filters, pooled):
        return native.depthwise(x, filters, scale, shift, stride, activation, before, pooled)
    if before is not None:
        torch.addcmul(before[1], x, before[0], out=x)
        IN_PLACE[before[2]](x)
    weight = filters.permute(2, 0, 1)[:, None]
    nchw = x.permute(0, 3, 1, 2)  # a view: NHWC memory is what PyTorch calls channels-last
    y = torch.conv2d(nchw, weight, None, stride, kernel // 2, 1, channels)
    nhwc = y.permute(0, 2, 3, 1).contiguous()
    torch.addcmul(shift, nhwc, scale, out=nhwc)
    IN_PLACE[activation](nhwc)
    if pooled is not None:
        torch.mean(nhwc, (1, 2), out=pooled)
    return nhwc
