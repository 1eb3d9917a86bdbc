"""Ordinary networks made elastic compute what they did, and their subnets what is cut by hand."""

import copy
from itertools import islice

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from supernets import MissingStatistics, Preprocessing, calibrate, extract
from supernets.making_elastic import make_elastic
from tests.supernets.elastic_helpers import (
    MODELS,
    SIZE,
    own_net,
    pictures,
    randomised,
    some_subnets,
)
from tests.supernets.helpers import relative

LARGE = {"wide_resnet50_2": lambda: torchvision.models.wide_resnet50_2(num_classes=20)}


@pytest.fixture(
    scope="module",
    params=[*MODELS, *(pytest.param(name, marks=pytest.mark.long) for name in LARGE)],
)
def pair(request):
    """A randomised model, and what was made of it."""
    model = randomised({**MODELS, **LARGE}[request.param]())
    return model, make_elastic(model, image_size=SIZE)


@torch.no_grad()
def cut_by_hand(model: ResNet, x, depths, ratios):
    """What a torchvision ResNet computes with fewer blocks and inner channels, in plain formulas.

    Inner widths here are multiples of 8 at every ratio, so there is no rounding to get wrong.
    """

    def norm(bn, y):
        c = y.shape[1]
        mean, var = bn.running_mean[:c], bn.running_var[:c]
        return F.batch_norm(y, mean, var, bn.weight[:c], bn.bias[:c], False, 0.0, bn.eps)

    x = model.maxpool(F.relu(norm(model.bn1, model.conv1(x))))
    ratios = iter(ratios)
    stages = (model.layer1, model.layer2, model.layer3, model.layer4)
    for stage, depth in zip(stages, depths, strict=True):
        own = list(islice(ratios, len(stage)))
        for block, ratio in list(zip(stage, own, strict=True))[:depth]:
            identity = x if block.downsample is None else block.downsample(x)
            c = round(block.conv1.out_channels * ratio)
            if isinstance(block, BasicBlock):
                y = F.conv2d(x, block.conv1.weight[:c], stride=block.conv1.stride, padding=1)
                y = F.conv2d(F.relu(norm(block.bn1, y)), block.conv2.weight[:, :c], padding=1)
                y = norm(block.bn2, y)
            else:
                groups = round(block.conv2.groups * ratio) if block.conv2.groups > 1 else 1
                per_group = c // groups if block.conv2.groups > 1 else c
                y = F.relu(norm(block.bn1, F.conv2d(x, block.conv1.weight[:c])))
                weight = block.conv2.weight[:c, :per_group]
                y = F.conv2d(y, weight, stride=block.conv2.stride, padding=1, groups=groups)
                y = F.conv2d(F.relu(norm(block.bn2, y)), block.conv3.weight[:, :c])
                y = norm(block.bn3, y)
            x = F.relu(y + identity)
    return model.fc(model.avgpool(x).flatten(1))


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_without_sorting_the_largest_subnet_is_the_model_to_the_last_bit(name):
    model = randomised(MODELS[name]())
    net = make_elastic(model, sorting=False)
    x = pictures(2, 224)
    with torch.no_grad():
        expected = model(x)

        assert relative(expected[0], expected[1]) > 0.05, "the model must not forget its input"
        assert torch.equal(net(x, net.space.largest), expected)
        assert relative(net.resident()(x, net.space.largest), expected) < 1e-5


def test_sorted_the_largest_subnet_computes_what_the_model_does(pair):
    model, net = pair
    x = pictures(2)
    with torch.no_grad():
        assert relative(net(x, net.space.largest), model(x)) < 1e-5


def test_at_full_size_a_sorted_net_computes_what_the_model_does():
    model = randomised(MODELS["timm-seresnet26d"]())
    net = make_elastic(model)
    x = pictures(1, 224)
    with torch.no_grad():
        assert relative(net(x, net.space.largest), model(x)) < 1e-5


