"""Checkpoints of the `ofa` package: their key names, and the checks that the package leaves out.

`OFAMobileNetV3.load_state_dict` of that package starts from its own weights, so an empty or partial
file passes silently. Here every key must be there, once, with its exact shape, and none besides.
"""

from collections.abc import Iterator
from itertools import chain

import torch
from torch import Tensor

from supernets.elastic import InvertedResidual
from supernets.errors import CheckpointError
from supernets.foreign import check_state
from supernets.ofa_mobilenetv3 import OFAMobileNetV3
from supernets.operators import SubnetNorm
from supernets.statistics import LayerStatistics

_STATIC = ".bn"  # layers that are not elastic hold their norm directly...
_DYNAMIC = ".bn.bn"  # ...elastic ones inside a dynamic wrapper


def load_mobilenetv3(net: OFAMobileNetV3, state_dict: dict[str, Tensor]) -> None:
    """Copy the weights in, and make the file's running statistics the shared ones.

    Every subnet can then be run with the shared statistics sliced, as the `ofa` package does, but
    counts as uncalibrated. Legacy names (``mobile_inverted_conv``) are accepted. Raises
    `CheckpointError` listing what is missing, unexpected, twice or of the wrong shape; the net is
    then unchanged.
    """
    given = _modern(state_dict)
    weights = dict(_weights(net))
    statistics = dict(_statistics(net))
    counters = {f"{name}.num_batches_tracked" for name in statistics}
    expected = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    for name, norm in statistics.items():
        for buffer in ("running_mean", "running_var"):
            expected[f"{name}.{buffer}"] = tuple(norm.weight.shape)
    check_state(
        given, expected, "this is not a checkpoint of this OFA MobileNetV3", frozenset(counters)
    )
    with torch.no_grad():
        for name, tensor in weights.items():
            tensor.copy_(given[name])
    net.statistics.shared = {
        norm.layer: LayerStatistics(
            given[f"{name}.running_mean"].detach().float().clone(),
            given[f"{name}.running_var"].detach().float().clone(),
        )
        for name, norm in statistics.items()
    }


def _modern(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names of the package of 2023; files of 2019 and 2020 say ``mobile_inverted_conv``."""
    modern: dict[str, Tensor] = {}
    for name, tensor in state_dict.items():
        new = name.replace(".mobile_inverted_conv.", ".conv.")
        if new in modern:
            raise CheckpointError("a key stands twice, under its old and its new name", [name])
        modern[new] = tensor
    return modern


def _weights(net: OFAMobileNetV3) -> Iterator[tuple[str, Tensor]]:
    """Their name -> our parameter."""
    yield "first_conv.conv.weight", net.stem.weight
    for name, block in _blocks(net):
        dynamic = name != "blocks.0"
        wrap = ".conv.conv.weight" if dynamic else ".conv.weight"
        if block.expand is not None:
            yield f"{name}.conv.inverted_bottleneck{wrap}", block.expand.weight
        yield f"{name}.conv.depth_conv{wrap}", block.depthwise.weight
        for step, matrix in block.depthwise.transforms.items():
            yield f"{name}.conv.depth_conv.conv.{step}_matrix", matrix
        if block.squeeze is not None:
            for ours, theirs in (
                (block.squeeze.reduce, "reduce"),
                (block.squeeze.expand, "expand"),
            ):
                yield f"{name}.conv.depth_conv.se.fc.{theirs}.weight", ours.weight
                if ours.bias is not None:
                    yield f"{name}.conv.depth_conv.se.fc.{theirs}.bias", ours.bias
        yield f"{name}.conv.point_linear{wrap}", block.project.weight
    yield "final_expand_layer.conv.weight", net.final_expand.weight
    yield "feature_mix_layer.conv.weight", net.feature_mix.weight
    yield "classifier.linear.weight", net.classifier.weight
    yield "classifier.linear.bias", net.classifier.bias
    for name, norm in _statistics(net):
        yield f"{name}.weight", norm.weight
        yield f"{name}.bias", norm.bias


def _statistics(net: OFAMobileNetV3) -> Iterator[tuple[str, SubnetNorm]]:
    """Their batch normalisation's prefix -> our SubnetNorm."""
    yield "first_conv.bn", net.stem_norm
    for name, block in _blocks(net):
        wrap = _STATIC if name == "blocks.0" else _DYNAMIC
        if block.expand_norm is not None:
            yield f"{name}.conv.inverted_bottleneck{wrap}", block.expand_norm
        yield f"{name}.conv.depth_conv{wrap}", block.depthwise_norm
        yield f"{name}.conv.point_linear{wrap}", block.project_norm
    yield "final_expand_layer.bn", net.final_norm


def _blocks(net: OFAMobileNetV3) -> Iterator[tuple[str, InvertedResidual]]:
    yield "blocks.0", net.first
    for index, block in enumerate(chain.from_iterable(net.blocks()), start=1):
        yield f"blocks.{index}", block
