"""A module of one's own as a supernet: every form agrees, and extraction keeps what is active."""

import copy
import random
import re
from itertools import count
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from supernets import (
    MissingStatistics,
    Preprocessing,
    SearchSpace,
    StagedSpace,
    calibrate,
    create_supernet,
    extract,
    save,
)
from supernets.elastic import InvertedResidual
from supernets.freezing import NotFreezable, freeze
from supernets.operators import LayerSelect, SubnetNorm, WeightSlice
from supernets.opt_in import ModuleSupernet, register_module
from supernets.space import Dimension
from tests.supernets.helpers import calibrated, images, randomise, relative, small_net

README = Path(__file__).parents[2] / "README.md"
STEP = Preprocessing(12, 12, 2, (0.5, 0.5), (0.5, 0.5))
SPACE = StagedSpace("mixed", 2, (1, 2), {"e": (1, 2), "ks": (3, 5)})


class Block(nn.Module):
    """A residual block of operators, one of which (the gate) is a plain parameter."""

    def __init__(self, channels):
        super().__init__()
        self.inner = InvertedResidual(
            channels, channels, stride=1, kernels=(3, 5), expands=(1, 2),
            activation="relu", squeeze=True, new_norm=lambda c: SubnetNorm(0, c),
        )  # fmt: skip
        self.gate = nn.Parameter(torch.ones(2 * channels))

    def forward(self, x, kernel, ratio, normalise):
        gate = self.gate.narrow(0, 0, self.inner.middle(ratio)).sigmoid().mean()
        return x + gate * self.inner(x, kernel, ratio, normalise)


class Mixed(nn.Module):
    """Operators of every kind, in nested modules, beside ordinary layers."""

    def __init__(self, num_classes=3):
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 3, padding=1)
        self.norm = SubnetNorm(0, 8)
        self.stages = nn.ModuleList(LayerSelect([Block(8), Block(8)]) for _ in range(2))
        self.wide = WeightSlice(8, 16, bias=True)
        self.classifier = nn.Parameter(torch.zeros(num_classes, 16))
        self.register_buffer("shift", torch.full((1,), 0.25))

    def forward(self, x, subnet, normalise):
        x = F.relu(self.norm(self.stem(x), normalise))
        settings = list(zip(subnet["ks"], subnet["e"], strict=True))
        for index, (stage, depth) in enumerate(zip(self.stages, subnet["d"], strict=True)):
            own = settings[2 * index :]
            x = stage(
                x, int(depth), lambda i, block, y, own=own: block(y, *map(int, own[i]), normalise)
            )
        width = 8 * int(subnet["e"][0])
        features = F.relu(self.wide(x, width) + self.shift).mean((2, 3))
        return F.linear(features, self.classifier[:, : features.shape[1]])


def mixed(seed=0):
    torch.manual_seed(seed)
    net = ModuleSupernet(Mixed(), SPACE, STEP, "abc")
    randomise(net, seed)
    return net.double().eval()


def test_the_forms_of_ones_own_module_agree():
    net = mixed()
    subnets = calibrated(net, 6)
    resident = net.resident(dtype=torch.float64)
    x = images(net, 3, seed=5)
    for subnet in subnets:
        plain = extract(net, subnet)
        with torch.no_grad():
            expected = net(x, subnet)
            assert relative(plain(x), expected) < 1e-12
        assert relative(resident(x, subnet), expected) < 1e-12
        assert relative(expected[0], expected[1]) > 0.01
        assert resident.arena.holds(resident.tensors(subnet).values())


def test_the_extracted_module_has_storage_of_its_own():
    net = mixed()
    subnet = calibrated(net, 1)[2]
    plain = extract(net, subnet)
    x = images(net, 2)
    with torch.no_grad():
        before = plain(x)
        for tensor in [*net.parameters(), *net.buffers()]:
            tensor.zero_()
        for statistics in net.statistics[subnet].values():
            statistics.mean.zero_()

        assert torch.equal(plain(x), before)
    assert not plain.training


