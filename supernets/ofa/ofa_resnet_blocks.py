"""The bottleneck of OFA ResNet50, elastic and extracted."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supernets.elastic import NewNorm, plain_conv, plain_norm
from supernets.norms.statistics import Normalisation, SubnetStatistics
from supernets.operators import SubnetNorm, WeightSlice


class Bottleneck(nn.Module):
    """1x1 reduce, 3x3 (with the stride), 1x1 expand, plus a shortcut; elastic in all widths.

    He et al., CVPR 2016, in the ResNet-D form (He et al., "Bag of Tricks", CVPR 2019): where the
    shape changes, the shortcut is an average pool and a 1x1 convolution. That is the first block of
    every stage; the others add their input.
    """

    def __init__(
        self,
        in_max: int,
        middle_max: int,
        out_max: int,
        *,
        stride: int,
        first: bool,
        new_norm: NewNorm,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = WeightSlice(in_max, middle_max)
        self.norm1 = new_norm(middle_max)
        self.conv2 = WeightSlice(middle_max, middle_max, 3, stride)
        self.norm2 = new_norm(middle_max)
        self.conv3 = WeightSlice(middle_max, out_max)
        self.norm3 = new_norm(out_max)
        self.shortcut = WeightSlice(in_max, out_max) if first else None
        self.shortcut_norm = new_norm(out_max) if first else None
        if not first:
            # Every block starts as the identity: a deep subnet then trains like a shallow one.
            nn.init.zeros_(self.norm3.weight)

    def forward(self, x: Tensor, middle: int, out: int, normalise: Normalisation) -> Tensor:
        """``x`` [N, C, H, W] -> [N, out, H / stride, W / stride], rounded up."""
        y = F.relu(self.norm1(self.conv1(x, middle), normalise))
        y = F.relu(self.norm2(self.conv2(y, middle), normalise))
        y = self.norm3(self.conv3(y, out), normalise)
        if self.shortcut is not None and self.shortcut_norm is not None:
            x = self.shortcut_norm(self.shortcut(self._pooled(x), out), normalise)
        return F.relu(x + y)

    def _pooled(self, x: Tensor) -> Tensor:
        s = self.stride
        return x if s == 1 else F.avg_pool2d(x, s, s, 0, ceil_mode=True)


class PlainBottleneck(nn.Module):
    """The extracted form: relu(body(x) + shortcut(x))."""

    def __init__(
        self,
        source: Bottleneck,
        in_channels: int,
        middle: int,
        out: int,
        statistics: SubnetStatistics,
    ) -> None:
        super().__init__()

        def norm(layer: SubnetNorm, channels: int) -> nn.Module:
            entry = statistics[layer.layer]
            return plain_norm(layer, channels, entry.mean, entry.var)

        self.body = nn.Sequential(
            plain_conv(source.conv1, in_channels, middle),
            norm(source.norm1, middle),
            nn.ReLU(),
            plain_conv(source.conv2, middle, middle),
            norm(source.norm2, middle),
            nn.ReLU(),
            plain_conv(source.conv3, middle, out),
            norm(source.norm3, out),
        )
        shortcut: list[nn.Module] = []
        if source.shortcut is not None and source.shortcut_norm is not None:
            if source.stride > 1:
                shortcut = [nn.AvgPool2d(source.stride, ceil_mode=True)]
            shortcut += [
                plain_conv(source.shortcut, in_channels, out),
                norm(source.shortcut_norm, out),
            ]
        self.shortcut = nn.Sequential(*shortcut)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))
