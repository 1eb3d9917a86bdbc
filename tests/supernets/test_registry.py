"""Supernets by name, and a supernet of one's own in a few lines."""

import pytest
import torch
from torch import Tensor, nn

from supernets import (
    Preprocessing,
    SearchSpace,
    Subnet,
    Supernet,
    create_supernet,
    extract,
    list_supernets,
    register_supernet,
)
from supernets.norms.statistics import Normalisation
from supernets.operators import SubnetNorm, WeightSlice
from supernets.registry import _REGISTRY
from supernets.space import Dimension


class Slim(Supernet):
    """One convolution of elastic width: the smallest supernet with a SubnetNorm."""

    def __init__(self, num_classes: int) -> None:
        space = SearchSpace("slim", [Dimension("w", 1, (4, 8))])
        super().__init__(
            "slim",
            space,
            Preprocessing(8, 8, 1, (0.5,), (0.5,)),
            [str(i) for i in range(num_classes)],
        )
        self.conv, self.norm = WeightSlice(1, 8, 3), SubnetNorm(0, 8)
        self.head = WeightSlice(8, num_classes, bias=True)

    def run(self, x: Tensor, subnet: Subnet, normalise: Normalisation) -> Tensor:
        y = torch.relu(self.norm(self.conv(x, int(subnet["w"][0])), normalise))
        return self.head(y.mean((2, 3), keepdim=True)).flatten(1)

    def extract(self, subnet: Subnet) -> nn.Module:
        raise NotImplementedError

    def definition(self) -> dict[str, int]:
        return {"num_classes": len(self.labels)}


@pytest.fixture(name="slim")
def registered():
    @register_supernet()
    def slim(*, num_classes: int = 5) -> Slim:
        return Slim(num_classes)

    yield "slim"
    del _REGISTRY["slim"]


def test_built_in_supernets_are_listed():
    assert {"ofa_mobilenetv3", "digits"} <= set(list_supernets())


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(KeyError, match="ofa_mobilenetv3"):
        create_supernet("resnet_9000")


def test_a_taken_name_is_an_error():
    def digits() -> Supernet:
        raise AssertionError

    with pytest.raises(KeyError, match="registered already"):
        register_supernet()(digits)


def test_a_users_supernet_gets_a_resident_form_without_writing_one(slim):
    net = create_supernet(slim, num_classes=3).eval()
    nn.init.normal_(net.norm.weight)
    from supernets import calibrate

    calibrate(net, list(net.space), [torch.randn(16, 1, 8, 8)])
    resident = net.resident()
    x = torch.randn(2, 1, 8, 8)
    for subnet in net.space:
        with torch.no_grad():
            torch.testing.assert_close(resident(x, subnet), net(x, subnet))
        assert resident.arena.holds(resident.tensors(subnet).values())


def test_options_change_the_architecture():
    net = create_supernet("ofa_mobilenetv3", num_classes=12, depths=[1, 2], in_channels=1)

    assert net.space.largest.config()["d"] == [2] * 5
    assert len(net.labels) == net.classifier.out_features == 12


def test_the_published_networks_have_their_parameter_counts():
    """7,678,880 and 10,715,752 parameters, counted in the `ofa` package."""
    for width_mult, expected in ((1.0, 7_678_880), (1.2, 10_715_752)):
        net = create_supernet("ofa_mobilenetv3", width_mult=width_mult)

        assert sum(p.numel() for p in net.parameters()) == expected


def test_extract_names_what_is_missing():
    net = create_supernet("ofa_mobilenetv3")
    with pytest.raises(LookupError, match=r"supernets\.calibrate"):
        extract(net, net.space.smallest)
