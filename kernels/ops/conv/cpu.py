"""Dense convolution on a CPU: oneDNN channels-last, then the norm in place."""

import torch
from torch import Tensor

from kernels import native
from kernels.activation import IN_PLACE, Activation


def conv(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    shift: Tensor,
    stride: int = 1,
    activation: Activation = "identity",
) -> Tensor:
    y = torch.conv2d(x.permute(0, 3, 1, 2), weight, None, stride, weight.shape[2] // 2)
    # One input channel is both NCHW and NHWC, and PyTorch may then answer in NCHW.
    nhwc = y.permute(0, 2, 3, 1).contiguous()
    if native.usable(nhwc, scale, shift):
        native.affine(nhwc, scale, shift, activation)
        return nhwc
    torch.addcmul(shift, nhwc, scale, out=nhwc)
    return IN_PLACE[activation](nhwc)
