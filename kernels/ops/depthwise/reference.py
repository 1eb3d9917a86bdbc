"""Depthwise convolution over NHWC with its norms and activations: the meaning."""

import torch
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
    before: tuple[Tensor, Tensor, Activation] | None = None,
    pooled: Tensor | None = None,
) -> Tensor:
    kernel, _, channels = filters.shape
    if before is not None:
        x = OUT_OF_PLACE[before[2]](x * before[0] + before[1])
    weight = filters.permute(2, 0, 1)[:, None]
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, None, stride, kernel // 2, groups=channels)
    y = OUT_OF_PLACE[activation](y.permute(0, 2, 3, 1) * scale + shift)
    if pooled is not None:
        torch.mean(y, (1, 2), out=pooled)
    return y
