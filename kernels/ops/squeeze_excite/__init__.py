"""Squeeze-and-excite gating on slices of the arena."""

from torch import Tensor

from kernels.ops.squeeze_excite import cpu, reference


def squeeze_excite(
    x: Tensor,
    reduce_weight: Tensor,
    reduce_bias: Tensor,
    expand_weight: Tensor,
    expand_bias: Tensor,
    pooled: Tensor | None = None,
) -> Tensor:
    """Compute x · h_sigmoid(W₂ relu(W₁ mean(x) + b₁) + b₂), gates per image and channel.

    ``x`` [N, H, W, C] is consumed: its memory may hold the result. ``reduce_weight`` [M, C],
    ``expand_weight`` [C, M], both prefix slices; biases [M] and [C];
    ``pooled`` [N, C] is mean(x) where the caller has it. Returns [N, H, W, C].
    """
    if reduce_weight.shape != expand_weight.T.shape or x.shape[-1] != expand_weight.shape[0]:
        raise ValueError(
            f"gates {tuple(reduce_weight.shape)}, {tuple(expand_weight.shape)} do not fit x "
            f"{tuple(x.shape)}"
        )
    backend = cpu if x.device.type == "cpu" else reference
    return backend.squeeze_excite(x, reduce_weight, reduce_bias, expand_weight, expand_bias, pooled)
