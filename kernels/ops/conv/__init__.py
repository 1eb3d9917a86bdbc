"""Dense kxk convolution with fused SubnetNorm, residual and activation, on an arena slice.

``conv(x, weight, scale, shift, stride, padding, activation, residual)`` computes
act(scale · conv(x, W) + shift + residual) with zero padding on all sides. ``x`` [N, H, W, C_in]
contiguous; ``weight`` [C_out, k · k, C_in] (KRSC), a prefix slice in both channels; ``scale`` and
``shift`` [C_out]; ``residual`` as the result. Returns a new contiguous [N, H', W', C_out].
``ValueError`` for other shapes.
"""

from torch import Tensor

from kernels.activation import check_activation
from kernels.ops.conv import cpu, reference
from kernels.registration import op


def side(weight: Tensor) -> int:
    """The k of a weight [C_out, k · k, C_in]."""
    return round(weight.shape[1] ** 0.5)


def result_shape(x: Tensor, weight: Tensor, stride: int, padding: int) -> tuple[int, int, int, int]:
    """[N, H', W', C_out] of a convolution."""
    kernel = side(weight)
    height, width = ((n + 2 * padding - kernel) // stride + 1 for n in x.shape[1:3])
    return x.shape[0], height, width, weight.shape[0]


def check(
    x: Tensor,
    weight: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    stride: int,
    padding: int,
    activation: str,
    residual: Tensor | None,
) -> None:
    """``ValueError`` for shapes that do not fit, with both sides."""
    check_activation(activation)
    if x.dim() != 4 or weight.dim() != 3 or x.shape[3] != weight.shape[2]:
        raise ValueError(
            f"x {tuple(x.shape)} is not NHWC with the channels of {tuple(weight.shape)}"
        )
    if side(weight) ** 2 != weight.shape[1]:
        raise ValueError(f"{weight.shape[1]} taps are no square kernel")
    shape = result_shape(x, weight, stride, padding)
    if min(shape[1:3]) < 1:
        raise ValueError(f"the kernel is larger than x {tuple(x.shape)} with its padding")
    for vector in (scale, shift):
        if vector is not None and vector.shape != weight.shape[:1]:
            raise ValueError(f"a norm over {tuple(vector.shape)} cannot follow {weight.shape[0]}")
    if residual is not None and residual.shape != shape:
        raise ValueError(f"a residual {tuple(residual.shape)} cannot be added to the result")


def fake(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """Empty, of the result's shape."""
    return x.new_empty(result_shape(x, weight, stride, padding))


conv = op(reference.conv, check=check, fake=fake, cpu=cpu.conv, gpu="kernels.ops.conv.kernel")
