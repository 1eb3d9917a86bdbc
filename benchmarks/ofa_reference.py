"""The same OFA MobileNetV3 in the `ofa` package and in ours: equal weights, equal answers."""

import random
import warnings
from typing import Any

import torch

from supernets import create_supernet
from supernets.ofa_mobilenetv3 import OFAMobileNetV3
from supernets.space import Subnet

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from ofa.imagenet_classification.elastic_nn.networks import OFAMobileNetV3 as Theirs


@torch.no_grad()
def both(seed: int) -> tuple[Any, OFAMobileNetV3]:
    """(theirs, ours) with the same random weights and norms, w1.0, in evaluation mode.

    Call `calibrated` for a subnet before comparing answers: an untreated random net forgets its
    input, and its answers then agree whatever is computed.
    """
    torch.manual_seed(seed)
    theirs = Theirs(
        n_classes=1000,
        dropout_rate=0,
        ks_list=[3, 5, 7],
        expand_ratio_list=[3, 4, 6],
        depth_list=[2, 3, 4],
    ).eval()
    for name, tensor in theirs.state_dict().items():
        if "matrix" in name:
            tensor.add_(0.1 * torch.randn_like(tensor))
        elif tensor.dim() == 4:
            torch.nn.init.kaiming_normal_(tensor, nonlinearity="relu")
        elif name.endswith("bn.weight"):
            tensor.uniform_(0.5, 1.5)
        elif name.endswith("bn.bias"):
            tensor.normal_(0.0, 0.2)
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    ours = create_supernet("ofa_mobilenetv3").eval()
    assert isinstance(ours, OFAMobileNetV3)
    calibrated(theirs, ours, ours.space.largest)
    return theirs, ours


@torch.no_grad()
def calibrated(theirs: Any, ours: OFAMobileNetV3, subnet: Subnet) -> None:
    """Make the subnet active there, with statistics of noise, and give ours the same."""
    theirs.set_active_subnet(**subnet.config())
    theirs.train()
    theirs(torch.randn(8, 3, 96, 96))
    theirs.eval()
    ours.load_ofa_state_dict(theirs.state_dict())


def ladder(net: OFAMobileNetV3) -> dict[str, Subnet]:
    """The smallest, a middle and the largest subnet."""
    return {
        "min (3,3,2)": net.space.smallest,
        "mid (5,4,3)": net.space.subnet(ks=5, e=4, d=3),
        "max (7,6,4)": net.space.largest,
    }


def random_subnets(net: OFAMobileNetV3, count: int, seed: int) -> list[Subnet]:
    rng = random.Random(seed)
    return [net.space.sample(rng) for _ in range(count)]
