"""1x1 convolution with fused SubnetNorm, activation and residual, on a slice of the arena."""

from torch import Tensor

from kernels.activation import Activation
from kernels.ops.pointwise import cpu, reference


def pointwise(
    x: Tensor,
    weight: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    activation: Activation = "identity",
    residual: Tensor | None = None,
) -> Tensor:
    """Compute act(scale · (x Wᵀ) + shift + residual).

    ``x`` [..., C_in] contiguous; ``weight`` [C_out, C_in], a prefix slice whose rows may be strided
    but whose elements are adjacent; ``scale`` and ``shift`` [C_out]; ``residual`` [..., C_out].
    Returns a new [..., C_out]. All of one dtype and device. ``ValueError`` for other shapes.
    """
    if x.shape[-1] != weight.shape[1]:
        raise ValueError(f"x has {x.shape[-1]} channels, the weight takes {weight.shape[1]}")
    for vector in (scale, shift):
        if vector is not None and vector.shape != weight.shape[:1]:
            raise ValueError(f"a norm over {tuple(vector.shape)} cannot follow {weight.shape[0]}")
    backend = cpu if x.device.type == "cpu" else reference
    return backend.pointwise(x, weight, scale, shift, activation, residual)
