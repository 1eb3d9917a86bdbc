"""The `ofa` package's networks with gain in every layer: fresh ones forget their input."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from supernets import Supernet, create_supernet

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from ofa.imagenet_classification.elastic_nn.networks import OFAMobileNetV3, OFAResNets

SIZE = 72  # pixels; odd sizes come up inside. The agreement does not depend on it, the time does.
OPTIONS: dict[str, dict[str, Any]] = {
    "mobilenetv3-w1.0": {"name": "ofa_mobilenetv3", "width_mult": 1.0},
    "mobilenetv3-w1.2": {"name": "ofa_mobilenetv3", "width_mult": 1.2},
    "resnet50": {"name": "ofa_resnet50"},
}


def our_net(kind: str, classes: int = 1000) -> Supernet:
    return create_supernet(num_classes=classes, pretrained=False, **OPTIONS[kind])


@torch.no_grad()
def their_net(kind: str, seed: int = 0, classes: int = 1000) -> Any:
    """The package's dynamic network, everything random, norms ready to be calibrated."""
    torch.manual_seed(seed)
    net = blank_net(kind, classes)
    for name, tensor in net.state_dict().items():
        if "matrix" in name:
            tensor.add_(0.1 * torch.randn_like(tensor))
        elif tensor.dim() == 4:
            nn.init.kaiming_normal_(tensor, nonlinearity="relu")
        elif name.endswith("bn.weight"):
            tensor.uniform_(0.5, 1.5)
        elif name.endswith("bn.bias"):
            tensor.normal_(0.0, 0.2)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    return net.eval()


def blank_net(kind: str, classes: int = 1000) -> Any:
    if kind == "resnet50":
        return OFAResNets(
            n_classes=classes,
            dropout_rate=0,
            depth_list=[0, 1, 2],
            expand_ratio_list=[0.2, 0.25, 0.35],
            width_mult_list=[0.65, 0.8, 1.0],
        )
    return OFAMobileNetV3(
        n_classes=classes,
        dropout_rate=0,
        width_mult=OPTIONS[kind]["width_mult"],
        ks_list=[3, 5, 7],
        expand_ratio_list=[3, 4, 6],
        depth_list=[2, 3, 4],
    )


@torch.no_grad()
def calibrate_theirs(net: Any, size: int = SIZE) -> None:
    """Statistics of noise for the active subnet; they overwrite those of all others."""
    net.train()
    net(torch.randn(8, 3, size, size))
    net.eval()


@contextmanager
def without_drawing() -> Iterator[None]:
    """Networks are built without their initial weights, which take longer to draw than to run."""
    with mock.patch.object(nn.modules.conv._ConvNd, "reset_parameters"):
        yield


@torch.no_grad()
def empty_static(net: Any) -> Any:
    """The static network of the active subnet with nothing in it."""
    with without_drawing():
        static = net.get_active_subnet(preserve_weight=False)
    for tensor in static.state_dict().values():
        tensor.zero_()
    return static.eval()


def load_strictly(net: nn.Module, state: dict[str, Tensor]) -> None:
    """What the package's own ``load_state_dict`` does not do: every key, and none besides."""
    nn.Module.load_state_dict(net, state, strict=True)


def legacy(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names of the files of 2019 and 2020."""
    return {
        name.replace(".conv.", ".mobile_inverted_conv.", 1)
        if name.startswith("blocks.")
        else name: tensor
        for name, tensor in state.items()
    }
