"""The gates of squeeze-and-excite: the meaning."""

import torch.nn.functional as F
from torch import Tensor


def squeeze_excite(
    pooled: Tensor,
    reduce_weight: Tensor,
    reduce_bias: Tensor,
    expand_weight: Tensor,
    expand_bias: Tensor,
) -> Tensor:
    squeezed = F.relu(pooled @ reduce_weight.T + reduce_bias)
    return F.hardsigmoid(squeezed @ expand_weight.T + expand_bias)
