"""Checkpoints of the `ofa` package: their names, both ways, and the checks the package leaves out.

`load_state_dict` of that package's dynamic networks starts from their own weights, so an empty or
partial file passes silently. Here every key must be there, once, with its exact shape, and none
besides.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

import torch
from torch import Tensor, nn

from supernets.elastic import InvertedResidual
from supernets.errors import CheckpointError
from supernets.foreign import check_state
from supernets.norms.statistics import LayerStatistics, SubnetStatistics
from supernets.ofa.ofa_resnet_blocks import Bottleneck
from supernets.ofa.ofa_shapes import recognise
from supernets.ofa.ofa_supernet import OFASupernet
from supernets.ofa_mobilenetv3 import OFAMobileNetV3
from supernets.ofa_resnet50 import OFAResNet50
from supernets.operators import SubnetNorm
from supernets.space import Subnet

Block = TypeVar("Block")

# The package writes one layer under three kinds of names: in a dynamic network elastic layers sit
# one level deeper than in a static one, and files of 2019 and 2020 call a block's body otherwise.
_RENAMED = (".mobile_inverted_conv.", ".conv.")
_DEEPER = (
    (".linear.", ".linear.linear."),
    ("bn.", "bn.bn."),
    ("conv.weight", "conv.conv.weight"),
)


@dataclass(frozen=True, slots=True)
class Layer:
    """One of our layers and its name in the package's static network."""

    name: str
    module: nn.Module
    elastic: bool = True

    @property
    def dynamic_name(self) -> str:
        """Its name in the package's dynamic network."""
        return f"{self.name}.{self.name.rsplit('.', 1)[-1]}" if self.elastic else self.name

    def parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names in the dynamic network -> our parameters."""
        for key, parameter in self.module.named_parameters():
            step = key.removeprefix("transforms.")
            kernel_matrix = f"{self.name}.{step}_matrix"
            yield (kernel_matrix if step != key else f"{self.dynamic_name}.{key}"), parameter


def load_ofa_state_dict(net: OFASupernet, state_dict: dict[str, Tensor]) -> None:
    """Copy the weights in, and make the file's running statistics the shared ones.

    Every subnet can then be run with the shared statistics sliced, as the `ofa` package does, but
    counts as uncalibrated. Legacy names (``mobile_inverted_conv``) are accepted, and so is a static
    network of the largest subnet's shape: its kernel matrices, which it has none of, are then the
    identity, as in the package, and its statistics are the largest subnet's own. Raises
    `CheckpointError` listing what is missing, unexpected, twice, of the wrong shape or no number;
    the net is then unchanged.
    """
    layers = list(_layers(net))
    weights = dict(chain.from_iterable(layer.parameters() for layer in layers))
    norms = {
        layer.dynamic_name: layer.module for layer in layers if isinstance(layer.module, SubnetNorm)
    }
    expected = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    for name, norm in norms.items():
        for buffer in ("running_mean", "running_var"):
            expected[f"{name}.{buffer}"] = tuple(norm.weight.shape)
    counters = frozenset(f"{name}.num_batches_tracked" for name in norms)
    static = _is_static(layers, state_dict)
    given = _modern(state_dict, expected.keys() | counters)
    if static:
        matrices = (name for name in expected if name.endswith("_matrix"))
        given |= {name: torch.eye(expected[name][0]) for name in matrices}
    message = f"this is not a checkpoint of this {net.name}{_seems(state_dict, expected)}"
    if static:
        message += "; it holds a static network, and of those only the largest subnet's fits"
    check_state(given, expected, message, counters)
    _check_numbers(given, norms, message)
    with torch.no_grad():
        for name, tensor in weights.items():
            tensor.copy_(given[name])
    shared = {
        norm.layer: LayerStatistics(
            given[f"{name}.running_mean"].detach().float().clone(),
            given[f"{name}.running_var"].detach().float().clone(),
        )
        for name, norm in norms.items()
    }
    for subnet in list(net.statistics):
        del net.statistics[subnet]  # they were of the weights before
    net.statistics.shared = shared
    if static:
        net.statistics[net.space.largest] = shared


def ofa_state_dict(net: OFASupernet) -> dict[str, Tensor]:
    """The supernet by the names of the package's dynamic network; every tensor a copy.

    That network has one set of statistics: the shared ones here, else the largest subnet's, which
    has every layer at full width. Raises `MissingStatistics` where there are neither.
    """
    statistics: SubnetStatistics
    statistics = net.statistics.shared or net.statistics[net.space.largest]
    state: dict[str, Tensor] = {}
    for layer in _layers(net):
        state |= {name: tensor.detach().clone() for name, tensor in layer.parameters()}
        if isinstance(layer.module, SubnetNorm):
            entry = statistics[layer.module.layer]
            state[f"{layer.dynamic_name}.running_mean"] = entry.mean.clone()
            state[f"{layer.dynamic_name}.running_var"] = entry.var.clone()
            state[f"{layer.dynamic_name}.num_batches_tracked"] = torch.tensor(0)
    return state


def to_ofa_state_dict(net: OFASupernet, subnet: Subnet) -> dict[str, Tensor]:
    """The subnet by the names of the package's static network (MobileNetV3 or ResNets).

    That is the class of what `get_active_subnet` of the package returns, so the state loads there
    with ``strict=True``. Every tensor is a copy. Raises `MissingStatistics`.
    """
    plain = net.extract(subnet)
    holders = [m for m in plain.modules() if any(True for _ in m.parameters(recurse=False))]
    # The extracted form has the layers of the static one in the same order.
    return {
        f"{layer.name}.{key}": tensor
        for layer, module in zip(_layers(net, subnet), holders, strict=True)
        for key, tensor in module.state_dict().items()
    }


def _layers(net: OFASupernet, subnet: Subnet | None = None) -> Iterator[Layer]:
    """All layers in the order of execution, or those of a subnet, its blocks numbered anew."""
    if isinstance(net, OFAMobileNetV3):
        return _mobilenetv3(net, subnet)
    assert isinstance(net, OFAResNet50)
    return _resnet(net, subnet)


def _mobilenetv3(net: OFAMobileNetV3, subnet: Subnet | None) -> Iterator[Layer]:
    yield Layer("first_conv.conv", net.stem, elastic=False)
    yield Layer("first_conv.bn", net.stem_norm, elastic=False)
    active = None if subnet is None else [int(depth) for depth in subnet["d"]]
    blocks = [net.first, *_running(net.blocks(), active)]
    for index, block in enumerate(blocks):
        yield from _inverted_residual(f"blocks.{index}.conv", block, elastic=index > 0)
    yield Layer("final_expand_layer.conv", net.final_expand, elastic=False)
    yield Layer("final_expand_layer.bn", net.final_norm, elastic=False)
    yield Layer("feature_mix_layer.conv", net.feature_mix, elastic=False)
    yield Layer("classifier.linear", net.classifier, elastic=False)


def _inverted_residual(name: str, block: InvertedResidual, *, elastic: bool) -> Iterator[Layer]:
    if block.expand is not None and block.expand_norm is not None:
        yield Layer(f"{name}.inverted_bottleneck.conv", block.expand, elastic)
        yield Layer(f"{name}.inverted_bottleneck.bn", block.expand_norm, elastic)
    yield Layer(f"{name}.depth_conv.conv", block.depthwise, elastic)
    yield Layer(f"{name}.depth_conv.bn", block.depthwise_norm, elastic)
    if block.squeeze is not None:
        yield Layer(f"{name}.depth_conv.se.fc.reduce", block.squeeze.reduce, elastic=False)
        yield Layer(f"{name}.depth_conv.se.fc.expand", block.squeeze.expand, elastic=False)
    yield Layer(f"{name}.point_linear.conv", block.project, elastic)
    yield Layer(f"{name}.point_linear.bn", block.project_norm, elastic)


def _resnet(net: OFAResNet50, subnet: Subnet | None) -> Iterator[Layer]:
    widths = None if subnet is None else net.widths(subnet)
    stem = [(net.stem1, net.stem1_norm), (net.stem3, net.stem3_norm)]
    residual = widths is None or widths.stem_residual
    if residual:
        stem.insert(1, (net.stem2, net.stem2_norm))
    for index, (conv, norm) in enumerate(stem):
        # The middle one is a residual block around a layer.
        inner = ".conv" if residual and index == 1 else ""
        yield Layer(f"input_stem.{index}{inner}.conv", conv)
        yield Layer(f"input_stem.{index}{inner}.bn", norm)
    active = None if widths is None else [len(middles) for _, middles in widths.stages]
    for index, block in enumerate(_running(net.blocks(), active)):
        yield from _bottleneck(f"blocks.{index}", block)
    yield Layer("classifier.linear", net.classifier)


def _bottleneck(name: str, block: Bottleneck) -> Iterator[Layer]:
    parts = [(block.conv1, block.norm1), (block.conv2, block.norm2), (block.conv3, block.norm3)]
    for number, (conv, norm) in enumerate(parts, start=1):
        yield Layer(f"{name}.conv{number}.conv", conv)
        yield Layer(f"{name}.conv{number}.bn", norm)
    if block.shortcut is not None and block.shortcut_norm is not None:
        yield Layer(f"{name}.downsample.conv", block.shortcut)
        yield Layer(f"{name}.downsample.bn", block.shortcut_norm)


def _running(stages: Sequence[Sequence[Block]], depths: Sequence[int] | None) -> list[Block]:
    """The blocks that run, all of them where no depths are given."""
    limits: Sequence[int | None] = [None] * len(stages) if depths is None else depths
    return [block for stage, depth in zip(stages, limits, strict=True) for block in stage[:depth]]


def _is_static(layers: Iterable[Layer], state_dict: dict[str, Tensor]) -> bool:
    """Whether no elastic layer has the name it has in a dynamic network."""
    names = {name.replace(*_RENAMED) for name in state_dict}
    dynamic = {name for layer in layers if layer.elastic for name, _ in layer.parameters()}
    return not names & dynamic and any(
        layer.elastic and f"{layer.name}.weight" in names for layer in layers
    )


def _modern(state_dict: dict[str, Tensor], known: set[str]) -> dict[str, Tensor]:
    """The names of the package's dynamic network of 2023.

    A name that is none of them is tried one level deeper and one level less deep, in the order of
    that package's own ``load_state_dict``; what is still unknown keeps its name.
    """
    modern: dict[str, Tensor] = {}
    for name, tensor in state_dict.items():
        new = name.replace(*_RENAMED)
        if new not in known:
            shallower = ((deep, flat) for flat, deep in reversed(_DEEPER))
            candidates = (new.replace(a, b) for a, b in chain(shallower, _DEEPER) if a in new)
            new = next((candidate for candidate in candidates if candidate in known), new)
        if new in modern:
            raise CheckpointError("a key stands twice, under its old and its new name", [name])
        modern[new] = tensor
    return modern


def _seems(state_dict: dict[str, Tensor], expected: dict[str, tuple[int, ...]]) -> str:
    """What else the file seems to be, if it does."""
    there = recognise({name: tuple(tensor.shape) for name, tensor in state_dict.items()})
    here = recognise(expected)
    if there is None:
        return ": it holds no OFA network"
    if here is None or there == here:
        return ""
    return f": by its shapes it is {there}, and this one is {here}"


def _check_numbers(given: dict[str, Tensor], norms: Iterable[str], message: str) -> None:
    problems = [
        f"{name} is {tensor.dtype}, not floating point"
        for name, tensor in given.items()
        if not tensor.is_floating_point() and not name.endswith("num_batches_tracked")
    ]
    problems += [
        f"{name}.running_var has a negative variance"
        for name in norms
        if (given[f"{name}.running_var"] < 0).any()
    ]
    if problems:
        raise CheckpointError(message, problems)
