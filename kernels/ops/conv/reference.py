"""Dense kxk convolution over NHWC with its SubnetNorm and activation: the meaning."""

import torch.nn.functional as F
from torch import Tensor

from kernels.activation import OUT_OF_PLACE, Activation


def conv(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    shift: Tensor,
    stride: int = 1,
    activation: Activation = "identity",
) -> Tensor:
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, None, stride, weight.shape[2] // 2)
    return OUT_OF_PLACE[activation](y.permute(0, 2, 3, 1) * scale + shift)
