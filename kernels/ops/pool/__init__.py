"""Pooling windows over NHWC. PyTorch's own ops on every device: no weight is read here."""

import torch.nn.functional as F
from torch import Tensor


def pool(
    x: Tensor, kind: str, window: int, stride: int, padding: int = 0, ceil: bool = False
) -> Tensor:
    """The maximum or the average of each window of ``x`` [N, H, W, C]; new and contiguous.

    An average counts what lies inside the image only (``count_include_pad=False``).
    ``ValueError`` for another ``kind``.
    """
    nchw = x.permute(0, 3, 1, 2)
    if kind == "max":
        y = F.max_pool2d(nchw, window, stride, padding, ceil_mode=ceil)
    elif kind == "average":
        y = F.avg_pool2d(nchw, window, stride, padding, ceil, count_include_pad=False)
    else:
        raise ValueError(f"pooling is 'max' or 'average', not {kind!r}")
    return y.permute(0, 2, 3, 1).contiguous()