def test_the_extracted_module_holds_what_is_active_and_nothing_else():
    """Counted by hand for e=1, ks=5, d=1: no kernel matrices, one block a stage."""
    net = mixed()
    subnet = net.space.subnet(e=1, ks=5, d=1)
    calibrate(net, [subnet], [images(net, 4)])
    plain = extract(net, subnet)
    squeeze = 8 * 8 + 8 + 8 * 8 + 8
    block = (8 * 8 + 16) + (8 * 25 + 16) + squeeze + (8 * 8 + 16) + 8  # three convolutions, a gate
    outside = (8 * 2 * 9 + 8 + 16) + (8 * 8 + 8) + 3 * 8

    assert sum(parameter.numel() for parameter in plain.parameters()) == outside + 2 * block
    assert {name for name, _ in plain.named_buffers()} == {
        "net.module.shift", *(f"{kind}_{layer}" for layer in (0, 1, 2, 3, 7, 8, 9)
                              for kind in ("mean", "var")),
    }  # fmt: skip
    largest = net.space.largest
    calibrate(net, [largest], [images(net, 4)])
    whole = sum(parameter.numel() for parameter in net.parameters())
    matrices = 0  # 5 x 5 kernels run as they are
    for name, parameter in net.named_parameters():
        matrices += parameter.numel() if "transforms" in name else 0
    held = sum(parameter.numel() for parameter in extract(net, largest).parameters())
    assert held == whole - matrices


def test_shared_statistics_are_cut_to_the_active_channels():
    net = mixed()
    calibrated(net, 0)
    net.statistics.shared = net.statistics[net.space.largest]
    subnet = net.space.subnet(e=1, ks=3, d=[2, 1])
    plain = freeze(net, subnet)
    x = images(net, 2)
    with torch.no_grad():
        assert relative(plain(x), net(x, subnet)) < 1e-12
    assert plain.get_buffer("mean_1").shape == (8,)


def test_freezing_agrees_with_a_familys_own_extraction():
    """Two ways to the same network: the OFA family builds plain layers, freezing cuts its own."""
    net = small_net(3)
    x = images(net, 2)
    for subnet in calibrated(net, 4):
        with torch.no_grad():
            assert relative(freeze(net, subnet)(x), extract(net, subnet)(x)) < 1e-12


def test_a_subnet_without_statistics_cannot_be_extracted():
    net = mixed()
    for call in (extract, lambda net, subnet: net(images(net, 1), subnet)):
        with pytest.raises(MissingStatistics):
            call(net, net.space.smallest)


class Halves(nn.Module):
    """Takes its width from the size of a weight, which extraction changes."""

    def __init__(self, num_classes=2):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 2))
        self.head = nn.Parameter(torch.randn(num_classes, 8))

    def forward(self, x, subnet):
        width = int(self.weight.shape[0] * subnet["share"][0])
        y = F.linear(x.mean((2, 3)), self.weight[:width])
        return F.linear(y, self.head[:, :width])


def test_a_width_that_comes_from_the_size_of_a_weight_is_refused():
    space = SearchSpace("halves", [Dimension("share", 1, (0.5, 1.0))])
    net = ModuleSupernet(Halves(), space, STEP, "ab")

    with pytest.raises(NotFreezable, match="Widths must come from the subnet"):
        extract(net, space.smallest)
    x = torch.randn(2, 2, 12, 12)
    with torch.no_grad():
        assert torch.equal(extract(net, space.largest)(x), net(x, space.largest))


def test_extraction_leaves_the_modes_of_the_module_alone():
    net = mixed().train()
    net.module.stages[0].eval()
    modes = [module.training for module in net.modules()]
    calibrated(net, 0)
    extract(net, net.space.smallest)

    assert [module.training for module in net.modules()] == modes


def test_norms_are_numbered_by_us():
    net = mixed()
    layers = [m.layer for m in net.modules() if isinstance(m, SubnetNorm)]

    assert sorted(layers) == list(range(13))