def test_the_given_model_stays_as_it_is():
    model = randomised(MODELS["resnet18"]()).train()
    before = copy.deepcopy(model.state_dict())
    net = make_elastic(model, image_size=SIZE)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()

    assert model.training
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d"])
def test_a_subnet_is_the_model_cut_by_hand(name):
    model = randomised(MODELS[name]())
    net = make_elastic(model, image_size=SIZE, sorting=False, widths=(0.25, 0.5, 1.0))
    x = pictures(2)
    for subnet in some_subnets(net, 2):
        expected = cut_by_hand(model, x, [int(d) for d in subnet["d"]], subnet["w"])
        with torch.no_grad():
            assert relative(net(x, subnet), expected) < 1e-5


def test_the_three_forms_agree(pair):
    _, net = pair
    resident = net.resident()
    x = pictures(2, seed=1)
    outputs = []
    for subnet in some_subnets(net, 2):
        plain = extract(net, subnet)
        with torch.no_grad():
            outputs.append(net(x, subnet))
            assert relative(resident(x, subnet), outputs[-1]) < 1e-5
            assert relative(plain(x), outputs[-1]) < 1e-5
        assert resident.arena.holds(resident.tensors(subnet).values())
        ours = {t.untyped_storage().data_ptr() for t in [*net.parameters(), *net.buffers()]}
        theirs = {t.untyped_storage().data_ptr() for t in plain.state_dict().values()}
        assert not ours & theirs
    assert relative(outputs[0], outputs[1]) > 0.05, "subnets must differ, or nothing is compared"


def test_smaller_subnets_are_smaller_networks_of_the_same_class(pair):
    model, net = pair
    sizes = []
    for subnet in (net.space.smallest, net.space.largest):
        plain = extract(net, subnet)
        sizes.append(sum(parameter.numel() for parameter in plain.parameters()))
        assert type(plain) is type(model)
        assert set(plain.state_dict()) <= set(model.state_dict())
        assert not plain.training
    assert sizes[0] < 0.75 * sizes[1]
    assert sizes[1] == sum(parameter.numel() for parameter in model.parameters())


def test_a_subnets_own_statistics_are_used_in_every_form():
    """Calibrated on different images, so that shared and own statistics differ."""
    model = randomised(MODELS["resnet18"]())
    net = make_elastic(model, image_size=SIZE)
    subnet = net.space.subnet(d=1, w=0.5)
    x = pictures(2)
    with torch.no_grad():
        before, largest = net(x, subnet), net(x, net.space.largest)
        calibrate(net, [subnet], [2.0 * pictures(4, seed=2) + 1.0])
        after = net(x, subnet)

        assert relative(after, before) > 0.05
        assert relative(net.resident()(x, subnet), after) < 1e-5
        assert relative(extract(net, subnet)(x), after) < 1e-5
        assert torch.equal(net(x, net.space.largest), largest)


def test_the_largest_subnet_alone_counts_as_calibrated():
    net = make_elastic(randomised(MODELS["resnet18"]()), image_size=SIZE)

    assert set(net.statistics) == {net.space.largest}
    assert net.statistics.shared is not None
    net.statistics.shared = None
    with pytest.raises(MissingStatistics, match=net.space.smallest.id):
        net(pictures(1), net.space.smallest)


def test_of_grouped_convolutions_whole_groups_are_taken():
    net = make_elastic(ResNet(Bottleneck, [1, 2, 1, 1], groups=32, width_per_group=4))
    block = extract(net, net.space.smallest).layer2[0]

    assert (block.conv2.groups, block.conv2.in_channels) == (16, 128)
    assert block.conv2.weight.shape == (128, 8, 3, 3)  # eight channels a group, as in the model


def test_what_flows_between_blocks_and_the_gates_keep_their_width(pair):
    model, net = pair
    small = extract(net, net.space.smallest)
    for name in ("layer1", "layer4"):
        full, cut = getattr(model, name)[0], getattr(small, name)[0]
        last = "conv2" if isinstance(full, BasicBlock) else "conv3"
        assert getattr(cut, last).out_channels == getattr(full, last).out_channels
        assert cut.conv1.out_channels == full.conv1.out_channels // 2
        if getattr(full, "se", None) is not None:
            assert cut.se.fc1.weight.shape == full.se.fc1.weight.shape


