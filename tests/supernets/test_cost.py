"""Multiply-accumulates and parameters against published figures, the ofa package and by hand."""

import random
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from supernets import Preprocessing, SearchSpace, Supernet, create_supernet, extract
from supernets.cost import cost, macs, parameters
from supernets.ofa_resnet50 import ofa_resnet50
from supernets.space import Dimension
from tests.supernets.helpers import calibrated, small_net

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from ofa.imagenet_classification.elastic_nn.networks import OFAMobileNetV3, OFAResNets
    from ofa.utils.pytorch_utils import count_net_flops, count_parameters


@pytest.mark.parametrize(
    ("width_mult", "config", "mega_macs", "expected"),
    [
        (1.0, {"ks": 7, "e": 6, "d": 4}, 566.170656, 7_664_760),
        (1.0, {"ks": 5, "e": 4, "d": 3}, 250.7, 4_551_792),
        (1.0, {"ks": 3, "e": 3, "d": 2}, 121.3, 3_410_792),
        (1.2, {"ks": 7, "e": 6, "d": 4}, 843.1, 10_701_632),
        (1.2, {"ks": 5, "e": 4, "d": 3}, 385.7, 6_245_312),
        (1.2, {"ks": 3, "e": 3, "d": 2}, 193.1, 4_602_456),
    ],
)
def test_mobilenetv3_costs_what_its_authors_report(width_mult, config, mega_macs, expected):
    """Figures of the ofa package's own models of these networks at 224 pixels."""
    net = create_supernet("ofa_mobilenetv3", width_mult=width_mult)
    found = cost(net, net.space.subnet(**config))

    assert found.macs / 1e6 == pytest.approx(mega_macs, abs=0.05)
    assert found.parameters == expected


def ofa_cost(theirs, subnet):
    theirs.set_active_subnet(**subnet.config())
    plain = theirs.get_active_subnet(preserve_weight=False)
    return count_net_flops(plain, [1, 3, 224, 224]), count_parameters(plain)


def test_random_mobilenetv3_subnets_cost_what_the_ofa_package_counts():
    net = create_supernet("ofa_mobilenetv3")
    theirs = OFAMobileNetV3(
        dropout_rate=0, ks_list=[3, 5, 7], expand_ratio_list=[3, 4, 6], depth_list=[2, 3, 4]
    )
    for seed in range(3):
        subnet = net.space.sample(random.Random(seed))
        operations, numbers = ofa_cost(theirs, subnet)

        assert macs(net, subnet) == pytest.approx(operations, rel=1e-6)  # theirs are float32
        assert parameters(net, subnet) == numbers


def test_random_resnet50_subnets_cost_what_the_ofa_package_counts():
    net = ofa_resnet50()
    theirs = OFAResNets(
        dropout_rate=0,
        depth_list=[0, 1, 2],
        expand_ratio_list=[0.2, 0.25, 0.35],
        width_mult_list=[0.65, 0.8, 1.0],
    )
    for seed in range(2):
        subnet = net.space.sample(random.Random(seed))
        operations, numbers = ofa_cost(theirs, subnet)

        assert macs(net, subnet) == pytest.approx(operations, rel=1e-6)
        assert parameters(net, subnet) == numbers


def test_parameters_are_those_of_the_extracted_subnet():
    net = small_net(1)
    for subnet in calibrated(net, 6):
        plain = extract(net, subnet)

        assert parameters(net, subnet) == sum(p.numel() for p in plain.parameters())


def test_counting_needs_no_statistics_and_leaves_the_net_as_it_is():
    net = small_net(2)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    largest, smallest = cost(net, net.space.largest), cost(net, net.space.smallest)

    assert smallest.macs < largest.macs
    assert smallest.parameters < largest.parameters
    assert len(net.statistics) == 0
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name])


class Attention(Supernet):
    """One attention layer over pixels, with weights of every kind that can be miscounted."""

    def __init__(self, tokens=9, width=8):
        space = SearchSpace("attention", [Dimension("heads", 1, (1, 2))])
        super().__init__("attention", space, Preprocessing(3, 3, 2, (0, 0), (1, 1)), ["a", "b"])
        self.embed = nn.Linear(2, width)
        self.position = nn.Parameter(torch.zeros(tokens, width))
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.qkv = nn.Parameter(torch.zeros(2, 3, 4, width))  # heads, three, head width, inputs
        self.table = nn.Parameter(torch.zeros(2, 5))  # a bias per head and relative position
        self.register_buffer("index", torch.zeros(10, 10, dtype=torch.long))
        self.register_buffer("ramp", torch.zeros(10, 1))
        self.norm = nn.LayerNorm(width)
        self.unused = nn.Parameter(torch.zeros(1000))

    def run(self, x, subnet, normalise):
        heads = int(subnet["heads"][0])
        y = self.embed(x.flatten(2).transpose(1, 2)) + self.position
        y = torch.cat([self.token.expand(len(y), -1, -1), y], 1) + self.ramp
        weight = self.qkv[:heads].flatten(0, 2)
        q, k, v = F.linear(y, weight).unflatten(-1, (heads, 3, 4)).permute(3, 0, 2, 1, 4)
        bias = self.table[:heads][:, self.index]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2)
        y = self.norm(F.pad(y, (0, 8 - y.shape[-1])))
        y = F.linear(y, self.embed.weight.t())  # tied: these weights count once
        return y.mean(1)

    def extract(self, subnet):
        raise NotImplementedError

    def definition(self):
        return {}


@pytest.mark.parametrize("heads", [1, 2])
def test_attention_by_hand(heads):
    """Ten tokens of width 8, heads of width 4; expanded, tied and looked-up weights count once."""
    net = Attention()
    found = cost(net, net.space.subnet(heads=heads))
    tokens, width, inner = 10, 8, 4 * heads

    assert found.macs == (
        9 * 2 * width  # embedding
        + tokens * width * 3 * inner  # queries, keys, values
        + 2 * tokens * tokens * inner  # attention, twice: its weights, and what they weigh
        + tokens * width * 2  # the head
    )
    assert found.parameters == (
        (2 * width + width)  # embedding, with its bias; tied with the head
        + 9 * width  # positions
        + width  # the class token
        + width * 3 * inner
        + 5 * heads  # as they lie in the table, not as they are spread out
        + 2 * width  # layer norm
    )
