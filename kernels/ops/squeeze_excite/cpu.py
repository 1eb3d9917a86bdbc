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
    if len(x) == 1:  # a matrix times a vector: BLAS has a quicker routine than the matrix product
        pooled = x.view(-1, x.shape[3]).mean(0)
        squeezed = torch.relu_(torch.addmv(reduce_bias, reduce_weight, pooled))
        return x.mul_(F.hardsigmoid(torch.addmv(expand_bias, expand_weight, squeezed)))
    squeezed = torch.relu_(F.linear(x.mean((1, 2)), reduce_weight, reduce_bias))
    gate = F.hardsigmoid(F.linear(squeezed, expand_weight, expand_bias), inplace=True)
    return x.mul_(gate[:, None, None, :])
