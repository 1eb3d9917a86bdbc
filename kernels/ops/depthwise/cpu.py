"""Depthwise convolution on a CPU: oneDNN channels-last on ready filters, then the norm in place."""

import torch
from torch import Tensor

from kernels.activation import IN_PLACE, Activation


def depthwise(
    x: Tensor,
    filters: Tensor,
    scale: Tensor,
    shift: Tensor,
    stride: int = 1,
    activation: Activation = "identity",
) -> Tensor:
    channels, _, kernel, _ = filters.shape
    padding = kernel // 2
    nchw = x.permute(0, 3, 1, 2)  # a view: NHWC memory is what PyTorch calls channels-last
    y = torch.conv2d(nchw, filters, None, stride, padding, 1, channels)
    nhwc = y.permute(0, 2, 3, 1)
    torch.addcmul(shift, nhwc, scale, out=nhwc)
    return IN_PLACE[activation](nhwc)
