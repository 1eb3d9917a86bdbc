"""Which stages, blocks and channels of an ordinary network may become elastic, read off its graph.

A block's forward pass is traced (torch.fx). Channels that can only be narrowed together are joined:
the outputs of one convolution, the inputs of the next, and all that lies between them. Whatever is
joined to the residual stream, or to something that is not understood, keeps its width.
"""

import inspect
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import gcd
from typing import Any

import torch
from torch import Tensor, fx, nn

_ADDITIONS = {operator.add, operator.iadd, torch.add, "add", "add_"}
_PROBE = 8  # channels; any number that is not the network's own would do

Shapes = Mapping[str, torch.Size]


class NotElastic(ValueError):
    """The network, or a part of it, has no place where the operators can be inserted."""


@dataclass(frozen=True, slots=True)
class ChannelGroup:
    """Channels inside one block that are narrowed together, in ``units`` of equal size.

    A unit is one channel, or one group of a grouped convolution. Paths are relative to the block.
    """

    units: int
    writers: tuple[str, ...]  # convolutions whose outputs these channels are, in running order
    readers: tuple[str, ...]  # ungrouped convolutions whose inputs they are
    norms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """One block of a stage: its traced forward pass, and what may be narrowed in it."""

    path: str
    graph: fx.Graph
    groups: tuple[ChannelGroup, ...]


@dataclass(frozen=True, slots=True)
class Stage:
    """An ``nn.Sequential`` whose blocks after the first can be skipped."""

    path: str
    blocks: tuple[Block, ...]


class _Tracer(fx.Tracer):
    """Stops at the given modules, at those of torch, and at those without convolution or norm."""

    def __init__(self, stops: Sequence[nn.Module]) -> None:
        super().__init__()
        self._stops = set(stops)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if m in self._stops or super().is_leaf_module(m, module_qualified_name):
            return True
        traced = (nn.Conv2d, nn.BatchNorm2d)
        return not isinstance(m, nn.Sequential) and not any(
            isinstance(child, traced) for child in m.modules()
        )


def trace(module: nn.Module, path: str, stops: Sequence[nn.Module] = ()) -> fx.Graph:
    """The forward pass of ``module`` for one tensor; arguments with defaults keep them.

    Raises `NotElastic` if it depends on values, or takes more than one tensor.
    """
    name = f"{path or 'the model'} ({type(module).__name__})"
    parameters = inspect.signature(module.forward).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    try:
        graph = _Tracer(stops).trace(module, concrete_args=defaults or None)
    except Exception as error:
        # Tracing runs the user's own forward with stand-ins for tensors: anything may come of it.
        raise NotElastic(
            f"the forward pass of {name} cannot be traced: {error}. It must take one tensor, and "
            "must not branch on what is in it"
        ) from error
    for node in [n for n in graph.nodes if n.op == "placeholder"][1:]:
        if node.users:
            raise NotElastic(f"{name} takes more than one tensor: {node.target}")
        graph.erase_node(node)
    return graph


def read_stage(path: str, stage: nn.Sequential, meta: nn.Sequential, inputs: Shapes) -> Stage:
    """The stage and the groups of its blocks. Raises `NotElastic` with the reason if it is none.

    ``meta`` is the same stage on the meta device; ``inputs`` has the shape [N, C, H, W] of what
    each block is given, by path.
    """
    blocks = []
    twins = zip(stage.named_children(), meta.children(), strict=True)
    for index, ((name, module), twin) in enumerate(twins):
        inner = f"{path}.{name}"
        if type(module).__module__.startswith("torch.nn") and not isinstance(module, nn.Sequential):
            raise NotElastic(f"{inner} is a {type(module).__name__}, not a block")
        if inner not in inputs:
            raise NotElastic(f"{inner} does not run in the model's forward pass")
        graph = trace(module, inner)
        shapes = _ShapePass(twin, graph)
        result = shapes.run(torch.zeros(inputs[inner], device="meta", dtype=_dtype(module)))
        if index and not (
            _adds_its_input(module, graph) and getattr(result, "shape", None) == inputs[inner]
        ):
            raise NotElastic(
                f"{inner} cannot be skipped: its output is not its input and something added to it"
            )
        if len(stage) == 1 and not _has_branches(graph):
            raise NotElastic(f"{inner} is no residual block, and {path} has no other")
        blocks.append(Block(inner, graph, tuple(_groups(module, graph, shapes.found))))
    if not blocks:
        raise NotElastic(f"{path} is empty")
    return Stage(path, tuple(blocks))


class _ShapePass(fx.Interpreter):
    """Runs a graph and keeps the shape of every tensor in it."""

    def __init__(self, module: nn.Module, graph: fx.Graph) -> None:
        super().__init__(module, graph=graph)
        self.found: dict[fx.Node, torch.Size] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.found[n] = result.shape
        return result


def _adds_its_input(module: nn.Module, graph: fx.Graph) -> bool:
    """Whether what comes in is added, unchanged, to what was computed from it."""
    source = next(iter(graph.nodes))
    unchanged = {source}
    for node in graph.nodes:
        if node.op == "call_module" and isinstance(
            module.get_submodule(str(node.target)), nn.Identity
        ):
            unchanged |= {node} if unchanged & set(node.all_input_nodes) else set()
    computed = _derived(graph, source) - unchanged
    return any(
        unchanged & set(node.all_input_nodes) and computed & set(node.all_input_nodes)
        for node in graph.nodes
        if node.target in _ADDITIONS
    )


