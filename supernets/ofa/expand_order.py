"""Moves the important middle channels of blocks to the front, for elastic expansion.

Once-for-All does so before it trains the elastic expand ratio (ICLR 2020, section 3.3: "elastic
width"): a channel is as important as the sum of the absolute weights that read it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from supernets.elastic import InvertedResidual, SqueezeExcite, expanded, make_divisible
from supernets.ofa.ofa_resnet_blocks import Bottleneck


@torch.no_grad()
def sort_expansions(net: nn.Module, ratios: Sequence[float]) -> int:
    """Sort the middle channels of every Once-for-All block in place; how many blocks there are.

    ``ratios`` are the expand ratios that have been trained so far: a channel stays within the
    widths that it belongs to, so that subnets of these ratios hold the same channels as before and
    compute the same. Statistics recorded before no longer fit.
    """
    count = 0
    for block in net.modules():
        if isinstance(block, InvertedResidual) and block.expand is not None:
            _sort_inverted_residual(block, sorted({block.middle(ratio) for ratio in ratios}))
            count += 1
        elif isinstance(block, Bottleneck):
            out = block.conv3.weight.shape[0]
            _sort_bottleneck(block, sorted({expanded(out, ratio) for ratio in ratios}))
            count += 1
    return count


def _sort_bottleneck(block: Bottleneck, widths: Sequence[int]) -> None:
    """The 3x3 convolution's outputs by who reads them, then its inputs likewise."""
    for first, norm, then in (
        (block.conv2, block.norm2, block.conv3),
        (block.conv1, block.norm1, block.conv2),
    ):
        order = _order(then.weight.abs().sum((0, 2, 3)), widths)
        for parameter in (first.weight, norm.weight, norm.bias):
            _permute(parameter, order)
        then.weight.copy_(then.weight[:, order])


def _sort_inverted_residual(block: InvertedResidual, widths: Sequence[int]) -> None:
    order = _order(block.project.weight.abs().sum((0, 2, 3)), widths)
    outgoing: list[Tensor | None] = [block.depthwise.weight]
    outgoing += [block.depthwise_norm.weight, block.depthwise_norm.bias]
    if block.expand is not None and block.expand_norm is not None:
        outgoing += [block.expand.weight, block.expand_norm.weight, block.expand_norm.bias]
    for parameter in outgoing:
        _permute(parameter, order)
    block.project.weight.copy_(block.project.weight[:, order])
    if block.squeeze is not None:
        _sort_squeeze(block.squeeze, order, [make_divisible(width // 4) for width in widths])


def _sort_squeeze(squeeze: SqueezeExcite, order: Tensor, widths: Sequence[int]) -> None:
    reduce, expand = squeeze.reduce, squeeze.expand
    reduce.weight.copy_(reduce.weight[:, order])
    _permute(expand.weight, order)
    _permute(expand.bias, order)
    middle = _order(expand.weight.abs().sum((0, 2, 3)), widths)
    expand.weight.copy_(expand.weight[:, middle])
    _permute(reduce.weight, middle)
    _permute(reduce.bias, middle)


def _permute(parameter: Tensor | None, order: Tensor) -> None:
    """Reorder the first dimension in place."""
    if parameter is not None:
        parameter.copy_(parameter[order])


def _order(importance: Tensor, widths: Sequence[int]) -> Tensor:
    """Channels by falling importance, within each stretch between two widths."""
    parts, start = [], 0
    for end in sorted({*widths, len(importance)}):
        part = torch.argsort(importance[start:end], descending=True, stable=True)
        parts.append(part + start)
        start = end
    return torch.cat(parts)
