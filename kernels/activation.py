"""The activations that the ops fuse behind a normalisation, by name."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Activation = Literal["identity", "relu", "h_swish", "h_sigmoid"]

OUT_OF_PLACE: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "relu": F.relu,
    "h_swish": F.hardswish,
    "h_sigmoid": F.hardsigmoid,
}
IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "relu": torch.relu_,
    "h_swish": partial(F.hardswish, inplace=True),
    "h_sigmoid": partial(F.hardsigmoid, inplace=True),
}
CODES: dict[str, int] = {name: code for code, name in enumerate(OUT_OF_PLACE)}
"""What compiled kernels call them."""


def check_activation(name: str) -> None:
    """``ValueError`` for one that is not known."""
    if name not in OUT_OF_PLACE:
        raise ValueError(f"activation {name!r} is not one of {', '.join(OUT_OF_PLACE)}")
