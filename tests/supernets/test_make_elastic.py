"""Ordinary networks made elastic compute what they did, and their subnets what is cut by hand."""

import copy
import random
from itertools import islice

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from supernets import (
    CheckpointError,
    MissingStatistics,
    Preprocessing,
    calibrate,
    create_supernet,
    extract,
    register_supernet,
    save,
)
from supernets.conversion.channel_groups import NotElastic
from supernets.making_elastic import make_elastic
from tests.supernets.helpers import relative

SIZE = 48  # pixels; the laws do not depend on it, the time does
MODELS = {
    "resnet18": lambda: torchvision.models.resnet18(num_classes=20),
    "resnet50": lambda: torchvision.models.resnet50(num_classes=20),
    "wide_resnet14_2": lambda: ResNet(Bottleneck, [1, 2, 1, 1], 20, width_per_group=128),
    "resnext50_32x4d": lambda: torchvision.models.resnext50_32x4d(num_classes=20),
    # Deep stem, average pooling in the shortcuts, and channel gates at the end of each block.
    "timm-seresnet26d": lambda: timm.create_model(
        "resnet26d", num_classes=20, block_args={"attn_layer": "se"}
    ),
}


@torch.no_grad()
def randomised(model, seed=0, channels=3):
    """Every channel different from every other; it tells images apart, and is left as it was."""
    generator = torch.Generator().manual_seed(seed)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
    for norm in norms:
        norm.weight.uniform_(0.5, 1.5, generator=generator)
        norm.bias.normal_(0.0, 0.2, generator=generator)
        norm.momentum = 1.0  # the statistics of one batch, so that no layer drowns its input
    model.train()(pictures(6, 32, seed, channels))
    for norm in norms:
        norm.running_mean += 0.1 * torch.randn(norm.num_features, generator=generator)
    return model.eval()


