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
    """(theirs, ours) with the same random weights, w1.0, in evaluation mode."""
    torch.manual_seed(seed)
    theirs = Theirs(
        n_classes=1000,
        dropout_rate=0,
        ks_list=[3, 5, 7],
        expand_ratio_list=[3, 4, 6],
        depth_list=[2, 3, 4],
    ).eval()
    for name, tensor in theirs.state_dict().items():
        if tensor.dim() == 4:
            torch.nn.init.kaiming_normal_(tensor, nonlinearity="relu")
        elif "matrix" in name:
            tensor.add_(0.1 * torch.randn_like(tensor))
        elif name.endswith("running_var"):
            tensor.fill_(4.0)  # keeps the activations of the untrained net from growing
    ours = create_supernet("ofa_mobilenetv3").eval()
    assert isinstance(ours, OFAMobileNetV3)
    ours.load_ofa_state_dict(theirs.state_dict())
    return theirs, ours


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
