"""Dense kxk convolution (the stem) with fused SubnetNorm and activation."""

from torch import Tensor

from kernels.activation import Activation
from kernels.ops.conv import cpu, reference


def conv(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    shift: Tensor,
    stride: int = 1,
    activation: Activation = "identity",
) -> Tensor:
    """Convolve with padding k // 2, then act(scale · y + shift).

    ``x`` [N, H, W, C_in]; ``weight`` [C_out, C_in, k, k]; ``scale`` and ``shift`` [C_out]. Returns
    a new contiguous [N, H', W', C_out].
    """
    if x.dim() != 4 or x.shape[3] != weight.shape[1]:
        raise ValueError(f"x {tuple(x.shape)} is not NHWC with {weight.shape[1]} channels")
    backend = cpu if x.device.type == "cpu" else reference
    return backend.conv(x, weight, scale, shift, stride, activation)