def test_ones_own_residual_network_becomes_elastic():
    model, net = own_net()
    x = torch.randn(3, 1, 12, 12, dtype=torch.float64)
    resident = net.resident(dtype=torch.float64)
    with torch.no_grad():
        assert relative(net(x, net.space.largest), model(x)) < 1e-6  # statistics are in float32
        for subnet in some_subnets(net, 12):
            assert relative(resident(x, subnet), net(x, subnet)) < 1e-12
            assert relative(extract(net, subnet)(x), net(x, subnet)) < 1e-12
    small = extract(net, net.space.smallest)
    assert (len(small.low), len(small.high)) == (2, 1)
    assert small.low[0].branch[3].groups == 6, "depthwise filters go with their channels"
    assert net.preprocessing.channels == 1
    assert net.labels == ("0", "1", "2", "3", "4", "5")


class Between(nn.Module):
    """A residual block with something between its two convolutions."""

    def __init__(self, between):
        super().__init__()
        self.first, self.between = nn.Conv2d(8, 8, 1), between
        self.second = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        return x + self.second(self.between(self.first(x)))


class Called(nn.Module):
    """A module without parameters, as people write their own activations."""

    def __init__(self, function):
        super().__init__()
        self.forward = function


@pytest.mark.parametrize(
    ("between", "narrows"),
    [
        (nn.SiLU(), True),
        (nn.PReLU(), True),
        (Called(lambda x: x * torch.sigmoid(x) - 0.5), True),
        (Called(lambda x: F.max_pool2d(x, 3, 1, 1) + x.mean((2, 3), keepdim=True)), True),
        (nn.PReLU(8), False),
        (nn.Softmax(dim=1), False),
        (nn.ChannelShuffle(2), False),
        (Called(lambda x: x.cumsum(1)), False),
        (Called(lambda x: torch.cat((x[:, 4:], x[:, :4]), 1)), False),
        (Called(lambda x: x - x.mean(1, keepdim=True)), False),
        (Called(lambda x: x.view(-1, 8, 25).view(-1, 8, 5, 5)), False),
    ],
    ids=["silu", "prelu", "own", "pool", "prelus", "softmax", "shuffle", "sums", "halves", "centre",
         "view"],
)  # fmt: skip
def test_what_mixes_channels_keeps_their_width(between, narrows):
    """Nobody lists these functions: whether channels stay apart is tried out."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.Sequential(Between(between), Between(copy.deepcopy(between))),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    ).eval()  # fmt: skip
    net = make_elastic(model, image_size=5, divisor=1, widths=(0.5,))
    x = pictures(2, 5)
    with torch.no_grad():
        assert relative(net(x, net.space.largest), model(x)) < 1e-5
        for subnet in net.space:
            plain = extract(net, subnet)
            assert relative(plain(x), net(x, subnet)) < 1e-5
            assert len(plain[1]) == int(subnet["d"][0])
    assert extract(net, net.space.smallest)[1][0].first.out_channels == (4 if narrows else 8)


def test_preprocessing_is_the_models_own_or_the_given_one():
    timms = make_elastic(timm.create_model("resnet14t"), sorting=False)
    own = Preprocessing(32, 40, 3, (0.1, 0.2, 0.3), (0.5, 0.5, 0.5))

    assert (timms.preprocessing.height, timms.preprocessing.crop) == (176, 0.875)
    assert make_elastic(timm.create_model("resnet10t"), image_size=64).preprocessing.width == 64
    small = ResNet(BasicBlock, [1, 1, 1, 1])
    assert make_elastic(small).preprocessing == Preprocessing.imagenet(224)
    assert make_elastic(small, preprocessing=own).preprocessing == own


def test_a_vision_transformer_becomes_an_elastic_one():
    torch.manual_seed(0)
    model = timm.models.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=32, depth=4, num_heads=4, num_classes=3
    ).eval()
    net = make_elastic(model, depths=(2, 4), labels=["a", "b", "c"])
    x = pictures(2, 32)
    with torch.no_grad():
        assert relative(net(x, net.space.largest), model(x)) < 1e-5
    assert [subnet["d"] for subnet in (net.space.smallest, net.space.largest)] == [(2,), (4,)]
    assert net.labels == ("a", "b", "c")
    with pytest.raises(TypeError, match="Vision Transformer"):
        make_elastic(model, image_size=64)
