"""1x1 convolution with its SubnetNorm, activation and residual: the meaning."""

from torch import Tensor

from kernels.activation import OUT_OF_PLACE, Activation


def pointwise(
    x: Tensor,
    weight: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    activation: Activation = "identity",
    residual: Tensor | None = None,
) -> Tensor:
    y = x @ weight.T
    y = y if scale is None else y * scale
    y = y if shift is None else y + shift
    y = y if residual is None else y + residual
    return OUT_OF_PLACE[activation](y)
