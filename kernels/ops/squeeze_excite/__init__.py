"""The gates of squeeze-and-excite, from pooled activations, on slices of the arena.

``squeeze_excite(pooled, reduce_weight, reduce_bias, expand_weight, expand_bias)`` computes
h_sigmoid(W₂ relu(W₁ pooled + b₁) + b₂), the gates [N, C] of each image, which the product that
follows applies. ``pooled`` [N, C]; ``reduce_weight`` [M, C] and ``expand_weight`` [C, M], both
prefix slices; biases [M] and [C]. ``ValueError`` for other shapes.
"""

import torch
from torch import Tensor

from kernels.ops.squeeze_excite import reference
from kernels.registration import op


def check(
    pooled: Tensor,
    reduce_weight: Tensor,
    reduce_bias: Tensor,
    expand_weight: Tensor,
    expand_bias: Tensor,
) -> None:
    """``ValueError`` for shapes that do not fit, with both sides."""
    fits = (
        reduce_weight.shape == expand_weight.T.shape
        and pooled.shape[-1:] == expand_weight.shape[:1] == expand_bias.shape
        and reduce_bias.shape == reduce_weight.shape[:1]
    )
    if pooled.dim() != 2 or not fits:
        raise ValueError(
            f"gates {tuple(reduce_weight.shape)}, {tuple(expand_weight.shape)} do not fit "
            f"{tuple(pooled.shape)}"
        )


def fake(pooled: Tensor) -> Tensor:
    """Empty, of the result's shape."""
    return torch.empty_like(pooled)


squeeze_excite = op(
    reference.squeeze_excite,
    check=check,
    fake=fake,
    gpu="kernels.ops.squeeze_excite.kernel",
)
