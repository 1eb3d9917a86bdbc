"""Sorting channels changes no function, and puts first what the Once-for-All code puts first."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from supernets.conversion.channel_groups import ChannelGroup
from supernets.conversion.channel_order import importance, reorder, sort_channels
from supernets.conversion.stage_search import find_stages
from tests.supernets.helpers import relative

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from ofa.imagenet_classification.elastic_nn.modules.dynamic_layers import (
        DynamicResNetBottleneckBlock,
    )


class Network(nn.Module):
    """Two blocks between a stem and a classifier, in float64, everything random."""

    def __init__(self, *blocks):
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 3)
        self.stage = nn.Sequential(*blocks)
        self.head = nn.LazyLinear(5)
        self(torch.randn(4, 3, 8, 8))  # gives the lazy layer its size
        generator = torch.Generator().manual_seed(0)
        for tensor in [*self.parameters(), *self.buffers()]:
            if tensor.is_floating_point():
                tensor.data.uniform_(0.1, 1.0, generator=generator)
        for conv in (m for m in self.modules() if isinstance(m, nn.Conv2d)):
            nn.init.kaiming_normal_(conv.weight, generator=generator)
        self.double().eval()

    def forward(self, x):
        return self.head(self.stage(self.stem(x)).mean((2, 3)))


class Inverted(nn.Module):
    """A depthwise convolution with a gate on the inner channels, and biases."""

    def __init__(self, channels, inner):
        super().__init__()
        self.expand = nn.Conv2d(channels, inner, 1)
        self.norm = nn.BatchNorm2d(inner)
        self.depthwise = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.gate = nn.Conv2d(inner, inner, 1)
        self.project = nn.Conv2d(inner, channels, 1, bias=False)

    def forward(self, x):
        y = self.depthwise(torch.relu(self.norm(self.expand(x))))
        y = y * torch.sigmoid(self.gate(y.mean((2, 3), keepdim=True)))
        return x + self.project(y)


BLOCKS = {
    "basic": lambda: BasicBlock(64, 64),
    "bottleneck": lambda: Bottleneck(64, 16),
    "grouped": lambda: Bottleneck(64, 16, groups=4, base_width=32),
    "inverted": lambda: Inverted(64, 24),
}


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
def test_sorting_changes_the_weights_and_not_the_function(block):
    torch.manual_seed(0)
    net = Network(block(), block())
    before = copy.deepcopy(net)
    stages = find_stages(net, (3, 8, 8)).stages
    sort_channels(net, stages)
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        assert relative(net(x), before(x)) < 1e-12
        assert relative(net(x)[0], net(x)[1]) > 1e-3
    changed = [n for n, p in net.named_parameters() if not torch.equal(p, before.get_parameter(n))]
    assert any(name.startswith("stage.0.") for name in changed)
    assert any(name.startswith("stage.1.") for name in changed)
    for group in stages[0].blocks[1].groups:
        order = importance(net.stage[1], group)
        assert len(order) == group.units
        assert torch.equal(order, order.sort(descending=True).values)


def test_a_bottleneck_is_sorted_as_the_ofa_package_sorts_it():
    torch.manual_seed(1)
    theirs = DynamicResNetBottleneckBlock([64], [64], 0.25)
    net = Network(Bottleneck(64, 16), Bottleneck(64, 16)).float()
    ours = net.stage[1]
    pairs = [
        (getattr(ours, f"{kind}{i}"), getattr(getattr(theirs, f"conv{i}"), kind))
        for i in (1, 2, 3)
        for kind in ("conv", "bn")
    ]
    with torch.no_grad():
        for own, wrapped in pairs:
            inner = wrapped.conv if isinstance(own, nn.Conv2d) else wrapped.bn
            inner.load_state_dict(own.state_dict())
    theirs.re_organize_middle_weights()
    sort_channels(net, find_stages(net, (3, 8, 8)).stages)

    for own, wrapped in pairs:
        inner = wrapped.conv if isinstance(own, nn.Conv2d) else wrapped.bn
        for name, tensor in own.state_dict().items():
            assert torch.equal(tensor, inner.state_dict()[name]), name


def test_importance_is_the_sum_of_absolute_weights_that_read_a_channel():
    """By hand: three channels, read by a 1x1 convolution with two outputs."""
    block = nn.Module()
    block.first, block.second = nn.Conv2d(1, 3, 1), nn.Conv2d(3, 2, 1)
    with torch.no_grad():
        block.second.weight.copy_(torch.tensor([[1.0, -4, 2], [1, 0, -1]])[:, :, None, None])
        block.first.bias.copy_(torch.tensor([10.0, 20, 30]))
    group = ChannelGroup(3, ("first",), ("second",), ())

    assert importance(block, group).tolist() == [2, 4, 3]
    reorder(block, group, torch.tensor([1, 2, 0]))
    assert block.first.bias.tolist() == [20, 30, 10]
    assert block.second.weight[:, :, 0, 0].tolist() == [[-4, 2, 1], [0, -1, 1]]


def test_the_groups_of_a_grouped_convolution_move_as_a_whole():
    """Two groups that write two channels each, from one channel each."""
    block = nn.Module()
    block.grouped, block.reader = nn.Conv2d(2, 4, 1, groups=2), nn.Conv2d(4, 1, 1)
    with torch.no_grad():
        block.grouped.bias.copy_(torch.tensor([1.0, 2, 3, 4]))
        block.reader.weight.copy_(torch.tensor([5.0, 0, 3, 4]).view(1, 4, 1, 1))
    group = ChannelGroup(2, ("grouped",), ("reader",), ())

    assert importance(block, group).tolist() == [5, 7], "the largest channel is in the lesser group"
    reorder(block, group, importance(block, group).argsort(descending=True))
    assert block.grouped.bias.tolist() == [3, 4, 1, 2]
    assert block.reader.weight.flatten().tolist() == [3, 4, 5, 0]
