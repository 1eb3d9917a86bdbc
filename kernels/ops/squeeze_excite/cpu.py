"""Squeeze-and-excite on a CPU: two small GEMMs on strided slices, the gate applied in place."""

import torch
import torch.nn.functional as F
from torch import Tensor


def squeeze_excite(
    x: Tensor,
    reduce_weight: Tensor,
    reduce_bias: Tensor,
    expand_weight: Tensor,
    expand_bias: Tensor,
) -> Tensor:
    squeezed = torch.relu_(F.linear(x.mean((1, 2)), reduce_weight, reduce_bias))
    gate = F.hardsigmoid(F.linear(squeezed, expand_weight, expand_bias), inplace=True)
    return x.mul_(gate[:, None, None, :])
