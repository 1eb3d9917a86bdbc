"""What a subnet costs on any machine: multiply-accumulates and parameters, from its own forward.

The pass runs on the meta device, where tensors have shapes but no values: no arithmetic is done, no
weight is read, and every family is counted by the code that runs it.
"""

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from supernets.norms.statistics import StatisticsTable
from supernets.space import Subnet
from supernets.supernet import Supernet


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one subnet: multiply-accumulates for one image, and parameters in use."""

    macs: int
    parameters: int


def cost(net: Supernet, subnet: Subnet) -> Cost:
    """Both figures, from one pass over one image of the net's input size.

    Convolutions, matrix products and attention count; element-wise work and normalisation do not,
    as in the literature. What is computed from weights alone (a kernel's transformation) is not
    repeated per image and costs nothing. A parameter counts if it meets an image's data; filters
    that are made from others count as they are used, so that the figures are those of the extracted
    subnet.
    """
    skeleton = _skeleton(net)
    step = net.preprocessing
    dtype = next(skeleton.parameters()).dtype
    image = torch.empty(1, step.channels, step.height, step.width, dtype=dtype, device="meta")
    meter = _Meter(skeleton.parameters(), image)
    with torch.no_grad(), meter:
        skeleton.run(image, subnet, meter.normalise)
    return Cost(meter.flops // 2, meter.parameters())


def macs(net: Supernet, subnet: Subnet) -> int:
    """Multiply-accumulates of the subnet for one image; see `cost`."""
    return cost(net, subnet).macs


def parameters(net: Supernet, subnet: Subnet) -> int:
    """Parameters that the subnet uses, γ and β of its norms among them; see `cost`."""
    return cost(net, subnet).parameters


# A search counts thousands of subnets of one net, and copying its structure takes longer than the
# pass. Values do not matter here, so training in between does not make a skeleton stale.
_SKELETONS: WeakKeyDictionary[Supernet, Supernet] = WeakKeyDictionary()


def _skeleton(net: Supernet) -> Supernet:
    """The net with all its tensors on the meta device; nothing is copied but its structure."""
    found = _SKELETONS.get(net)
    if found is None:
        memo: dict[int, Any] = {id(net.statistics): StatisticsTable()}
        for parameter in net.parameters():
            memo[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), requires_grad=False)
        for buffer in net.buffers():
            memo[id(buffer)] = buffer.detach().to("meta")
        found = _SKELETONS[net] = copy.deepcopy(net, memo)
    return found


# Their result has the shape of what they are given; on the meta device torch takes a millisecond
# each to find that out, most of the whole pass.
_ACTIVATIONS = {
    torch.ops.aten.relu.default,
    torch.ops.aten.gelu.default,
    torch.ops.aten.silu.default,
    torch.ops.aten.hardswish.default,
    torch.ops.aten.hardsigmoid.default,
}


class _View(NamedTuple):
    """Which elements of one storage a tensor covers."""

    storage: int
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Distinct ones: an expanded dimension repeats the same."""
        return math.prod(n for n, step in zip(self.size, self.stride, strict=True) if step != 0)


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)  # noqa: SLF001 - on meta it has no address


def _view(tensor: Tensor) -> _View:
    return _View(
        _storage(tensor), int(tensor.storage_offset()), tuple(tensor.shape), tensor.stride()
    )


class _Meter(TorchDispatchMode):
    """Follows one image through the pass: what is computed from it, and which weights it meets."""

    def __init__(self, weights: Iterable[Tensor], image: Tensor) -> None:
        super().__init__()
        self.flops = 0
        self._sizes = {_storage(weight): weight.numel() for weight in weights}
        self._images = {_storage(image)}  # storages that depend on the image
        self._made: dict[int, set[_View]] = {}  # storage made of weights alone -> those weights
        self._met: set[_View] = set()
        # While a tensor lives, no other can get its storage's identity.
        self._kept: list[Tensor] = [image]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        kwargs = kwargs or {}
        out = torch.empty_like(args[0]) if func in _ACTIVATIONS else func(*args, **kwargs)
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        self._kept += made
        if any(_storage(tensor) in self._images for tensor in given):
            self._met |= {_view(t) for t in given if _storage(t) not in self._images}
            self._images |= {_storage(tensor) for tensor in made}
            formula = flop_registry.get(func.overloadpacket)
            if formula is not None:
                self.flops += formula(*args, **kwargs, out_val=out)
        else:
            origins = set().union(*(self._origins(tensor) for tensor in given))
            for tensor in made:
                if _storage(tensor) not in self._sizes:
                    self._made.setdefault(_storage(tensor), origins)
        return out

    def normalise(self, x: Tensor, layer: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:  # noqa: ARG002 - every Normalisation takes them
        """Meets γ and β without computing anything: normalisation has no cost that counts."""
        self._met |= {_view(weight), _view(bias)}
        return x

    def _origins(self, tensor: Tensor) -> set[_View]:
        if _storage(tensor) in self._sizes:
            return {_view(tensor)}
        return self._made.get(_storage(tensor), set())

    def parameters(self) -> int:
        """Elements of weights that met the image; made ones at their own size, if that is less."""
        own = self._union({view for view in self._met if view.storage in self._sizes})
        derived: dict[int, int] = {}
        for view in self._met:
            if view.storage in self._made:
                known = derived.get(view.storage, 0)
                derived[view.storage] = max(known, view.elements)
        return own + sum(
            min(size, self._union(self._made[storage])) for storage, size in derived.items()
        )

    def _union(self, views: set[_View]) -> int:
        """How many elements the views cover together."""
        total = 0
        for storage in {view.storage for view in views}:
            here = [view for view in views if view.storage == storage]
            if len(here) == 1:
                total += here[0].elements
                continue
            covered = torch.zeros(self._sizes[storage], dtype=torch.bool)
            for view in here:
                covered.as_strided(view.size, view.stride, view.offset).fill_(True)
            total += int(covered.sum())
        return total
