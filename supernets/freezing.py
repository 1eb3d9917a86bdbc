"""`freeze`: one subnet of any supernet as a module that holds the active weights and no others.

Which weights those are is seen while an image passes: a parameter of which only the first rows,
columns or channels are read is cut to them. So it needs to know no operator, ours or a user's own.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from supernets.norms.statistics import LayerStatistics, Recorded, StatisticsTable
from supernets.space import Subnet
from supernets.supernet import Supernet

_CLOSE = 1e-3  # relative: a cut weight may be multiplied by another routine than a view of it
_ALIASES = {torch.ops.aten.alias.default, torch.ops.aten.detach.default}


class NotFreezable(TypeError):
    """A forward pass that computes something else when its weights are cut to what it reads."""


class Frozen(nn.Module):
    """One subnet: ``module(x)`` takes images [N, C, H, W] and gives logits [N, classes]."""

    def __init__(
        self, net: Supernet, subnet: Subnet, statistics: Mapping[int, LayerStatistics]
    ) -> None:
        super().__init__()
        self.net, self.subnet, self._layers = net, subnet, tuple(statistics)
        for layer, entry in statistics.items():
            self.register_buffer(f"mean_{layer}", entry.mean)
            self.register_buffer(f"var_{layer}", entry.var)

    def forward(self, x: Tensor) -> Tensor:
        entries = {
            layer: LayerStatistics(
                self.get_buffer(f"mean_{layer}"), self.get_buffer(f"var_{layer}")
            )
            for layer in self._layers
        }
        return self.net.run(x, self.subnet, Recorded(entries))


@torch.no_grad()
def freeze(net: Supernet, subnet: Subnet) -> nn.Module:
    """The subnet in evaluation mode, sharing no storage with ``net``.

    An image passes through it twice: to see what is read, and whether the result is the same
    afterwards. Raises `NotFreezable` where it is not: the forward pass must take widths from the
    subnet, not from the size of a weight. Raises `MissingStatistics` where the subnet has none.
    """
    recorded = Recorded(net.statistics[subnet] if net.norms() else {})
    tensors = {id(t): t for t in (*net.parameters(), *net.buffers())}
    structure: dict[int, Any] = {**tensors, id(net.statistics): StatisticsTable()}
    twin = copy.deepcopy(net, structure).eval()  # a copy of the modules, not of their tensors
    channels: dict[int, int] = {}

    def normalise(x: Tensor, layer: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        channels[layer] = x.shape[1]
        return recorded(x, layer, weight, bias, eps)

    image = _image(net)
    with _Reads(tensors) as reads:
        expected = twin.run(image, subnet, normalise)
    cut: dict[int, Any] = {id(twin.statistics): StatisticsTable()}
    for key, tensor in tensors.items():
        read = reads.leading.get(key)
        part = tensor.new_empty(0) if read is None else tensor.detach()[read].clone()
        cut[key] = nn.Parameter(part) if isinstance(tensor, nn.Parameter) else part
    statistics = {
        layer: LayerStatistics(entry.mean[:width].clone(), entry.var[:width].clone())
        for layer, width in channels.items()
        for entry in [recorded.statistics[layer]]
    }
    frozen = Frozen(copy.deepcopy(twin, cut), subnet, statistics).eval()
    unread = {id(cut[key]) for key in tensors if key not in reads.leading}
    for module in frozen.modules():
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for name, tensor in own:
            if id(tensor) in unread:
                setattr(module, name, None)
    _check(frozen, image, expected)
    return frozen


def _image(net: Supernet) -> Tensor:
    step, first = net.preprocessing, next(net.parameters())
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, step.channels, step.height, step.width, generator=generator)
    return image.to(first.device, first.dtype)


def _check(frozen: Frozen, image: Tensor, expected: Tensor) -> None:
    advice = (
        f"{type(frozen.net).__name__} cannot be extracted by cutting its weights to what subnet "
        f"{frozen.subnet.id} reads: %s. Widths must come from the subnet, not from the size of a "
        "weight; or write extract yourself"
    )
    try:
        found = frozen(image)
    except Exception as error:
        raise NotFreezable(advice % f"the pass then fails with {error!r}") from error
    if found.shape != expected.shape or (found - expected).norm() > _CLOSE * expected.norm():
        raise NotFreezable(advice % "it then computes something else")


class _Reads(TorchDispatchMode):
    """Which leading part of each tensor is read, by identity; slices alone read nothing."""

    def __init__(self, tensors: Mapping[int, Tensor]) -> None:
        super().__init__()
        self.leading: dict[int, tuple[slice, ...]] = {}
        self._tensors = tensors
        self._parts = dict.fromkeys(tensors, 0)
        self._origin = {key: key for key in tensors}  # of a tensor or a leading part of one
        self._alive: list[Tensor] = []  # while a tensor lives, no other gets its identity

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        out = func(*args, **(kwargs or {}))
        origin = self._origin.get(id(args[0])) if args else None
        if origin is not None and (func in _ALIASES or _is_leading(func, args)):
            self._origin[id(out)] = origin
            self._alive.append(out)
            return out
        for leaf in tree_leaves((args, kwargs)):
            found = self._origin.get(id(leaf)) if isinstance(leaf, Tensor) else None
            if found is not None:
                self._read(found, leaf)
        return out

    def _read(self, key: int, part: Tensor) -> None:
        before = self.leading.get(key, (slice(0),) * part.dim())
        self.leading[key] = tuple(
            slice(max(old.stop, size)) for old, size in zip(before, part.shape, strict=True)
        )


def _is_leading(func: Any, args: Any) -> bool:
    """Whether this is ``tensor[..., :n]`` along one dimension."""
    if func is not torch.ops.aten.slice.Tensor:
        return False
    start, step = (args[2] if len(args) > 2 else None), (args[4] if len(args) > 4 else 1)
    return start in {None, 0} and step == 1
