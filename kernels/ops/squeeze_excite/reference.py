"""Squeeze-and-excite over NHWC: the meaning."""

import torch.nn.functional as F
from torch import Tensor


def squeeze_excite(
    x: Tensor,
    reduce_weight: Tensor,
    reduce_bias: Tensor,
    expand_weight: Tensor,
    expand_bias: Tensor,
    pooled: Tensor | None = None,
) -> Tensor:
    squeezed = F.relu(
        (x.mean((1, 2)) if pooled is None else pooled) @ reduce_weight.T + reduce_bias
    )
    gate = F.hardsigmoid(squeezed @ expand_weight.T + expand_bias)
    return x * gate[:, None, None, :]
