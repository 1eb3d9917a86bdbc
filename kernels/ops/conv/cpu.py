"""Dense convolution on a CPU: oneDNN channels-last, then the norm in place."""

import torch
from torch import Tensor

from kernels.activation import IN_PLACE


def conv(
    x: Tensor,
    weight: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    stride: int = 1,
    padding: int = 0,
    activation: str = "identity",
    residual: Tensor | None = None,
) -> Tensor:
    side = round(weight.shape[1] ** 0.5)
    filters = weight.unflatten(1, (side, side)).permute(0, 3, 1, 2)
    y = torch.conv2d(x.permute(0, 3, 1, 2), filters, None, stride, padding)
    # One input channel is both NCHW and NHWC, and PyTorch may then answer in NCHW.
    nhwc = y.permute(0, 2, 3, 1).contiguous()
    if scale is not None and shift is not None:
        torch.addcmul(shift, nhwc, scale, out=nhwc)
    elif scale is not None:
        nhwc.mul_(scale)
    elif shift is not None:
        nhwc.add_(shift)
    if residual is not None:
        nhwc.add_(residual)
    return IN_PLACE[activation](nhwc)
