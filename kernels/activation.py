"""The activations that the ops fuse behind a normalisation, by name."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Activation = Literal["identity", "relu", "h_swish"]

OUT_OF_PLACE: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "relu": F.relu,
    "h_swish": F.hardswish,
}
IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "relu": torch.relu_,
    "h_swish": partial(F.hardswish, inplace=True),
}
