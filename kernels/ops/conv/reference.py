"""Dense kxk convolution over NHWC with its SubnetNorm, residual and activation: the meaning."""

import torch.nn.functional as F
from torch import Tensor

from kernels.activation import OUT_OF_PLACE


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
    y = F.conv2d(x.permute(0, 3, 1, 2), filters, None, stride, padding).permute(0, 2, 3, 1)
    y = y if scale is None else y * scale
    y = y if shift is None else y + shift
    y = y if residual is None else y + residual
    return OUT_OF_PLACE[activation](y).contiguous()
