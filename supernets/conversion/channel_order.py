"""Sorts the channels inside blocks by importance, so that the first ones are the ones to keep.

The importance of a channel is the sum of absolute weights with which the following convolution
reads it (`re_organize_middle_weights` of the Once-for-All code; Cai et al., ICLR 2020, section 3.3,
"elastic width"). The function of the network does not change: what is written in another order is
read in that order.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from supernets.conversion.channel_groups import ChannelGroup, Stage


def sort_channels(model: nn.Module, stages: Iterable[Stage]) -> None:
    """Reorder the channels of every group of every block in place, the most important first."""
    for stage in stages:
        for block in stage.blocks:
            module = model.get_submodule(block.path)
            for group in block.groups:
                reorder(
                    module, group, importance(module, group).argsort(descending=True, stable=True)
                )


def importance(block: nn.Module, group: ChannelGroup) -> Tensor:
    """Sum of absolute weights over each unit's channels in the group's readers, [units].

    Zeros where no ungrouped convolution reads the channels.
    """
    first = block.get_submodule(group.writers[0])
    total = torch.zeros(group.units, dtype=torch.float64, device=next(first.parameters()).device)
    for path in group.readers:
        weight = _conv(block, path).weight.detach()
        total += weight.abs().sum((0, 2, 3), dtype=torch.float64).view(group.units, -1).sum(1)
    return total


@torch.no_grad()
def reorder(block: nn.Module, group: ChannelGroup, order: Tensor) -> None:
    """Put the units of a group into this order, int64 [units], wherever they are written or read.

    A grouped convolution is in ``writers``: its groups move as a whole, inputs and outputs alike.
    """
    for path in group.writers:
        conv = _conv(block, path)
        channels = _expand(order, conv.out_channels)
        conv.weight.copy_(conv.weight[channels])
        if conv.bias is not None:
            conv.bias.copy_(conv.bias[channels])
    for path in group.readers:
        conv = _conv(block, path)
        conv.weight.copy_(conv.weight[:, _expand(order, conv.in_channels)])
    for path in group.norms:
        norm = block.get_submodule(path)
        assert isinstance(norm, nn.BatchNorm2d)
        channels = _expand(order, norm.num_features)
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            assert tensor is not None
            tensor.copy_(tensor[channels])


def _expand(order: Tensor, channels: int) -> Tensor:
    """Indices of channels, of which each unit has the same number side by side."""
    size = channels // len(order)
    return (order[:, None] * size + torch.arange(size, device=order.device)).flatten()


def _conv(block: nn.Module, path: str) -> nn.Conv2d:
    conv = block.get_submodule(path)
    assert isinstance(conv, nn.Conv2d)
    return conv