def _has_branches(graph: fx.Graph) -> bool:
    derived = _derived(graph, next(iter(graph.nodes)))
    return any(
        len(derived & set(node.all_input_nodes)) == 2
        for node in graph.nodes
        if node.target in _ADDITIONS
    )


def _derived(graph: fx.Graph, source: fx.Node) -> set[fx.Node]:
    found = {source}
    for node in graph.nodes:
        if found & set(node.all_input_nodes):
            found.add(node)
    return found


class _Joined:
    """Which nodes' channels belong together (union-find); the fixed ones keep their width."""

    def __init__(self) -> None:
        self._parent: dict[fx.Node, fx.Node] = {}
        self._fixed: set[fx.Node] = set()

    def root(self, node: fx.Node) -> fx.Node:
        parent = self._parent.setdefault(node, node)
        if parent is not node:
            parent = self._parent[node] = self.root(parent)
        return parent

    def join(self, a: fx.Node, b: fx.Node) -> None:
        a, b = self.root(a), self.root(b)
        self._parent[b] = a
        if b in self._fixed:
            self._fixed.add(a)

    def fix(self, *nodes: fx.Node) -> None:
        self._fixed.update(self.root(node) for node in nodes)

    def is_fixed(self, node: fx.Node) -> bool:
        return self.root(node) in self._fixed


def _groups(
    module: nn.Module, graph: fx.Graph, shapes: Mapping[fx.Node, torch.Size]
) -> Iterator[ChannelGroup]:
    joined = _Joined()
    modules = dict(module.named_modules())
    calls = [node.target for node in graph.nodes if node.op == "call_module"]
    convolutions: list[fx.Node] = []
    norms: list[fx.Node] = []
    for node in graph.nodes:
        target = modules.get(str(node.target)) if node.op == "call_module" else None
        if _is_sliceable(target) and calls.count(node.target) == 1:
            convolutions.append(node)
            if _conv(modules, node).groups > 1:
                joined.join(node, node.all_input_nodes[0])
        elif type(target) is nn.BatchNorm2d:
            norms.append(node)
            joined.join(node, node.all_input_nodes[0])
        elif node.op.startswith("call_") and _keeps_channels_apart(node, target, shapes):
            for other in node.all_input_nodes:
                joined.join(node, other)
        else:
            joined.fix(node, *node.all_input_nodes)
    members: dict[fx.Node, list[fx.Node]] = {}
    for node in shapes:
        if not joined.is_fixed(node):
            members.setdefault(joined.root(node), []).append(node)
    for root, nodes in members.items():
        writers = [n for n in convolutions if n in nodes]
        own_norms = tuple(str(n.target) for n in norms if n in nodes)
        if not own_norms and all(shapes[n][2:].numel() == 1 for n in nodes):
            continue  # the squeeze of a channel gate: narrowing it would save next to nothing
        grouped = [_conv(modules, n).groups for n in writers if _conv(modules, n).groups > 1]
        yield ChannelGroup(
            gcd(*(shapes[n][1] for n in nodes), *grouped),
            tuple(str(n.target) for n in writers),
            tuple(
                str(n.target)
                for n in convolutions
                if _conv(modules, n).groups == 1 and joined.root(n.all_input_nodes[0]) is root
            ),
            own_norms,
        )


def _is_sliceable(module: nn.Module | None) -> bool:
    return type(module) is nn.Conv2d and module.padding_mode == "zeros"


def _conv(modules: Mapping[str, nn.Module], node: fx.Node) -> nn.Conv2d:
    found = modules[str(node.target)]
    assert isinstance(found, nn.Conv2d)
    return found


def _keeps_channels_apart(
    node: fx.Node, module: nn.Module | None, shapes: Mapping[fx.Node, torch.Size]
) -> bool:
    """Whether each channel of the result depends on that channel of the inputs alone, and alike.

    It is found out by trying: on fewer channels, and on channels in another order. So activations,
    pooling, additions and gates need no list, and a user's own are understood as well.
    """
    inputs = node.all_input_nodes
    if not inputs or any(n not in shapes or len(shapes[n]) < 2 for n in (node, *inputs)):
        return False
    if len({shapes[n][1] for n in (node, *inputs)}) != 1:
        return False
    generator = torch.Generator().manual_seed(0)
    given = {
        n: torch.randn(2, _PROBE, *shapes[n][2:], generator=generator).to(_dtype(module))
        for n in inputs
    }

    def run(channels: slice | list[int]) -> Tensor:
        own = {n: tensor[:, channels].clone() for n, tensor in given.items()}
        args = fx.node.map_arg(node.args, own.__getitem__)
        kwargs = fx.node.map_arg(node.kwargs, own.__getitem__)
        if module is not None:
            return module(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        return node.target(*args, **kwargs)  # type: ignore[operator]  # call_function has one

    backwards = list(range(_PROBE))[::-1]
    try:
        with torch.no_grad():
            whole, few, turned = run(slice(None)), run(slice(3)), run(backwards)
            return torch.allclose(whole[:, :3], few, atol=1e-5) and torch.allclose(
                whole[:, backwards], turned, atol=1e-5
            )
    except Exception:
        return False  # it insists on its own number of channels, so it keeps it


def _dtype(module: nn.Module | None) -> torch.dtype:
    parameter = None if module is None else next(module.parameters(), None)
    return torch.float32 if parameter is None else parameter.dtype
