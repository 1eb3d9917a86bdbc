"""SubnetNorm of the resident form: which two vectors each layer of each subnet reads in the arena.

A subnet's row holds, layer by layer, either (scale, shift) or (mean, variance). scale = γ / √(σ² +
ε) and shift = β − µ · scale join the shared γ and β with the subnet's own µ and σ², so that a layer
reads two vectors and no more. Here every subnet has its row; `compact_norms` is the form
for very many.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from math import prod
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.arena import Arena
from supernets.norms.statistics import MissingStatistics, StatisticsTable, SubnetStatistics
from supernets.operators import SubnetNorm
from supernets.space import Subnet

Form = Literal["scale-shift", "mean-variance"]
Storage = Literal["auto", "exact", "compact"]

_SHARED = "norm/shared"


@dataclass(frozen=True, slots=True)
class SubnetNormTable:
    """One subnet's row: a view [2, total] of the arena, and where each layer starts in it."""

    row: Tensor
    starts: Mapping[int, int]

    def layer(self, layer: int, channels: int) -> tuple[Tensor, Tensor]:
        """Both vectors of the layer's first ``channels`` channels, views [channels]."""
        start = self.starts[layer]
        return self.row[0, start : start + channels], self.row[1, start : start + channels]

    def layers(self) -> dict[int, tuple[Tensor, Tensor]]:
        """Both vectors of every layer, whole."""
        ends = [*list(self.starts.values())[1:], self.row.shape[1]]
        return {
            layer: (self.row[0, start:end], self.row[1, start:end])
            for (layer, start), end in zip(self.starts.items(), ends, strict=True)
        }


@dataclass(frozen=True, slots=True)
class NormMemory:
    """Bytes of the arena that SubnetNorm takes, against a float32 row for every subnet."""

    storage: Literal["exact", "compact"]
    subnets: int
    bytes: int  # all of it: coded, decoded, shared
    decoded_bytes: int  # of which rows of subnets in use, where all subnets lie coded
    naive_bytes: int
    error: float  # the largest one of µ, in σ, and of log σ


@dataclass(frozen=True, slots=True)
class ResidentMemory:
    """What the bytes of an arena are for. ``derived`` are weights made of others beforehand."""

    total: int
    weights: int
    derived: int
    norms: NormMemory

    @classmethod
    def of(cls, arena: Arena, norms: NormMemory, derived: Iterable[str] = ()) -> Self:
        """``derived``: the names of such weights in the arena."""
        made = sum(arena[name].nbytes for name in derived)
        return cls(arena.nbytes, arena.nbytes - made - norms.bytes, made, norms)

    def to_json(self) -> dict[str, Any]:
        """The fields, and the mean over subnets of what their norms take."""
        mean = self.norms.bytes / self.norms.subnets if self.norms.subnets else 0.0
        return {**asdict(self), "norm_bytes_per_subnet": mean}


