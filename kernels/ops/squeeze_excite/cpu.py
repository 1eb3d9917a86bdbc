"""Squeeze-and-excite on a CPU: two small matrix products, the gate applied in place."""

import torch.nn.functional as F
from torch import Tensor

from kernels import native


def squeeze_excite(
    x: Tensor,
    reduce_weight: Tensor,
    reduce_bias: Tensor,
    expand_weight: Tensor,
    expand_bias: Tensor,
    pooled: Tensor | None = None,
) -> Tensor:
    if pooled is None:
        pooled = x.mean((1, 2))
    gates = (reduce_weight, reduce_bias, expand_weight, expand_bias)
    if native.usable(x, pooled, *gates):
        return native.squeeze_excite(x, pooled, *gates)
    squeezed = F.relu(F.linear(pooled, reduce_weight, reduce_bias), inplace=True)
    gate = F.hardsigmoid(F.linear(squeezed, expand_weight, expand_bias), inplace=True)
    return x.mul_(gate[:, None, None, :])
