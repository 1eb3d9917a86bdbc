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
) -> Tensor:
    """Compute act(scale · dwconv(x) + shift), padding k // 2.

    ``x`` [N, H, W, C] contiguous; ``filters`` [C, 1, k, k], the first C of a bank whose kernel
    transform is already applied; ``scale`` and ``shift`` [C]. Returns a new [N, H', W', C].
    """
    if x.dim() != 4 or x.shape[3] != filters.shape[0]:
        raise ValueError(f"x {tuple(x.shape)} is not NHWC with {filters.shape[0]} channels")
    backend = cpu if x.device.type == "cpu" else reference
    return backend.depthwise(x, filters, scale, shift, stride, activation)
