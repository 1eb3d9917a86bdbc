"""Depthwise convolution and projection: the meaning."""

from torch import Tensor

from kernels.ops.depthwise.reference import depthwise
from kernels.ops.pointwise.reference import pointwise


def depthwise_project(
    x: Tensor,
    filters: Tensor,
    middle_scale: Tensor,
    middle_shift: Tensor,
    stride: int,
    middle_activation: str,
    weight: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    activation: str = "identity",
    residual: Tensor | None = None,
) -> Tensor:
    y, _ = depthwise(x, filters, middle_scale, middle_shift, stride, middle_activation)
    return pointwise(y, weight, scale, shift, activation, residual)
