"""Which tensors of a supernet its arena holds, and in what form programs read them."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kernels.weights import Layout, lay_out
from supernets.norms.statistics import StatisticsTable
from supernets.operators import DepthwiseSlice, SubnetNorm
from supernets.supernet import Supernet

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d
Kind = Literal["matrix", "bank", "vector", "norm"]


@dataclass(frozen=True, slots=True)
class Stored:
    """One tensor of the arena.

    ``seen`` is what the forward pass reads in its place, ``data`` what lies in the arena: a matrix
    as `kernels.weights.lay_out` lays it out, a bank of depthwise filters tap-major [k, k, C], a
    vector as it is, or a plain batch norm's scale for its mean, and its shift for its variance.
    ``derived`` says that it is made of other weights, beside them.
    """

    name: str
    kind: Kind
    seen: Tensor
    data: Tensor
    derived: bool = False


@torch.no_grad()
def stored(net: Supernet, layout: Layout) -> Iterator[Stored]:
    """All that programs of ``net`` can read except SubnetNorm's rows, in the order of its modules.

    The filters of every kernel size are made for all channels: a kernel's transformation has
    nothing to do with how many of them are active. A plain batch norm becomes scale and shift.
    """
    left_out: set[int] = set()
    for path, module in net.named_modules():
        own = [*module.named_parameters(path, False), *module.named_buffers(path, False)]
        tensors = {name: t for name, t in own if id(t) not in left_out and t.is_floating_point()}
        left_out |= {id(t) for t in tensors.values()}
        if isinstance(module, SubnetNorm):
            continue
        if isinstance(module, DepthwiseSlice):
            left_out |= {id(matrix) for matrix in module.transforms.values()}
            for kernel in module.kernels:
                bank = module.filters(kernel)
                derived = kernel != module.kernels[-1]
                name = f"{path}.filters{kernel}"
                yield Stored(name, "bank", bank, _tap_major(bank), derived)
        elif isinstance(module, BatchNorm) and module.running_mean is not None:
            assert module.running_var is not None
            scale, shift = _affine(module)
            yield Stored(f"{path}.scale", "norm", module.running_mean, scale)
            yield Stored(f"{path}.shift", "norm", module.running_var, shift)
        else:
            for name, tensor in tensors.items():
                if tensor.dim() == 4 and 1 < len(tensor) == getattr(module, "groups", 1):
                    yield Stored(name, "bank", tensor, _tap_major(tensor))
                elif tensor.dim() > 1:
                    yield Stored(name, "matrix", tensor, lay_out(tensor, layout))
                else:
                    yield Stored(name, "vector", tensor, tensor)


def _tap_major(filters: Tensor) -> Tensor:
    """[C, 1, k, k] -> [k, k, C]."""
    return filters[:, 0].permute(1, 2, 0)


def _affine(norm: BatchNorm) -> tuple[Tensor, Tensor]:
    """What a batch norm with running statistics does, as scale and shift [C]."""
    mean, var = norm.running_mean, norm.running_var
    assert mean is not None
    assert var is not None
    scale = torch.rsqrt(var.double() + norm.eps)
    scale = scale if norm.weight is None else scale * norm.weight.double()
    shift = -mean.double() * scale
    return scale, shift if norm.bias is None else shift + norm.bias.double()


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor that a program reads is: in the arena by name, or in a subnet's row of norms.

    ``whole`` has the arena's shape and no values: a program without values reads views of it.
    """

    whole: Tensor
    name: str = ""
    kind: Kind = "norm"
    seen: Tensor | None = None
    layer: int = -1
    part: int = 0  # 0 is scale, 1 is shift


class Skeleton:
    """A net without values, on which forward passes are recorded, and where its tensors belong.

    Independent of the net that it was made of.
    """

    def __init__(self, net: Supernet, layout: Layout) -> None:
        self.layout: Layout = layout
        memo: dict[int, Any] = {id(net.statistics): StatisticsTable()}
        for parameter in net.parameters():
            memo[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), requires_grad=False)
        for buffer in net.buffers():
            memo[id(buffer)] = buffer.detach().to("meta")
        self.net = copy.deepcopy(net, memo).eval()
        self.dtype = next(self.net.parameters()).dtype
        self.names: list[str] = []  # of the arena's tensors, in the order of the modules
        self.seen: dict[int, Place] = {}  # by the storage that a forward pass reads
        self.rows: dict[int, tuple[Tensor, Tensor]] = {}  # layer -> its scale and shift
        self._places: dict[int, Place] = {}  # by the storage that a program reads
        banks: dict[str, Tensor] = {}
        for entry in stored(self.net, layout):
            whole = torch.empty(entry.data.shape, dtype=self.dtype, device="meta")
            place = Place(whole, entry.name, entry.kind, entry.seen)
            self.seen[storage(entry.seen)] = self._places[storage(whole)] = place
            self.names.append(entry.name)
            banks[entry.name] = entry.seen
        self.batch_norms: dict[int, BatchNorm] = {}  # by the storage of their means
        for path, module in self.net.named_modules():
            if isinstance(module, DepthwiseSlice):
                own = {kernel: banks[f"{path}.filters{kernel}"] for kernel in module.kernels}
                module.filters = partial(_filters, own)  # type: ignore[method-assign]
            elif isinstance(module, BatchNorm) and module.running_mean is not None:
                self.batch_norms[storage(module.running_mean)] = module
        for layer, norm in self.net.norms().items():
            self.rows[layer] = torch.empty_like(norm.weight), torch.empty_like(norm.bias)
            for part, whole in enumerate(self.rows[layer]):
                self._places[storage(whole)] = Place(whole, layer=layer, part=part)

    def place(self, tensor: Tensor) -> Place:
        """Of a tensor in a program that was recorded on this skeleton."""
        return self._places[storage(tensor)]


def _filters(banks: dict[int, Tensor], kernel: int, channels: int | None = None) -> Tensor:
    """`DepthwiseSlice.filters` without computing any: a view of the bank made beforehand."""
    if kernel not in banks:
        raise ValueError(f"kernel {kernel} is not one of {tuple(banks)}")
    return banks[kernel][:channels]


def storage(tensor: Tensor) -> int:
    """The identity of a tensor's storage while it lives; on meta it has no address."""
    return int(tensor.untyped_storage()._cdata)  # noqa: SLF001
