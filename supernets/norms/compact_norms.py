"""SubnetNorm tables for very many subnets: all lie coded in the arena, those in use as rows too."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from threading import Condition

import torch
from torch import Tensor

from supernets.norms.norm_tables import (
    ExactTables,
    Form,
    NormMemory,
    NormTables,
    Storage,
    SubnetNormTable,
    total_channels,
)
from supernets.norms.shared_statistics import SharedStatistics
from supernets.norms.statistics import StatisticsTable
from supernets.operators import SubnetNorm
from supernets.space import Subnet

# "auto" takes rows up to this many subnets. They are read as they are, and cost little so far.
EXACT_UP_TO = 64
# Room for so many rows of mean size: more than a server's Pareto front needs, few beside hundreds.
DECODED_ROWS = 16

_CODED, _AFFINE, _DECODED = "norm/coded", "norm/affine", "norm/decoded"


@dataclass(slots=True)
class _Decoded:
    """A subnet's row, the channels of the room that it takes, and how many calls are reading it."""

    table: SubnetNormTable
    span: tuple[int, int]
    readers: int = 0


class CompactTables(NormTables):
    """All subnets lie coded in the arena; the ones last used have rows beside them.

    A subnet is decoded when it comes into use, which takes about twice as long as making its plan.
    """

    def __init__(
        self,
        norms: Mapping[int, SubnetNorm],
        statistics: StatisticsTable,
        dtype: torch.dtype,
        form: Form,
    ) -> None:
        super().__init__(norms, statistics, dtype, form)
        self._eps = {layer: norm.eps for layer, norm in norms.items()}
        self._coded = SharedStatistics.encode([statistics[s] for s in statistics], self._eps)
        sizes = [total_channels(statistics[subnet]) for subnet in statistics]
        mean = -(-sum(sizes) // max(1, len(sizes)))
        self._room = max([min(DECODED_ROWS * mean, sum(sizes)), *sizes])
        self._known = dict(zip(statistics, enumerate(sizes), strict=True))  # number, channels
        self._used: OrderedDict[Subnet, _Decoded] = OrderedDict()  # the last used one comes last
        self._changed = Condition()
        self.offer(_CODED, self._coded.packed())
        if form == "scale-shift":
            self.offer(_AFFINE, self._shared_affine())
        self.offer(_DECODED, torch.zeros(2, self._room, dtype=self.row_dtype))

    def names(self, subnets: Iterable[Subnet]) -> list[str]:
        wanted = list(subnets)
        return [
            name
            for name in self.slots
            if any((s in self._known) == (name in {_CODED, _AFFINE, _DECODED}) for s in wanted)
        ]

    @contextmanager
    def held(self, subnet: Subnet) -> Iterator[SubnetNormTable]:
        if subnet not in self._known:
            if self._shared is None:
                raise self._missing(subnet)
            yield self._shared
            return
        with self._changed:
            decoded = self._decoded(subnet)
            decoded.readers += 1
        try:
            yield decoded.table
        finally:
            with self._changed:
                decoded.readers -= 1
                self._changed.notify_all()

    def memory(self) -> NormMemory:
        return NormMemory(
            "compact",
            len(self._known),
            self._size(_CODED, _AFFINE, _DECODED),
            self._size(_DECODED),
            self._naive,
            self._coded.error,
        )

    def _find(self) -> None:
        self._coded = self._coded.moved(self.view(_CODED, (self._coded.nbytes(),), torch.uint8))

    def _shared_affine(self) -> Tensor:
        """γ and β, float32 [2, channels of all layers]."""
        both = torch.zeros_like(self._coded.centres)
        for layer, span in self._coded.spans().items():
            norm, channels = self._norms[layer], span.stop - span.start
            both[0, span] = norm.weight[:channels].detach()
            both[1, span] = norm.bias[:channels].detach()
        return both

    def _decoded(self, subnet: Subnet) -> _Decoded:
        """The subnet's row, if need be decoded in the place of those that were used longest ago."""
        while (found := self._used.get(subnet)) is None:
            number, size = self._known[subnet]
            start = self._gap(size)
            if start is not None:
                self._used[subnet] = self._decode(number, start, start + size)
                continue
            idle = next((s for s, row in self._used.items() if row.readers == 0), None)
            if idle is None:
                self._changed.wait()
                continue
            del self._used[idle]
            self._forget(idle)
        self._used.move_to_end(subnet)
        return found

    def _gap(self, size: int) -> int | None:
        """Where ``size`` channels are free; the room has place for the largest subnet at least."""
        start = 0
        for begin, end in sorted(row.span for row in self._used.values()):
            if begin - start >= size:
                break
            start = end
        return start if start + size <= self._room else None

    def _decode(self, number: int, start: int, end: int) -> _Decoded:
        coded = self._coded.decode(number)
        widths = list(coded.channels.values())
        row = self.view(_DECODED, (2, self._room), self.row_dtype)[:, start:end]
        self._settle()  # what runs on a GPU may still read what was here
        if self.form == "scale-shift":
            affine = self.view(_AFFINE, tuple(self._coded.centres.shape), torch.float32)
            gamma, beta = affine[:, coded.channel]
            row[0] = scale = gamma * torch.exp(-coded.log_sigma)
            row[1] = beta - coded.mean * scale
        else:
            eps = coded.mean.new_tensor([self._eps[layer] for layer in coded.channels])
            eps = eps.repeat_interleave(torch.tensor(widths, device=eps.device))
            row[0] = coded.mean
            row[1] = (torch.exp(2 * coded.log_sigma) - eps).clamp_min(0)
        self._settle()  # and another stream may read it next
        starts = dict(zip(coded.channels, accumulate(widths, initial=0), strict=False))
        return _Decoded(self.checked(SubnetNormTable(row, starts)), (start, end))

    def _settle(self) -> None:
        if self.arena.device.type == "cuda":
            torch.cuda.synchronize(self.arena.device)


def norm_tables(
    norms: Mapping[int, SubnetNorm],
    statistics: StatisticsTable,
    dtype: torch.dtype,
    form: Form = "scale-shift",
    storage: Storage = "auto",
) -> NormTables:
    """Tables for an arena of type ``dtype``: exact ones for few subnets, unless one is named."""
    compact = storage == "compact" or (storage == "auto" and len(statistics) > EXACT_UP_TO)
    return (CompactTables if compact else ExactTables)(norms, statistics, dtype, form)
