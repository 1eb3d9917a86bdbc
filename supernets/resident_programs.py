"""The resident form of convolutional supernets: every subnet a program over the one arena.

Activating a subnet is looking up its program. It is recorded once, from the net's own forward pass
over tensors without values, and holds views of the arena; making one copies no weight.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from kernels.arena import Arena
from kernels.binding import bind
from kernels.fusion import fuse
from kernels.program import Program
from kernels.runners import Kernels, Runner, runner_for
from supernets.lowering import lower
from supernets.norms.compact_norms import norm_tables
from supernets.norms.norm_tables import ResidentMemory, Storage, SubnetNormTable
from supernets.space import SearchSpace, Subnet
from supernets.stored_weights import Skeleton, stored
from supernets.supernet import ResidentForm, Supernet

PROGRAMS = 1024  # kept for as many subnets; each takes a quarter of a megabyte of host memory

Key = TypeVar("Key")
Value = TypeVar("Value")
Size = tuple[int, int]  # height and width of the images
_EMPTY = SubnetNormTable(torch.empty(2, 0), {})  # of nets without SubnetNorm


class ResidentPrograms(ResidentForm):
    """Made by `Supernet.resident`; independent of the trainable net afterwards."""

    def __init__(
        self,
        net: Supernet,
        device: torch.device,
        dtype: torch.dtype,
        norms: Storage = "auto",
        *,
        subnets: Iterable[Subnet] | None = None,
        kernels: Kernels = "auto",
        arena_file: Path | None = None,
    ) -> None:
        """Raises `NotLowered` where a subnet of ``net`` is no program, `NoKernels` where the ones
        asked for cannot run.

        What ``subnets`` read lies first in the arena, ``arena.hot_bytes`` long; see
        `Supernet.resident` for the rest.
        """
        self.device, self.dtype = device, dtype
        self.runner: Runner = runner_for(device, dtype, kernels)
        self.kernels = self.runner.name
        self._skeleton = Skeleton(net, self.runner.layout)
        self._size: Size = net.preprocessing.height, net.preprocessing.width
        self._lowered: dict[tuple[Subnet, Size], Program] = {}
        self._programs: dict[Subnet, dict[Size, Program]] = {}
        self._norms = norm_tables(net.norms(), net.statistics, dtype, "scale-shift", norms)
        self._has_norms = bool(net.norms())
        served = None if subnets is None else tuple(subnets)
        tensors, hot = self._laid_out(net, served)
        self._arena = Arena(tensors, device, dtype, hot=hot, file=arena_file)
        self._derived = tuple(
            s.name for s in stored(self._skeleton.net, self._skeleton.layout) if s.derived
        )
        self._norms.attach(self._arena, self._forget)

    @torch.inference_mode()
    def __call__(self, x: Tensor, subnet: Subnet) -> Tensor:
        nhwc = x.to(self.dtype).permute(0, 2, 3, 1).contiguous()
        with self._held(subnet) as table:
            program = self._bound(subnet, (x.shape[2], x.shape[3]), table)
            return self.runner(program, nhwc, subnet, table.row if self._has_norms else None)

    def program(self, subnet: Subnet, size: Size | None = None) -> Program:
        """What runs for images of ``size`` (height, width), by default the net's own.

        Making it is the whole of actuation, and is done once. Raises `MissingStatistics`, and
        `NotLowered` for a subnet that computes what no other does.
        """
        with self._held(subnet) as table:
            return self._bound(subnet, size or self._size, table)

    def tensors(self, subnet: Subnet) -> dict[str, Tensor]:
        return self.program(subnet).tensors()

    def memory(self) -> ResidentMemory:
        return ResidentMemory.of(self._arena, self._norms.memory(), self._derived)

    @property
    def arena(self) -> Arena:
        return self._arena

    def _held(self, subnet: Subnet) -> AbstractContextManager[SubnetNormTable]:
        return self._norms.held(subnet) if self._has_norms else nullcontext(_EMPTY)

    def _forget(self, subnet: Subnet) -> None:
        self._programs.pop(subnet, None)

    def _bound(self, subnet: Subnet, size: Size, table: SubnetNormTable) -> Program:
        found = self._programs.get(subnet, {}).get(size)
        if found is None:
            found = bind(self._lower(subnet, size), lambda t: self._view(t, table))
            _keep(self._programs, subnet, {**self._programs.get(subnet, {}), size: found})
        return found

    def _lower(self, subnet: Subnet, size: Size) -> Program:
        found = self._lowered.get((subnet, size))
        if found is None:
            recorded = lower(self._skeleton, subnet, size)
            fused = fuse(recorded, gpu=self.runner.for_gpu)
            found = _keep(self._lowered, (subnet, size), fused)
        return found

    def _view(self, tensor: Tensor, table: SubnetNormTable) -> Tensor:
        """What a tensor without values stands for."""
        place = self._skeleton.place(tensor)
        if place.layer < 0:
            whole = self._arena[place.name]
        else:
            whole = table.layer(place.layer, len(tensor))[place.part]
        start = whole.storage_offset() + tensor.storage_offset()
        return whole.as_strided(tensor.shape, tensor.stride(), start)

    def _laid_out(
        self, net: Supernet, served: Sequence[Subnet] | None
    ) -> tuple[dict[str, Tensor], int | None]:
        """The arena's tensors in their order, and how many of them the served subnets read.

        Both the hot ones and the rest are in execution order.
        """
        order: list[str] = []
        for subnet in dict.fromkeys([*_varied(net.space), *(served or ())]):
            order = _merged(order, self._reads(subnet))
        order = _merged(order, self._skeleton.names)
        tensors = {entry.name: entry.data for entry in stored(net, self._skeleton.layout)}
        if served is None:
            return {name: tensors[name] for name in order} | self._norms.slots, None
        read = {name for subnet in served for name in self._reads(subnet)}
        own = self._norms.names(served)
        hot = [*(name for name in order if name in read), *own]
        rest = [*order, *self._norms.slots]
        everything = {**tensors, **self._norms.slots}
        return {name: everything[name] for name in dict.fromkeys([*hot, *rest])}, len(hot)

    def _reads(self, subnet: Subnet) -> list[str]:
        """The names of the weights that a subnet reads, in execution order."""
        program = self._lower(subnet, self._size)
        places = (self._skeleton.place(tensor) for tensor in program.tensors().values())
        return [place.name for place in places if place.layer < 0]


def _keep(cache: dict[Key, Value], key: Key, value: Value) -> Value:
    """Enter ``value``; beyond `PROGRAMS` the one that was entered first is let go."""
    cache[key] = value
    if len(cache) > PROGRAMS:
        cache.pop(next(iter(cache)), None)
    return value


def _varied(space: SearchSpace) -> Iterator[Subnet]:
    """The largest subnet, the smallest, and others that together have every option once."""
    yield space.largest
    yield space.smallest
    for index in range(1, max((len(d.options) for d in space.dimensions), default=0) - 1):
        middle = {d.name: d.options[min(index, len(d.options) - 1)] for d in space.dimensions}
        try:
            yield space.subnet(**middle)
        except ValueError:
            continue  # settings that exclude each other, as those of stitches do


def _merged(order: Sequence[str], names: Iterable[str]) -> list[str]:
    """``order``, with what it lacks of ``names`` behind the one that comes before it there."""
    merged, at = list(order), 0
    known = set(order)
    for name in names:
        if name in known:
            at = merged.index(name) + 1
        else:
            merged.insert(at, name)
            known.add(name)
            at += 1
    return merged
