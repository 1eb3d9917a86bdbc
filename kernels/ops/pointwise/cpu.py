"""1x1 convolution on a CPU: one GEMM on the strided slice, then the norm in place."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels import native
from kernels.activation import IN_PLACE, Activation


def pointwise(
    x: Tensor,
    weight: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    activation: Activation = "identity",
    residual: Tensor | None = None,
) -> Tensor:
    # NHWC makes the convolution a matrix product, and BLAS reads the slice through its leading
    # dimension: no weight is copied or reordered, unlike in a convolution call.
    rows = x.view(-1, weight.shape[1])
    if scale is None:
        y = F.linear(rows, weight, shift)
    else:
        y = torch.mm(rows, weight.t())
        if shift is not None and native.usable(y, scale, shift, residual):
            native.affine(y, scale, shift, activation, residual)
            return y.view(*x.shape[:-1], weight.shape[0])
        if shift is None:
            y.mul_(scale)
        else:
            torch.addcmul(shift, y, scale, out=y)
    y = y.view(*x.shape[:-1], weight.shape[0])
    if residual is not None:
        y.add_(residual)
    return IN_PLACE[activation](y)
