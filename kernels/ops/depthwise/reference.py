"""Depthwise convolution over NHWC with its norm, activation and pooling: the meaning."""

import torch.nn.functional as F
from torch import Tensor

from kernels.activation import OUT_OF_PLACE


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
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, None, stride, kernel // 2, groups=channels)
    y = OUT_OF_PLACE[activation](y.permute(0, 2, 3, 1) * scale + shift).contiguous()
    return y, y.mean((1, 2)) if pool else y.new_empty(0)
