"""Global average pooling and the linear layer behind it, fused.

``head(x, weight, scale, shift, activation)`` computes act(scale · (mean(x) Wᵀ) + shift). ``x``
[N, H, W, C] contiguous; ``weight`` [C_out, C], a prefix slice; ``scale`` and ``shift`` [C_out].
Returns a new [N, C_out]. ``ValueError`` for other shapes.
"""

from torch import Tensor

from kernels.activation import check_activation
from kernels.ops.head import reference
from kernels.registration import op


def check(x: Tensor, weight: Tensor, activation: str) -> None:
    """``ValueError`` for shapes that do not fit, with both sides."""
    check_activation(activation)
    if x.dim() != 4 or x.shape[3] != weight.shape[1]:
        raise ValueError(f"x {tuple(x.shape)} is not NHWC with {weight.shape[1]} channels")


def fake(x: Tensor, weight: Tensor) -> Tensor:
    """Empty, of the result's shape."""
    return x.new_empty((x.shape[0], weight.shape[0]))


head = op(reference.head, check=check, fake=fake, gpu="kernels.ops.head.kernel")