class NormTables(ABC):
    """Made of the trainable net's norms and statistics, and independent of them once attached.

    `slots` are tensors that the arena must hold; `attach` finds them there.
    """

    def __init__(
        self,
        norms: Mapping[int, SubnetNorm],
        statistics: StatisticsTable,
        dtype: torch.dtype,
        form: Form,
    ) -> None:
        # A variance does not fit 16 bits in general, as a scale does.
        self.row_dtype = torch.float32 if form == "mean-variance" and dtype.itemsize < 4 else dtype
        self.form: Form = form
        self.slots: dict[str, Tensor] = {}
        self._arena_dtype = dtype
        self._norms = norms
        self._shared: SubnetNormTable | None = None
        self._starts: dict[str, dict[int, int]] = {}  # of the rows in `slots`, by name
        channels = sum(total_channels(statistics[subnet]) for subnet in statistics)
        self._naive = 2 * torch.float32.itemsize * channels
        if statistics.shared is not None:
            self.offer_row(_SHARED, statistics.shared)

    @abstractmethod
    def held(self, subnet: Subnet) -> AbstractContextManager[SubnetNormTable]:
        """The subnet's row, which stays its own until the context ends; `MissingStatistics`."""

    @abstractmethod
    def names(self, subnets: Iterable[Subnet]) -> list[str]:
        """Those of `slots` that calls with these subnets read."""

    @abstractmethod
    def memory(self) -> NormMemory:
        """What the tables take."""

    def __getitem__(self, subnet: Subnet) -> SubnetNormTable:
        """The subnet's row as it lies now: to look at, since nothing keeps it in its place."""
        with self.held(subnet) as table:
            return table

    def attach(self, arena: Arena, forget: Callable[[Subnet], None] = lambda _: None) -> None:
        """Read what `slots` are from ``arena`` on, and let go of them and of the trainable net.

        ``forget`` is called with a subnet whose row goes to another one: views of it are void.
        """
        self.arena, self._forget = arena, forget
        if _SHARED in self._starts:
            self._shared = self.row(_SHARED)
        self._find()
        self._norms, self.slots = {}, {}

    @abstractmethod
    def _find(self) -> None:
        """Take views of the arena."""

    def offer(self, name: str, content: Tensor) -> None:
        """Give the arena, which has one type, a tensor of any type."""
        data = content.contiguous().view(-1).view(torch.uint8)
        data = F.pad(data, (0, -len(data) % self._arena_dtype.itemsize))
        self.slots[name] = data.view(self._arena_dtype)

    def view(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A tensor that was offered, as it lies in the arena."""
        room = self.arena[name].view(torch.uint8)[: prod(shape) * dtype.itemsize]
        return room.view(dtype).view(shape)

    def offer_row(self, name: str, statistics: SubnetStatistics) -> None:
        """Give the arena one subnet's exact row, computed in float64."""
        firsts, seconds, starts, total = [], [], {}, 0
        for layer, entry in statistics.items():
            first, second = entry.mean.double(), entry.var.double()
            if self.form == "scale-shift":
                norm, channels = self._norms[layer], len(entry.mean)
                gamma, beta = (t[:channels].detach().double() for t in (norm.weight, norm.bias))
                scale = gamma / torch.sqrt(second + norm.eps)
                first, second = scale, beta - first * scale
            firsts.append(first)
            seconds.append(second)
            starts[layer] = total
            total += len(first)
        row = torch.zeros(2, total, dtype=self.row_dtype)
        if starts:
            row.copy_(torch.stack([torch.cat(firsts), torch.cat(seconds)]))
        self.offer(name, self.checked(SubnetNormTable(row, starts)).row)
        self._starts[name] = starts

    def row(self, name: str) -> SubnetNormTable:
        """A row that was offered, as it lies in the arena."""
        total = self.slots[name].nbytes // (2 * self.row_dtype.itemsize)
        return SubnetNormTable(self.view(name, (2, total), self.row_dtype), self._starts[name])

    def checked(self, table: SubnetNormTable) -> SubnetNormTable:
        """``ValueError`` for a row that its type cannot hold: one channel spoils the answer."""
        if not table.row.isfinite().all():
            raise ValueError(
                f"a normalisation scale or shift is not finite in {self.row_dtype}; "
                "make the resident form in bfloat16 or float32"
            )
        return table

    def _missing(self, subnet: Subnet) -> MissingStatistics:
        return MissingStatistics(
            f"subnet {subnet.id} ({subnet}) had no normalisation statistics when the resident form "
            "was made; calibrate it, then call resident() again"
        )

    def _size(self, *names: str) -> int:
        present = [name for name in (*names, _SHARED) if name in self.arena]
        return sum(self.arena[name].nbytes for name in present)


class ExactTables(NormTables):
    """Every subnet has its row, in the arena's type."""

    def __init__(
        self,
        norms: Mapping[int, SubnetNorm],
        statistics: StatisticsTable,
        dtype: torch.dtype,
        form: Form,
    ) -> None:
        super().__init__(norms, statistics, dtype, form)
        self._known = tuple(statistics)
        self._tables: dict[Subnet, SubnetNormTable] = {}
        for subnet in self._known:
            self.offer_row(f"norm/{subnet.id}", statistics[subnet])

    def names(self, subnets: Iterable[Subnet]) -> list[str]:
        wanted = (f"norm/{subnet.id}" for subnet in subnets)
        found = dict.fromkeys(name if name in self.slots else _SHARED for name in wanted)
        return [name for name in found if name in self.slots]

    def held(self, subnet: Subnet) -> AbstractContextManager[SubnetNormTable]:
        found = self._tables.get(subnet) or self._shared
        if found is None:
            raise self._missing(subnet)
        return nullcontext(found)

    def memory(self) -> NormMemory:
        held = self._size(*(f"norm/{subnet.id}" for subnet in self._known))
        return NormMemory("exact", len(self._tables), held, 0, self._naive, 0.0)

    def _find(self) -> None:
        self._tables = {subnet: self.row(f"norm/{subnet.id}") for subnet in self._known}


def total_channels(statistics: SubnetStatistics) -> int:
    return sum(len(entry.mean) for entry in statistics.values())
