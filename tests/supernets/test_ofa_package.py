"""The same subnets as the `ofa` package, both ways: its checkpoints here, and ours there."""

import random

import pytest
import torch

from supernets import extract
from supernets.ofa.ofa_names import to_ofa_state_dict
from tests.supernets.helpers import relative
from tests.supernets.ofa_reference import (
    OPTIONS,
    SIZE,
    blank_net,
    calibrate_theirs,
    empty_static,
    legacy,
    load_strictly,
    our_net,
    their_net,
    without_drawing,
)

KINDS = sorted(OPTIONS)


@torch.no_grad()
def compare(kind: str, subnets: int, size: int) -> float:
    """Random subnets, drawn by the package; the greatest relative difference of any."""
    theirs, ours = their_net(kind), our_net(kind)
    random.seed(0)
    worst = 0.0
    for _ in range(subnets):
        subnet = ours.space.subnet(**theirs.sample_active_subnet())
        calibrate_theirs(theirs, size)
        x = torch.randn(2, 3, size, size)
        expected = theirs(x)
        assert relative(expected[0], expected[1]) > 0.3
        ours.load_ofa_state_dict(theirs.state_dict())
        assert subnet not in ours.statistics, "shared statistics must not count as calibrated"
        static = empty_static(theirs)
        with without_drawing():
            load_strictly(static, to_ofa_state_dict(ours, subnet))
        worst = max(worst, relative(ours(x, subnet), expected), relative(static(x), expected))
    return worst


@pytest.mark.parametrize(
    ("kind", "subnets"), [("mobilenetv3-w1.0", 4), ("mobilenetv3-w1.2", 3), ("resnet50", 5)]
)
def test_random_subnets_agree_both_ways(kind, subnets):
    assert compare(kind, subnets, SIZE) < 1e-5


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_two_hundred_random_subnets_agree_both_ways(kind):
    assert compare(kind, 200, SIZE) < 1e-5


@pytest.mark.parametrize(
    ("kind", "ends"),
    [("mobilenetv3-w1.0", ["smallest", "largest"]), ("resnet50", ["smallest"])],
)
def test_the_ends_of_the_space_agree_to_the_last_digits(kind, ends):
    """In float64, so that agreement is exact and not blurred by rounding; all three forms."""
    theirs, ours = their_net(kind, seed=1), our_net(kind)
    x = torch.randn(2, 3, SIZE, SIZE)
    for subnet in (getattr(ours.space, end) for end in ends):
        theirs.set_active_subnet(**subnet.config())
        calibrate_theirs(theirs)
        ours.load_ofa_state_dict(theirs.state_dict())
        quick = ours.resident()(x, subnet)
        with torch.no_grad():
            expected = theirs.double()(x.double())
            ours.double()
            assert relative(expected[0], expected[1]) > 0.3
            assert relative(ours(x.double(), subnet), expected) < 1e-9
            assert relative(ours.resident(dtype=torch.float64)(x, subnet), expected) < 1e-9
            assert relative(extract(ours, subnet)(x.double()), expected) < 1e-9
        assert relative(quick.double(), expected) < 2e-4
        theirs.float()
        ours.float()


@pytest.mark.parametrize("kind", ["mobilenetv3-w1.2", "resnet50"])
def test_the_whole_supernet_goes_back_bit_by_bit(kind):
    theirs, ours = their_net(kind, seed=2), our_net(kind)
    state = theirs.state_dict()
    ours.load_ofa_state_dict(state)
    back = ours.ofa_state_dict()
    load_strictly(blank_net(kind), back)

    for name, tensor in state.items():
        assert name.endswith("num_batches_tracked") or torch.equal(back[name], tensor), name


@pytest.mark.parametrize(
    ("kind", "rename"), [("mobilenetv3-w1.0", legacy), ("resnet50", dict)], ids=["legacy", "r50"]
)
def test_a_static_largest_net_loads_as_it_does_there(kind, rename):
    """The teacher networks such as ofa_D4_E6_K7; kernel matrices stay the identity."""
    theirs, ours = their_net(kind, seed=3), our_net(kind)
    theirs.set_max_net()
    calibrate_theirs(theirs)
    static = theirs.get_active_subnet().eval()
    there = blank_net(kind)
    there.load_state_dict(dict(static.state_dict()))
    ours.load_ofa_state_dict(rename(static.state_dict()))
    x = torch.randn(2, 3, SIZE, SIZE)

    for name, tensor in ours.ofa_state_dict().items():
        same = torch.equal(tensor, there.state_dict()[name])
        assert name.endswith("num_batches_tracked") or same, name
    assert list(ours.statistics) == [ours.space.largest], "this subnet is the original network"
    with torch.no_grad():
        assert relative(ours(x, ours.space.largest), static(x)) < 1e-5


def test_legacy_names_load_the_same_tensors():
    state = their_net("mobilenetv3-w1.0", seed=1).state_dict()
    modern, old = our_net("mobilenetv3-w1.0"), our_net("mobilenetv3-w1.0")
    modern.load_ofa_state_dict(state)
    old.load_ofa_state_dict(legacy(state))

    assert any("mobile_inverted_conv" in name for name in legacy(state))
    for ours, theirs in zip(modern.state_dict().values(), old.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


def test_new_weights_do_not_keep_the_statistics_of_the_old_ones():
    theirs, ours = their_net("mobilenetv3-w1.0", seed=4), our_net("mobilenetv3-w1.0")
    ours.load_ofa_state_dict(theirs.state_dict())
    ours.statistics[ours.space.smallest] = ours.statistics.shared
    ours.load_ofa_state_dict(theirs.state_dict())

    assert ours.space.smallest not in ours.statistics
