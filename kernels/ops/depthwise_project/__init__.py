"""Depthwise convolution and the 1x1 projection behind it, fused: for blocks without SE.

``depthwise_project(x, filters, middle_scale, middle_shift, stride, middle_activation, weight,
scale, shift, activation, residual)`` is `pointwise` of `depthwise`, each with its own norm and
activation; what lies between the two never reaches memory. ``x`` [N, H, W, C]; ``filters``
[k, k, C]; ``weight`` [C_out, C]. Returns [N, H', W', C_out]. ``ValueError`` for other shapes.
"""

from torch import Tensor

from kernels.ops.depthwise import check as check_depthwise
from kernels.ops.depthwise_project import reference
from kernels.registration import op


def check(
    x: Tensor,
    filters: Tensor,
    middle_scale: Tensor,
    middle_shift: Tensor,
    stride: int,
    middle_activation: str,
    weight: Tensor,
) -> None:
    """``ValueError`` for shapes that do not fit, with both sides."""
    check_depthwise(x, filters, middle_scale, middle_shift, stride, middle_activation)
    if weight.dim() != 2 or weight.shape[1] != x.shape[3]:
        raise ValueError(f"a projection {tuple(weight.shape)} cannot follow {x.shape[3]} channels")


def fake(x: Tensor, stride: int, weight: Tensor) -> Tensor:
    """Empty, of the result's shape."""
    out = [(side - 1) // stride + 1 for side in x.shape[1:3]]
    return x.new_empty((x.shape[0], *out, weight.shape[0]))


depthwise_project = op(
    reference.depthwise_project,
    check=check,
    fake=fake,
    gpu="kernels.ops.depthwise_project.kernel",
)