def test_a_norm_needs_the_argument_that_it_is_given():
    class Forgetful(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = SubnetNorm(0, 2)

        def forward(self, x, subnet):
            return x

    with pytest.raises(TypeError, match=r"forward\(self, x, subnet, normalise\)"):
        ModuleSupernet(Forgetful(), SPACE, STEP, "ab")


names = (f"own{i}" for i in count())


def registered(**settings):
    """A module registered under a name of its own, because names are for the whole process."""
    name = next(names)
    chosen = settings or {"width": (2, 6)}

    @register_module(name, labels=("cat", "dog"), preprocessing=STEP, **chosen)
    class Own(nn.Module):
        """Cats and dogs."""

        def __init__(self, num_classes, scale=1.0):
            super().__init__()
            self.conv, self.norm = WeightSlice(2, 6, 3), SubnetNorm(0, 6)
            self.head, self.scale = WeightSlice(6, num_classes), scale

        def forward(self, x, subnet, normalise):
            y = self.norm(self.conv(x, subnet["width"][0]), normalise).relu()
            return self.scale * self.head(y.mean((2, 3), keepdim=True)).flatten(1)

    return name


def test_a_registered_module_is_created_saved_and_loaded_by_name(tmp_path):
    name = registered()
    net = create_supernet(name, scale=3.0)
    x = torch.randn(4, 2, 12, 12)
    calibrate(net, list(net.space), [x])
    save(net, tmp_path / "own.safetensors")
    again = create_supernet(name, checkpoint=tmp_path / "own.safetensors")
    with torch.no_grad():
        for subnet in net.space:
            assert torch.equal(again(x, subnet), net(x, subnet))
    assert (net.labels, net.preprocessing) == (("cat", "dog"), STEP)
    assert again.module.scale == 3.0
    assert create_supernet(name, num_classes=5).labels == ("0", "1", "2", "3", "4")


def test_the_settings_of_a_registered_module_are_its_space():
    net = create_supernet(registered(width=(2, 4, 6), tint=(0.5,)))

    assert [subnet.config() for subnet in net.space] == [
        {"width": [width], "tint": [0.5]} for width in (2, 4, 6)
    ]
    assert net.space.sample(random.Random(0)) in net.space


def test_a_space_is_given_once_and_under_the_same_name():
    with pytest.raises(TypeError, match="either a space, or settings"):
        register_module("nothing", labels="ab", preprocessing=STEP)
    with pytest.raises(TypeError, match="either a space, or settings"):
        register_module("mixed", labels="ab", preprocessing=STEP, space=SPACE, width=(1, 2))
    with pytest.raises(ValueError, match="the space is of 'mixed'"):
        register_module("other", labels="ab", preprocessing=STEP, space=SPACE)


def test_a_module_that_nothing_builds_again_is_not_saved(tmp_path):
    with pytest.raises(TypeError, match="given no definition"):
        save(mixed().float(), tmp_path / "mixed.safetensors")


def test_a_copy_of_the_net_is_independent():
    net = mixed()
    twin = copy.deepcopy(net)
    with torch.no_grad():
        twin.module.stem.weight.zero_()

    assert net.module.stem.weight.any()


def test_the_readmes_own_supernet_works():
    """The block of README.md that opens with ```python own-supernet, word for word."""
    found = re.findall(r"```python own-supernet\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(found) == 1, "README.md has no such block, or several"
    scope = {"__name__": "readme"}
    exec(compile(found[0], str(README), "exec"), scope)
    net, x = scope["net"], scope["images"]
    assert isinstance(net, ModuleSupernet)
    resident = net.resident()
    with torch.no_grad():
        for subnet in net.space:
            assert relative(resident(x, subnet), net(x, subnet)) < 1e-5
            assert relative(extract(net, subnet)(x), net(x, subnet)) < 1e-5
    assert net.space.smallest != net.space.largest
