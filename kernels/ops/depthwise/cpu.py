"""Depthwise convolution on a CPU: oneDNN channels-last. Compiled plans have their own."""

import torch
from torch import Tensor

from kernels.activation import IN_PLACE


def depthwise(
    x: Tensor,
    filters: Tensor,
    scale: Tensor,
    shift: Tensor,
    stride: int = 1,
    activation: str = "identity",
    pool: bool = False,
) -> tuple[Tensor, Tensor]:
    kernel, _, channels = filters.shape
    weight = filters.permute(2, 0, 1)[:, None]
    nchw = x.permute(0, 3, 1, 2)  # a view: NHWC memory is what PyTorch calls channels-last
    y = torch.conv2d(nchw, weight, None, stride, kernel // 2, 1, channels)
    nhwc = y.permute(0, 2, 3, 1).contiguous()
    torch.addcmul(shift, nhwc, scale, out=nhwc)
    IN_PLACE[activation](nhwc)
    return nhwc, nhwc.mean((1, 2)) if pool else nhwc.new_empty(0)
