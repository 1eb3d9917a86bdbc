"""Checkpoints of SN-Net's stitched ResNets (ziplab/SN-Net, release v1.1): names and checks."""

import torch
from torch import Tensor

from supernets.errors import CheckpointError
from supernets.foreign import check_state
from supernets.norms.statistics import LayerStatistics
from supernets.stitched_resnet import (
    StitchedResNet,
    anchor_counters,
    anchor_shapes,
    anchor_statistics,
    copy_anchor,
)

# timm's split batch norm keeps further norms for augmented images, which evaluation never uses.
_AUXILIARY = ".aux_bn."


def load_snnet(net: StitchedResNet, state_dict: dict[str, Tensor]) -> None:
    """Copy the weights in, and make the file's running statistics the shared ones.

    The keys are ``anchors.{i}.*`` as in timm, and ``stitch_layers.{stage - 1}.{pair}.{k}.transform.
    {weight,bias}`` for the two middle stages. SN-Net's statistics are averages over all its
    stitches, so every subnet, the anchors among them, counts as uncalibrated. Raises
    `CheckpointError` for a net that is not made for it, and for missing, unexpected or misshapen
    entries; the net is then unchanged.
    """
    if net.spec.positions != "snnet" or net.spec.stitch_relu:
        raise CheckpointError(
            "SN-Net stitches two stages, without a ReLU: create the supernet with "
            'positions="snnet", stitch_relu=False'
        )
    given = {name: tensor for name, tensor in state_dict.items() if _AUXILIARY not in name}
    stitches = {
        name: parameter
        for name, parameter in net.named_parameters()
        if name.startswith("stitch_layers.")
    }
    expected = {name: tuple(parameter.shape) for name, parameter in stitches.items()}
    ignored: set[str] = set()
    for index in range(len(net.anchors)):
        anchor = net.anchor(index)
        expected |= {f"anchors.{index}.{n}": s for n, s in anchor_shapes(anchor).items()}
        ignored |= {f"anchors.{index}.{name}" for name in anchor_counters(anchor)}
    check_state(
        given, expected, "this is not a checkpoint of this stitched net", frozenset(ignored)
    )
    shared: dict[int, LayerStatistics] = {}
    for index in range(len(net.anchors)):
        prefix = f"anchors.{index}."
        own = {n.removeprefix(prefix): t for n, t in given.items() if n.startswith(prefix)}
        copy_anchor(net.anchor(index), own)
        shared |= anchor_statistics(net.anchor(index), own)
    with torch.no_grad():
        for name, parameter in stitches.items():
            parameter.copy_(given[name])
    for subnet in list(net.statistics):
        del net.statistics[subnet]
    net.statistics.shared = shared