def pictures(count, size=SIZE, seed=0, channels=3):
    """Noise, each image and colour of another brightness: pure noise looks alike once pooled."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, channels, size, size, generator=generator)
    return noise + torch.randn(count, channels, 1, 1, generator=generator)


def some_subnets(net, count, seed=0):
    rng = random.Random(seed)
    return [net.space.smallest, net.space.largest, *(net.space.sample(rng) for _ in range(count))]


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
        assert torch.equal(net.resident()(x, net.space.largest), expected)


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


class OwnBlock(nn.Module):
    """As people write it: functional activations, an empty shortcut, nested sequences."""

    def __init__(self, before, channels, stride):
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(before, 12, 1, bias=True),
            nn.BatchNorm2d(12),
            nn.SiLU(),
            nn.Conv2d(12, 12, 3, stride, 1, groups=12),
            nn.BatchNorm2d(12),
        )
        self.last = nn.Conv2d(12, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels, eps=1e-3)
        self.shortcut = nn.Sequential()
        if stride != 1 or before != channels:
            self.shortcut = nn.Sequential(nn.Conv2d(before, channels, 1, stride))
        self.scale = nn.Parameter(torch.full((1, channels, 1, 1), 0.7))

    def forward(self, x):
        y = self.norm(self.last(F.hardtanh(self.branch(x))))
        return F.relu(self.scale * y + self.shortcut(x))


class OwnNet(nn.Module):
    def __init__(self, num_classes=6):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.low = nn.Sequential(OwnBlock(16, 16, 1), OwnBlock(16, 16, 1), OwnBlock(16, 16, 1))
        self.high = nn.Sequential(OwnBlock(16, 24, 2), OwnBlock(24, 24, 1))
        self.head = nn.Linear(24, num_classes)

    def forward(self, x):
        x = self.high(self.low(self.stem(x)))
        return self.head(F.avg_pool2d(x, x.shape[-1]).view(x.size(0), -1))


def own_net(**options):
    torch.manual_seed(0)
    model = randomised(OwnNet(), channels=1).double()
    return model, make_elastic(model, image_size=12, divisor=2, **options)


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


def test_stages_depths_and_widths_can_be_chosen():
    _, net = own_net(stages=["low"], depths=[[1, 3]], widths=(0.25,))

    assert net.space.smallest.config() == {"w": [0.25, 0.25, 0.25], "d": [1]}
    assert net.space.largest.config() == {"w": [1.0, 1.0, 1.0], "d": [3]}
    # One block at two widths, or three.
    assert net.space.size == len(list(net.space)) == 2 + 8


def test_the_space_is_enumerated_once_each():
    _, net = own_net(widths=(0.3, 0.5))
    found = list(net.space)

    assert len(found) == len(set(found)) == net.space.size
    assert all(subnet in net.space for subnet in found)
    # Of 12 channels 0.3 are 4 and 0.5 are 6: three widths, and two depths a stage.
    assert net.space.size == (3**2 + 3**3) * (3**1 + 3**2)


def test_equal_networks_are_equal_subnets():
    _, net = own_net(widths=(0.45, 0.5, 1.0))  # of 12 channels, both are 6
    space = net.space

    assert space.subnet(d=2, w=0.45) == space.subnet(d=2, w=0.5)
    assert space.subnet(d=3, w=1.0) == space.largest, "the second stage has two blocks, no more"
    shallow = space.subnet(d=[2, 1], w=[1.0, 1.0, 0.5, 1.0, 1.0])
    assert shallow == space.subnet(d=[2, 1], w=[1.0, 1.0, 1.0, 1.0, 0.5])
    assert str(shallow) == "d=2,1 w=1.0"


def test_samples_use_every_depth_of_a_stage_alike():
    net = make_elastic(ResNet(BasicBlock, [1, 1, 6, 1]), image_size=SIZE)
    rng = random.Random(0)
    depths = [net.space.sample(rng)["d"][2] for _ in range(800)]

    assert {
        depth: round(depths.count(depth), -2) for depth in sorted(set(depths))
    } == dict.fromkeys((3, 4, 5, 6), 200)
    mutated = net.space.mutate(net.space.largest, rng, 1.0)
    assert mutated in net.space
    assert net.space.mutate(mutated, rng, 0.0) == mutated


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (torchvision.models.mobilenet_v2, "MobileNetV2 has no residual stages"),
        (torchvision.models.densenet121, "DenseNet has no residual stages"),
        (
            lambda: torchvision.models.inception_v3(init_weights=False),
            "Inception3 has no residual stages",
        ),
        (lambda: timm.create_model("resnet50_gn"), "bn1 is a GroupNorm; SubnetNorm takes"),
        (lambda: timm.create_model("mobilenetv3_small_050"), "bn1 is a BatchNormAct2d"),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 1)), "does not return logits"),
        (lambda: nn.Linear(3, 4), "does not run on images of shape"),
    ],
    ids=["mobilenet", "densenet", "inception", "group-norm", "norm-act", "no-logits", "no-image"],
)
def test_what_cannot_be_made_elastic_is_refused_with_the_reason(model, message):
    with pytest.raises(NotElastic, match=message):
        make_elastic(model())


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (["stem"], "stem.0 is a Conv2d, not a block"),
        (["head"], "head is a Linear; a stage is an nn.Sequential"),
        (["middle"], "no module 'middle'; the nn.Sequentials are stem, low"),
        (["low", "low.0.branch"], "low.0.branch.0 is a Conv2d"),
    ],
)
def test_a_stage_that_is_none_is_refused_with_the_reason(stages, message):
    with pytest.raises(NotElastic, match=message):
        own_net(stages=stages)


class Faulty(OwnNet):
    """The same network with one thing that does not fit."""

    def __init__(self, fault):
        super().__init__()
        self.fault = fault
        if fault == "smaller":
            self.low[1] = nn.Sequential(self.low[1], nn.MaxPool2d(2))
        elif fault == "not added":
            self.low[1] = nn.Sequential(nn.Conv2d(16, 16, 1), nn.ReLU())
        elif fault == "shared":
            self.low[2].last = self.low[1].last
        elif fault == "unused":
            self.spare = nn.Conv2d(1, 1, 1)

    def forward(self, x):
        if self.fault == "data" and x.mean() > 0:
            return super().forward(-x)
        if self.fault == "size" and x.shape[-1] > 10:
            return super().forward(x[..., 1:-1, 1:-1])
        if self.fault == "one by one":
            x = self.stem(x)
            for block in [*self.low, *self.high]:
                x = block(x)
            return self.head(x.mean((2, 3)))
        return super().forward(x)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("shared", "low.2.last and low.1.last are one layer"),
        ("unused", "spare.weight is not used in the forward pass"),
        ("data", "Faulty does not run .* without their values"),
        ("size", "the forward pass of the model .* cannot be traced"),
        ("one by one", "the stage low runs 0 times as a whole"),
    ],
)
def test_a_network_that_does_not_fit_is_refused_with_the_reason(fault, message):
    with pytest.raises(NotElastic, match=message):
        make_elastic(Faulty(fault), image_size=12)


@pytest.mark.parametrize("fault", ["smaller", "not added"])
def test_a_block_that_cannot_be_skipped_makes_no_stage(fault):
    """Found by itself the other stage is enough; asked for, the reason is given."""
    model = Faulty(fault)

    assert [stage.depths for stage in make_elastic(model, image_size=16).space.stages] == [(1, 2)]
    with pytest.raises(NotElastic, match=r"low.1 cannot be skipped"):
        make_elastic(model, image_size=16, stages=["low"])


def test_wrong_options_are_refused():
    model = OwnNet()
    for options, message in (
        ({"depths": [[1], [1], [1]]}, "depths for 3 stages, and 2"),
        ({"depths": [[0, 1], [1]]}, "low can run 1 to 3 blocks"),
        ({"widths": (0.5, 1.5)}, "above 0 and up to 1"),
        ({"labels": ["a", "b"]}, "2 labels for 6 classes"),
    ):
        with pytest.raises(ValueError, match=message):
            make_elastic(model, image_size=12, **options)
    with pytest.raises(TypeError, match="no options head_counts"):
        make_elastic(model, image_size=12, head_counts=(1, 2))


# The registered family.


def test_the_registered_family_starts_without_statistics():
    net = create_supernet("elastic", model="torchvision/resnet18", num_classes=4, image_size=SIZE)

    assert net.name == "elastic"
    with pytest.raises(MissingStatistics):
        net(pictures(1), net.space.largest)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet50", "torchvision/resnet50 or timm/resnet26d"),
        ("torchvision/resnet51", "resnet50"),
        ("timm/resnet26dd", "resnet26d"),
    ],
)
def test_an_unknown_model_is_refused_with_those_like_it(name, message):
    with pytest.raises(ValueError, match=message):
        create_supernet("elastic", model=name)


@pytest.mark.parametrize("name", ["torchvision/resnet18", "timm/resnet14t"])
def test_the_librarys_own_weight_file_is_read(name, tmp_path):
    library, architecture = name.split("/")
    make = torchvision.models.get_model if library == "torchvision" else timm.create_model
    model = randomised(make(architecture, num_classes=5), seed=3)
    file = tmp_path / "weights.pth"
    torch.save(model.state_dict(), file)
    net = create_supernet("elastic", checkpoint=file, model=name, num_classes=5, image_size=SIZE)
    x = pictures(2)
    with torch.no_grad():
        assert relative(net(x, net.space.largest), model(x)) < 1e-5
        assert (
            relative(make_elastic(model)(x, net.space.smallest), net(x, net.space.smallest)) < 1e-5
        )
    assert set(net.statistics) == {net.space.largest}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.clear(), "missing: conv1.weight"),
        (lambda s: s.pop("layer3.1.bn2.running_var"), "missing: layer3.1.bn2.running_var"),
        (lambda s: s.update({"extra": torch.zeros(1)}), "unexpected: extra"),
        (lambda s: s.update({"fc.bias": torch.zeros(9)}), r"fc.bias has shape \(9,\), not \(5,\)"),
    ],
)
def test_a_wrong_weight_file_is_refused_and_changes_nothing(change, message):
    net = make_elastic(randomised(torchvision.models.resnet18(num_classes=5)), image_size=SIZE)
    before = copy.deepcopy(net.state_dict())
    state = torchvision.models.resnet18(num_classes=5).state_dict()
    change(state)
    with pytest.raises(CheckpointError, match=message):
        net.load_foreign(state)

    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert set(net.statistics) == {net.space.largest}


def test_a_saved_net_comes_back_the_same(tmp_path):
    """Weights are saved sorted; sorting what random weights say would disorder them again."""
    model = randomised(timm.create_model("resnet26d", num_classes=3), seed=4)
    net = make_elastic(model, image_size=SIZE, depths=(1, 2), labels=["a", "b", "c"])
    subnets = some_subnets(net, 2)
    calibrate(net, subnets[2:], [pictures(2, seed=5)])
    save(net, tmp_path / "elastic.safetensors")
    again = create_supernet("elastic", checkpoint=tmp_path / "elastic.safetensors")
    x = pictures(2)
    with torch.no_grad():
        for subnet in subnets:
            assert torch.equal(again(x, again.space.from_json(subnet.to_json())), net(x, subnet))
    assert again.labels == ("a", "b", "c")
    assert set(again.statistics) == set(net.statistics)
    assert again.statistics.shared.keys() == net.statistics.shared.keys()


def test_a_librarys_model_is_recognised_by_its_modules():
    for model, name in (
        (torchvision.models.resnet34(num_classes=7), "torchvision/resnet34"),
        (timm.create_model("resnet26d", num_classes=7), "timm/resnet26d"),
    ):
        assert make_elastic(model, image_size=SIZE).definition()["model"] == name


def test_a_net_that_no_name_builds_again_is_not_saved(tmp_path):
    _, net = own_net()
    with pytest.raises(TypeError, match="build this OwnNet again: register a function"):
        save(net, tmp_path / "own.safetensors")


def test_ones_own_elastic_network_is_registered_and_comes_back(tmp_path):
    @register_supernet()
    def own_elastic(*, num_classes=6):
        return make_elastic(
            randomised(OwnNet(num_classes), 9, channels=1),
            name="own_elastic",
            image_size=12,
            definition={"num_classes": num_classes},
        )

    net = create_supernet("own_elastic", num_classes=4)
    calibrate(net, [net.space.smallest], [torch.randn(4, 1, 12, 12)])
    net.statistics.shared = None
    del net.statistics[net.space.largest]
    save(net, tmp_path / "own.safetensors")
    again = create_supernet("own_elastic", checkpoint=tmp_path / "own.safetensors")
    x = torch.randn(2, 1, 12, 12)
    with torch.no_grad():
        assert torch.equal(again(x, net.space.smallest), net(x, net.space.smallest))
    assert set(again.statistics) == {net.space.smallest}, "what the file lacks is not made up"


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
