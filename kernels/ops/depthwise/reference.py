"""Depthwise convolution over NHWC with its SubnetNorm and activation: the meaning."""

import torch.nn.functional as F
from torch import Tensor

from kernels.activation import OUT_OF_PLACE, Activation


def depthwise(
    x: Tensor,
    filters: Tensor,
    scale: Tensor,
    shift: Tensor,
    stride: int = 1,
    activation: Activation = "identity",
) -> Tensor:
    channels, _, kernel, _ = filters.shape
    nchw = x.permute(0, 3, 1, 2)
    y = F.conv2d(nchw, filters, None, stride, kernel // 2, groups=channels)
    return OUT_OF_PLACE[activation](y.permute(0, 2, 3, 1) * scale + shift)
