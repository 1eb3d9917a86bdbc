"""1x1 convolution with its gate, SubnetNorm, residual and activation: the meaning."""

from torch import Tensor

from kernels.activation import OUT_OF_PLACE


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
    y = x @ weight.T
    y = y if scale is None else y * scale
    y = y if shift is None else y + shift
    y = y if residual is None else y + residual
    return OUT_OF_PLACE[activation](y)
