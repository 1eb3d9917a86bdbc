"""Depthwise kxk convolution with fused SubnetNorm and activation, on a slice of the arena."""

from torch import Tensor

from kernels.activation import Activation
from kernels.ops.depthwise import cpu, reference


def depthwise(
    x: Tensor,
    filters: Tensor,
    scale: Tensor,
    shift: Tensor,
    stride: int = 1,
    activation: Activation = "identity",
    before: tuple[Tensor, Tensor, Activation] | None = None,
    pooled: Tensor | None = None,
) -> Tensor:
    """Compute act(scale · dwconv(act'(scale' · x + shift')) + shift), padding k // 2.

    ``x`` [N, H, W, C] contiguous; ``filters`` [k, k, C], the first C of a tap-major bank whose
    kernel transform is already applied; ``scale`` and ``shift`` [C]. ``before`` (scale', shift',
    act') is the norm of the layer in front, done here to save a pass over ``x``, whose memory it
    may overwrite. ``pooled`` [N, C] is filled with the mean of the result over its pixels.
    Returns a new [N, H', W', C].
    """
    if x.dim() != 4 or x.shape[3] != filters.shape[2]:
        raise ValueError(f"x {tuple(x.shape)} is not NHWC with {filters.shape[2]} channels")
    backend = cpu if x.device.type == "cpu" else reference
    return backend.depthwise(x, filters, scale, shift, stride, activation, before, pooled)
