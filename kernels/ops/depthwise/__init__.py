"""Depthwise kxk convolution with fused SubnetNorm, activation and pooling, on an arena slice.

``depthwise(x, filters, scale, shift, stride, activation, pool)`` computes
act(scale · dwconv(x) + shift), padding k // 2, and its mean over the pixels. ``x`` [N, H, W, C]
contiguous; ``filters`` [k, k, C], the first C of a tap-major bank whose kernel transform is already
applied; ``scale`` and ``shift`` [C]. Returns a new [N, H', W', C] and the means [N, C] (an empty
[0] without ``pool``). ``ValueError`` for other shapes.
"""

from torch import Tensor

from kernels.activation import check_activation
from kernels.ops.depthwise import cpu, reference
from kernels.registration import op


def check(
    x: Tensor, filters: Tensor, scale: Tensor, shift: Tensor, stride: int, activation: str
) -> None:
    """``ValueError`` for shapes that do not fit, with both sides."""
    check_activation(activation)
    if x.dim() != 4 or x.shape[3] != filters.shape[2]:
        raise ValueError(f"x {tuple(x.shape)} is not NHWC with {filters.shape[2]} channels")
    if filters.shape[0] != filters.shape[1] or filters.shape[0] % 2 == 0:
        raise ValueError(f"filters {tuple(filters.shape)} are not square and odd")
    if scale.shape != x.shape[3:] or shift.shape != x.shape[3:]:
        raise ValueError(f"a norm over {tuple(scale.shape)} cannot follow {x.shape[3]} channels")
    if stride < 1:
        raise ValueError(f"a stride of {stride} does not move")


def fake(x: Tensor, stride: int, pool: bool) -> tuple[Tensor, Tensor]:
    """Empty, of the results' shapes."""
    batch, height, width, channels = x.shape
    out = [(side - 1) // stride + 1 for side in (height, width)]
    pooled = x.new_empty((batch, channels) if pool else (0,))
    return x.new_empty((batch, *out, channels)), pooled


depthwise = op(
    reference.depthwise,
    check=check,
    fake=fake,
    cpu=cpu.depthwise,
    gpu="kernels.ops.depthwise.kernel",
)
