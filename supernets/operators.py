"""SubNetAct's three operators in trainable form: LayerSelect, WeightSlice, SubnetNorm.

SuperServe (NSDI'25), section 3.1 and appendix A.1. Each takes the subnet's setting as an argument
of the call and stores none of it, so two subnets can run at the same time. Slices are views: no
weight is copied to activate a subnet.
"""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supernets.statistics import Normalisation


class LayerSelect(nn.Module):
    """A stage of blocks of which the first D run; the input passes by the others."""

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(
        self, x: Tensor, depth: int, run: Callable[[int, nn.Module, Tensor], Tensor]
    ) -> Tensor:
        """Apply ``run(index, block, x)`` to the first ``depth`` blocks in turn."""
        for index in range(depth):
            x = run(index, self.blocks[index], x)
        return x


class WeightSlice(nn.Module):
    """A convolution whose first output channels run, on however many input channels arrive.

    The weight is [out_max, in_max, k, k]. Prefixes are what makes narrow subnets lie inside wide
    ones: importance decreases with the channel index.
    """

    def __init__(
        self, in_max: int, out_max: int, kernel: int = 1, stride: int = 1, *, bias: bool = False
    ) -> None:
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(out_max, in_max, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_max)) if bias else None
        nn.init.kaiming_normal_(self.weight, mode="fan_in", nonlinearity="relu")

    def slice(self, in_channels: int, out_channels: int) -> Tensor:
        """The active weight, a view [out_channels, in_channels, k, k]."""
        return self.weight[:out_channels, :in_channels]

    def forward(self, x: Tensor, out_channels: int | None = None) -> Tensor:
        """``x`` [N, C, H, W] -> [N, out_channels, H', W']; C <= in_max."""
        out = self.weight.shape[0] if out_channels is None else out_channels
        bias = None if self.bias is None else self.bias[:out]
        padding = self.weight.shape[2] // 2
        return F.conv2d(x, self.slice(x.shape[1], out), bias, self.stride, padding)


class DepthwiseSlice(nn.Module):
    """A depthwise convolution with elastic width and kernel size.

    A smaller kernel is the centre of the next larger one, times a learnt matrix that all channels
    share (Once-for-All, ICLR 2020, section 3.3, "elastic kernel size"). The filter is flattened
    row by row, and the matrix multiplies it from the left.
    """

    def __init__(self, channels_max: int, kernels: tuple[int, ...], stride: int = 1) -> None:
        super().__init__()
        self.kernels, self.stride = tuple(sorted(kernels)), stride
        largest = self.kernels[-1]
        self.weight = nn.Parameter(torch.empty(channels_max, 1, largest, largest))
        nn.init.kaiming_normal_(self.weight, mode="fan_in", nonlinearity="relu")
        # Largest step first: "7to5" shrinks the full filter, "5to3" what "7to5" made.
        self.transforms = nn.ParameterDict(
            {
                f"{large}to{small}": nn.Parameter(torch.eye(small * small))
                for small, large in zip(self.kernels, self.kernels[1:], strict=False)
            }
        )

    def filters(self, kernel: int, channels: int | None = None) -> Tensor:
        """The bank [channels, 1, kernel, kernel]; ``ValueError`` for a kernel not offered."""
        if kernel not in self.kernels:
            raise ValueError(f"kernel {kernel} is not one of {self.kernels}")
        bank = self.weight if channels is None else self.weight[:channels]
        size = self.kernels[-1]
        while size > kernel:
            small = self.kernels[self.kernels.index(size) - 1]
            start = (size - small) // 2
            centre = bank[:, :, start : start + small, start : start + small]
            matrix = self.transforms[f"{size}to{small}"]
            bank = F.linear(centre.flatten(2), matrix).unflatten(2, (small, small))
            size = small
        return bank

    def forward(self, x: Tensor, kernel: int) -> Tensor:
        """``x`` [N, C, H, W] -> [N, C, H', W'], the first C channels' filters."""
        channels = x.shape[1]
        weight = self.filters(kernel, channels)
        return F.conv2d(x, weight, None, self.stride, kernel // 2, groups=channels)


class SubnetNorm(nn.Module):
    """Batch normalisation whose mean and variance belong to the (subnet, layer) pair.

    γ and β are shared by all subnets and sliced to the active channels. Which mean and variance to
    use is the caller's argument: see `supernets.statistics`.
    """

    def __init__(self, layer: int, channels_max: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.layer, self.eps = layer, eps
        self.weight = nn.Parameter(torch.ones(channels_max))
        self.bias = nn.Parameter(torch.zeros(channels_max))

    def forward(self, x: Tensor, normalise: Normalisation) -> Tensor:
        channels = x.shape[1]
        return normalise(x, self.layer, self.weight[:channels], self.bias[:channels], self.eps)
