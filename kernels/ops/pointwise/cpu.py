"""1x1 convolution on a CPU: one GEMM on the strided slice, then the norm in place."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.activation import IN_PLACE


def pointwise(
    x: Tensor,
    weight: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    activation: str = "identity",
    residual: Tensor | None = None,
    gate: Tensor | None = None,
) -> Tensor:
    if gate is not None:
        x = x * gate.view(len(gate), *([1] * (x.dim() - 2)), -1)
    # NHWC makes the convolution a matrix product, and BLAS reads the slice through its leading
    # dimension: no weight is copied or reordered, unlike in a convolution call.
    rows = x.view(-1, weight.shape[1])
    if scale is None:
        y = F.linear(rows, weight, shift)
    else:
        y = torch.mm(rows, weight.t())
        if shift is None:
            y.mul_(scale)
        else:
            torch.addcmul(shift, y, scale, out=y)
    y = y.view(*x.shape[:-1], weight.shape[0])
    if residual is not None:
        y.add_(residual)
    return IN_PLACE[activation](y)
