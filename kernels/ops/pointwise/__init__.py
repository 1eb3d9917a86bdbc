"""1x1 convolution with fused SE gate, SubnetNorm, residual and activation, on an arena slice.

``pointwise(x, weight, scale, shift, activation, residual, gate)`` computes
act(scale · ((x · gate) Wᵀ) + shift + residual). ``x`` [N, ..., C_in] contiguous; ``weight``
[C_out, C_in], a prefix slice whose rows may be strided but whose elements are adjacent; ``scale``
and ``shift`` [C_out]; ``residual`` [N, ..., C_out]; ``gate`` [N, C_in]. Returns a new
[N, ..., C_out]. ``ValueError`` for other shapes.
"""

from torch import Tensor

from kernels.activation import check_activation
from kernels.ops.pointwise import cpu, reference
from kernels.registration import op


def check(
    x: Tensor,
    weight: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    activation: str,
    residual: Tensor | None,
    gate: Tensor | None,
) -> None:
    """``ValueError`` for shapes that do not fit, with both sides."""
    check_activation(activation)
    if x.shape[-1] != weight.shape[1]:
        raise ValueError(f"x has {x.shape[-1]} channels, the weight takes {weight.shape[1]}")
    for vector in (scale, shift):
        if vector is not None and vector.shape != weight.shape[:1]:
            raise ValueError(f"a norm over {tuple(vector.shape)} cannot follow {weight.shape[0]}")
    if residual is not None and residual.shape != (*x.shape[:-1], weight.shape[0]):
        raise ValueError(f"a residual {tuple(residual.shape)} cannot be added to the result")
    if gate is not None and gate.shape != (x.shape[0], x.shape[-1]):
        raise ValueError(f"a gate {tuple(gate.shape)} does not fit x {tuple(x.shape)}")


def fake(x: Tensor, weight: Tensor) -> Tensor:
    """Empty, of the result's shape."""
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


pointwise = op(
    reference.pointwise,
    check=check,
    fake=fake,
    cpu=cpu.pointwise,
    gpu="kernels.ops.pointwise.kernel",
)
