"""Puts SubNetAct's operators in the place of an ordinary network's layers."""

import copy
import operator
from collections.abc import Sequence
from itertools import count
from typing import Any

import torch.nn.functional as F
from torch import Tensor, fx, nn

from supernets.conversion.channel_groups import ChannelGroup, Stage
from supernets.conversion.elastic_space import Units
from supernets.norms.statistics import Normalisation
from supernets.operators import LayerSelect, SubnetNorm


class ConvSlice(nn.Module):
    """WeightSlice of any ``nn.Conv2d``, whose padding, stride, dilation and groups stay.

    Of a grouped convolution whole groups are taken, each of the size that it has.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        self.stride, self.padding, self.dilation = conv.stride, conv.padding, conv.dilation
        self.groups = conv.groups

    def slice(self, in_channels: int, out_channels: int) -> tuple[Tensor, Tensor | None, int]:
        """The active weight and bias, views, and the number of active groups."""
        groups = 1 if self.groups == 1 else in_channels // self.weight.shape[1]
        bias = None if self.bias is None else self.bias[:out_channels]
        return self.weight[:out_channels, : in_channels // groups], bias, groups

    def forward(self, x: Tensor, out_channels: int | None = None) -> Tensor:
        """``x`` [N, C, H, W] -> [N, out_channels, H', W']; all outputs where none are named."""
        out = self.weight.shape[0] if out_channels is None else out_channels
        weight, bias, groups = self.slice(x.shape[1], out)
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, groups)


class ElasticStage(nn.Module):
    """A stage behind a LayerSelect; its blocks take their active units with the input."""

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.select = LayerSelect(blocks)

    def forward(self, x: Tensor, active: Sequence[Units], normalise: Normalisation) -> Tensor:
        """Run as many blocks as ``active`` has entries, with those units."""
        return self.select(
            x, len(active), lambda index, block, y: block(y, active[index], normalise)
        )


class Insertion:
    """One network with the operators in it (SuperServe, NSDI'25, appendix A.1, Algorithm 1).

    LayerSelect takes the place of a stage, WeightSlice that of a convolution which writes or reads
    a channel group, SubnetNorm that of a batch normalisation; all else stays. The result is
    ``body(x, active, normalise)``, ``active`` as `ElasticSpace.active` gives it. It holds the
    parameters of ``model`` itself; ``places`` says where each of its modules is now.
    """

    def __init__(self, model: nn.Module, graph: fx.Graph, stages: Sequence[Stage]) -> None:
        self._model = model
        self._layers = count()
        self.places: dict[str, str] = {}  # path in ``model`` -> path in ``body``
        self.body = self._insert("", graph, "", stages=stages)

    def _insert(
        self,
        path: str,
        graph: fx.Graph,
        place: str,
        *,
        stages: Sequence[Stage] = (),
        groups: Sequence[ChannelGroup] = (),
    ) -> fx.GraphModule:
        """The traced forward pass of the module at ``path``, to stand at ``place`` in the body."""
        graph = copy.deepcopy(graph)
        source = next(iter(graph.nodes))
        with graph.inserting_after(source):
            normalise = graph.placeholder("normalise_with")
        with graph.inserting_after(source):
            active = graph.placeholder("active_units")
        stage_index = {stage.path: index for index, stage in enumerate(stages)}
        writes = {name: index for index, group in enumerate(groups) for name in group.writers}
        reads = {name for group in groups for name in group.readers}
        root, parts = self._model.get_submodule(path), dict[str, Any]()
        for node in [n for n in graph.nodes if n.op in {"call_module", "get_attr"}]:
            name = str(node.target)
            self.places[_join(path, name)] = _join(place, name)
            part = resolve(root, name)
            arguments: tuple[Any, ...] | None = None
            with graph.inserting_before(node):
                if name in stage_index:
                    index = stage_index[name]
                    part = self._stage(stages[index], _join(place, name))
                    chosen = graph.call_function(operator.getitem, (active, index))
                    arguments = (chosen, normalise)
                elif type(part) is nn.BatchNorm2d:
                    part, arguments = self._norm(part), (normalise,)
                elif name in writes:
                    index = writes[name]
                    chosen = graph.call_function(operator.getitem, (active, index))
                    size = part.out_channels // groups[index].units
                    if size > 1:
                        chosen = graph.call_function(operator.mul, (chosen, size))
                    part, arguments = ConvSlice(part), (chosen,)
                elif name in reads:
                    part, arguments = ConvSlice(part), ()
            if arguments is not None:
                node.args, node.kwargs = (node.all_input_nodes[0], *arguments), {}
            parts[name] = part
        graph.lint()
        return fx.GraphModule(parts, graph, f"Elastic{type(root).__name__}")

    def _stage(self, stage: Stage, place: str) -> ElasticStage:
        return ElasticStage(
            [
                self._insert(
                    block.path, block.graph, f"{place}.select.blocks.{index}", groups=block.groups
                )
                for index, block in enumerate(stage.blocks)
            ]
        )

    def _norm(self, norm: nn.BatchNorm2d) -> SubnetNorm:
        new = SubnetNorm(next(self._layers), norm.num_features, norm.eps)
        new.weight, new.bias = norm.weight, norm.bias
        return new


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def resolve(root: nn.Module, name: str) -> Any:
    """The module, parameter or buffer of this dotted name."""
    parent, _, last = name.rpartition(".")
    return getattr(root.get_submodule(parent), last)
