"""SubNetAct's three operators in trainable form: LayerSelect, WeightSlice, SubnetNorm.

SuperServe (NSDI'25), section 3.1 and appendix A.1. Each takes the subnet's setting as an argument
of the call and stores none of it, so two subnets can run at the same time. Slices are views: no
weight is copied to activate a subnet.
"""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supernets.norms.statistics import Normalisation


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
    use is the caller's argument: see `supernets.norms.statistics`.
    """

    def __init__(self, layer: int, channels_max: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.layer, self.eps = layer, eps
        self.weight = nn.Parameter(torch.ones(channels_max))
        self.bias = nn.Parameter(torch.zeros(channels_max))

    def forward(self, x: Tensor, normalise: Normalisation) -> Tensor:
        channels = x.shape[1]
        return normalise(x, self.layer, self.weight[:channels], self.bias[:channels], self.eps)


def every_other(depth: int, layers: int) -> tuple[int, ...]:
    """Which ``depth`` of ``layers`` run, spread evenly: ⌊i · layers / depth⌋.

    DynaBERT's rule (Hou et al., NeurIPS 2020), which keeps layer ⌊i / depth_mult⌋; in integers, so
    that no rounding of the ratio can shift a layer.
    """
    return tuple(i * layers // depth for i in range(depth))


class SpreadLayerSelect(LayerSelect):
    """A stage of blocks of which D run, spread evenly over the stage: see `every_other`."""

    def forward(
        self, x: Tensor, depth: int, run: Callable[[int, nn.Module, Tensor], Tensor]
    ) -> Tensor:
        """Apply ``run(index, block, x)`` to the kept blocks in turn."""
        for index in every_other(depth, len(self.blocks)):
            x = run(index, self.blocks[index], x)
        return x


class LinearSlice(nn.Module):
    """A linear layer whose first outputs run, on however many inputs arrive.

    The weight is [out_max, in_max], importance decreasing with both indices.
    """

    def __init__(self, in_max: int, out_max: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_max, in_max))
        self.bias = nn.Parameter(torch.zeros(out_max))
        nn.init.trunc_normal_(self.weight, std=in_max**-0.5)

    def slice(self, in_features: int, out_features: int) -> Tensor:
        """The active weight, a view [out_features, in_features]."""
        return self.weight[:out_features, :in_features]

    def forward(self, x: Tensor, out_features: int) -> Tensor:
        """``x`` [..., I] -> [..., out_features]; I <= in_max."""
        return F.linear(x, self.slice(x.shape[-1], out_features), self.bias[:out_features])


class HeadSlice(nn.Module):
    """The first attention heads' queries, keys and values, on however many inputs arrive.

    The weight is [heads, 3, head_dim, in_max]: all of a head's rows lie together, so any number of
    heads is one contiguous prefix and one matrix product. (In the usual layout, [3, heads, ...], it
    would be three.) With ``flat_bias`` the bias of h heads is instead the first 3·h·head_dim
    numbers of [3, heads, head_dim] taken flat: in AutoFormer the bias is sliced so, unlike the
    weight.
    """

    def __init__(
        self, in_max: int, heads: int, head_dim: int, *, bias: bool = True, flat_bias: bool = False
    ) -> None:
        super().__init__()
        self.head_dim, self.flat_bias = head_dim, flat_bias
        self.weight = nn.Parameter(torch.empty(heads, 3, head_dim, in_max))
        shape = (3 * heads * head_dim,) if flat_bias else (heads, 3, head_dim)
        self.bias = nn.Parameter(torch.zeros(shape)) if bias else None
        nn.init.trunc_normal_(self.weight, std=in_max**-0.5)

    def slice(self, in_features: int, heads: int) -> Tensor:
        """The active weight, a view [heads, 3, head_dim, in_features]."""
        return self.weight[:heads, ..., :in_features]

    def slice_bias(self, heads: int) -> Tensor | None:
        """The active bias as a view [heads, 3, head_dim]."""
        if self.bias is None or not self.flat_bias:
            return None if self.bias is None else self.bias[:heads]
        return self.bias[: 3 * heads * self.head_dim].view(3, heads, -1).transpose(0, 1)

    @torch.no_grad()
    def permute_heads(self, order: Tensor) -> None:
        """Make head ``order[i]`` the i-th."""
        self.weight.copy_(self.weight[order])
        if self.bias is None:
            return
        if self.flat_bias:
            self.bias.copy_(self.bias.view(3, -1, self.head_dim)[:, order].flatten())
        else:
            self.bias.copy_(self.bias[order])

    def forward(self, x: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
        """``x`` [N, T, I] -> queries, keys and values, each [N, heads, T, head_dim]."""
        weight = self.slice(x.shape[-1], heads).flatten(0, 2)
        bias = self.slice_bias(heads)
        y = F.linear(x, weight, None if bias is None else bias.flatten())
        q, k, v = y.unflatten(-1, (heads, 3, self.head_dim)).permute(3, 0, 2, 1, 4).unbind(0)
        return q, k, v
