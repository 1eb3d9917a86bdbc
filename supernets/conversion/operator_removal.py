"""The way back from the operators: one subnet as a network of the class that was made elastic."""

import copy
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from supernets.conversion.channel_groups import Stage
from supernets.conversion.elastic_space import Units
from supernets.conversion.operator_insertion import ConvSlice, ElasticStage, resolve
from supernets.norms.statistics import LayerStatistics, SubnetStatistics
from supernets.operators import SubnetNorm

_WHOLE = Fraction(1)


def without_operators(
    skeleton: nn.Module,
    body: nn.Module,
    places: Mapping[str, str],
    stages: Sequence[Stage],
    active: Sequence[Sequence[Units]],
    statistics: SubnetStatistics,
) -> nn.Module:
    """A copy of ``skeleton`` with the active weights of ``body``, sharing no storage with it.

    ``skeleton`` is the given network on the meta device, ``places`` are those of `Insertion`.
    Blocks that do not run are gone, and layers are as narrow as ``active`` says.
    """
    model = copy.deepcopy(skeleton)
    written: dict[str, Fraction] = {}  # the active share of what a layer writes
    read: dict[str, Fraction] = {}
    skipped: list[str] = []
    for stage, units in zip(stages, active, strict=True):
        sequence = model.get_submodule(stage.path)
        for block in stage.blocks[len(units) :]:
            skipped.append(f"{block.path}.")
            delattr(sequence, block.path.rpartition(".")[2])
        for block, own in zip(stage.blocks, units, strict=False):
            for group, count in zip(block.groups, own, strict=True):
                share = Fraction(count, group.units)
                for name in (*group.writers, *group.norms):
                    written[f"{block.path}.{name}"] = share
                for name in group.readers:
                    read[f"{block.path}.{name}"] = share
    for path, place in places.items():
        if path.startswith(tuple(skipped)):
            continue
        source, target = resolve(body, place), resolve(model, path)
        match source:
            case ConvSlice():
                _fill_conv(target, source, read.get(path, _WHOLE), written.get(path, _WHOLE))
            case SubnetNorm():
                _fill_norm(target, source, statistics[source.layer], written.get(path, _WHOLE))
            case ElasticStage():
                pass  # its layers have places of their own
            case nn.Module():
                for name, module in target.named_modules():
                    _fill(module, source.get_submodule(name))
            case _:
                parent, _, name = path.rpartition(".")
                setattr(model.get_submodule(parent), name, _own(source))
    return model


def _fill_conv(target: Any, source: ConvSlice, read: Fraction, written: Fraction) -> None:
    target.in_channels = int(target.in_channels * read)
    target.out_channels = int(target.out_channels * written)
    if target.groups > 1:  # it reads the groups that it writes
        target.in_channels = int(target.in_channels * written)
    weight, bias, target.groups = source.slice(target.in_channels, target.out_channels)
    target.weight = nn.Parameter(weight.detach().clone())
    target.bias = None if bias is None else nn.Parameter(bias.detach().clone())


def _fill_norm(
    target: Any, source: SubnetNorm, statistics: LayerStatistics, written: Fraction
) -> None:
    channels = target.num_features = int(target.num_features * written)
    target.weight = nn.Parameter(source.weight[:channels].detach().clone())
    target.bias = nn.Parameter(source.bias[:channels].detach().clone())
    dtype = source.weight.dtype
    target.running_mean = statistics.mean[:channels].to(dtype, copy=True)
    target.running_var = statistics.var[:channels].to(dtype, copy=True)
    target.num_batches_tracked = torch.zeros((), dtype=torch.long, device=source.weight.device)


def _fill(target: nn.Module, source: nn.Module) -> None:
    """The module's own tensors, without those of the modules inside."""
    for name, parameter in source.named_parameters(recurse=False):
        setattr(target, name, _own(parameter))
    for name, buffer in source.named_buffers(recurse=False):
        setattr(target, name, _own(buffer))


def _own(tensor: Tensor) -> Tensor:
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(tensor.detach().clone())
    return tensor.detach().clone()
