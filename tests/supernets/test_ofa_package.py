"""The same subnets as the `ofa` package, from checkpoints that package wrote."""

import random
import warnings

import pytest
import torch

from supernets import CheckpointError, create_supernet, extract
from tests.supernets.helpers import relative

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from ofa.imagenet_classification.elastic_nn.networks import OFAMobileNetV3 as Theirs

SIZE = 64  # pixels; the agreement does not depend on it, the time does


@torch.no_grad()
def their_net(width_mult: float, seed: int) -> Theirs:
    """A network of the package with gain in every layer; fresh ones forget their input."""
    torch.manual_seed(seed)
    net = Theirs(
        n_classes=1000,
        dropout_rate=0,
        width_mult=width_mult,
        ks_list=[3, 5, 7],
        expand_ratio_list=[3, 4, 6],
        depth_list=[2, 3, 4],
    )
    for name, tensor in net.state_dict().items():
        if "matrix" in name:
            tensor.add_(0.1 * torch.randn_like(tensor))
        elif tensor.dim() == 4:
            torch.nn.init.kaiming_normal_(tensor, nonlinearity="relu")
        elif name.endswith("bn.weight"):
            tensor.uniform_(0.5, 1.5)
        elif name.endswith("bn.bias"):
            tensor.normal_(0.0, 0.2)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    return net


@torch.no_grad()
def calibrate_theirs(net: Theirs) -> None:
    net.train()
    net(torch.randn(8, 3, SIZE, SIZE))
    net.eval()


@pytest.mark.parametrize("width_mult", [1.0, 1.2])
def test_subnets_agree_with_the_ofa_package(width_mult, tmp_path):
    theirs = their_net(width_mult, seed=0)
    space = create_supernet("ofa_mobilenetv3", width_mult=width_mult).space
    rng = random.Random(0)
    x = torch.randn(2, 3, SIZE, SIZE)
    for index, subnet in enumerate([space.smallest, space.largest, space.sample(rng)]):
        theirs.set_active_subnet(**subnet.config())
        calibrate_theirs(theirs)
        file = tmp_path / f"ofa{index}_mbv3_d234_e346_k357_w{width_mult}"  # as published
        torch.save({"state_dict": theirs.state_dict()}, file)
        ours = create_supernet("ofa_mobilenetv3", checkpoint=file, width_mult=width_mult)
        # In float64, so that agreement is exact and not blurred by rounding; then in float32.
        quick = ours.resident()(x, subnet)
        with torch.no_grad():
            expected = theirs.double()(x.double())
            ours.double()
            assert relative(expected[0], expected[1]) > 0.3
            assert relative(ours(x.double(), subnet), expected) < 1e-9
            assert relative(ours.resident(dtype=torch.float64)(x, subnet), expected) < 1e-9
            assert relative(extract(ours, subnet)(x.double()), expected) < 1e-9
        assert relative(quick.double(), expected) < 5e-5
        theirs.float()
        assert subnet not in ours.statistics, "shared statistics must not count as calibrated"


def test_legacy_names_load_the_same_tensors():
    state = their_net(1.0, seed=1).state_dict()
    legacy = {
        name.replace(".conv.", ".mobile_inverted_conv.", 1)
        if name.startswith("blocks.")
        else name: t
        for name, t in state.items()
    }
    modern, old = create_supernet("ofa_mobilenetv3"), create_supernet("ofa_mobilenetv3")
    modern.load_ofa_state_dict(state)
    old.load_ofa_state_dict(legacy)

    assert any("mobile_inverted_conv" in name for name in legacy)
    for ours, theirs in zip(modern.state_dict().values(), old.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.clear(), "missing: first_conv.conv.weight"),
        (lambda s: s.pop("blocks.3.conv.depth_conv.conv.7to5_matrix"), "7to5_matrix"),
        (lambda s: s.update({"extra.weight": torch.zeros(1)}), "unexpected: extra.weight"),
        (
            lambda s: s.update({"classifier.linear.bias": torch.zeros(10)}),
            r"classifier.linear.bias has shape \(10,\), not \(1000,\)",
        ),
    ],
    ids=["empty", "partial", "unexpected", "shape"],
)
def test_a_wrong_checkpoint_is_refused_and_changes_nothing(change, message):
    state = dict(their_net(1.0, seed=2).state_dict())
    change(state)
    net = create_supernet("ofa_mobilenetv3")
    before = [p.clone() for p in net.parameters()]
    with pytest.raises(CheckpointError, match=message):
        net.load_ofa_state_dict(state)

    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    assert net.statistics.shared is None


def test_a_checkpoint_of_another_width_is_refused():
    state = their_net(1.2, seed=3).state_dict()
    with pytest.raises(CheckpointError, match="has shape"):
        create_supernet("ofa_mobilenetv3").load_ofa_state_dict(state)
