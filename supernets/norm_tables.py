"""SubnetNorm of the resident form: per subnet one row of (scale, shift) in the arena.

scale = γ / √(σ² + ε) and shift = β − µ · scale join the shared γ and β with the subnet's own µ and
σ², so that a layer reads two vectors. The shared weights themselves stay as they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.arena import Arena
from supernets.operators import SubnetNorm
from supernets.space import Subnet
from supernets.statistics import MissingStatistics, StatisticsTable, SubnetStatistics

_SHARED = "norm/shared"


@dataclass(frozen=True, slots=True)
class SubnetNormTable:
    """One subnet's row: a view [2, total] of the arena, and where each layer starts in it."""

    row: Tensor
    starts: Mapping[int, int]

    def layer(self, layer: int, channels: int) -> tuple[Tensor, Tensor]:
        """(scale, shift) of the layer's first ``channels`` channels, views [channels]."""
        start = self.starts[layer]
        return self.row[0, start : start + channels], self.row[1, start : start + channels]


class NormTables:
    """Which rows there are. `rows` go into the arena first; `attach` then finds them there."""

    def __init__(self, norms: Mapping[int, SubnetNorm], table: StatisticsTable) -> None:
        self._starts: dict[Subnet, dict[int, int]] = {}
        self._shared_starts: dict[int, int] | None = None
        self.rows: dict[str, Tensor] = {}
        if table.shared is not None:
            self.rows[_SHARED], self._shared_starts = _row(norms, table.shared)
        for subnet in table:
            self.rows[f"norm/{subnet.id}"], self._starts[subnet] = _row(norms, table[subnet])

    def attach(self, arena: Arena) -> None:
        """From now on look rows up in ``arena``; the ones that were copied into it are let go."""
        self.rows = {}
        self._arena = arena

    def __getitem__(self, subnet: Subnet) -> SubnetNormTable:
        """Raises `MissingStatistics` for a subnet that had none when the arena was filled."""
        starts = self._starts.get(subnet)
        if starts is not None:
            return SubnetNormTable(self._arena[f"norm/{subnet.id}"], starts)
        if self._shared_starts is not None:
            return SubnetNormTable(self._arena[_SHARED], self._shared_starts)
        raise MissingStatistics(
            f"subnet {subnet.id} ({subnet}) had no normalisation statistics when the resident form "
            "was made; calibrate it, then call resident() again"
        )


def _row(
    norms: Mapping[int, SubnetNorm], statistics: SubnetStatistics
) -> tuple[Tensor, dict[int, int]]:
    """All layers' scale and shift side by side, float64 [2, total], and each layer's start."""
    scales, shifts, starts, total = [], [], {}, 0
    for layer, entry in statistics.items():
        norm, channels = norms[layer], len(entry.mean)
        scale = norm.weight[:channels].detach().double() / torch.sqrt(entry.var.double() + norm.eps)
        scales.append(scale)
        shifts.append(norm.bias[:channels].detach().double() - entry.mean.double() * scale)
        starts[layer] = total
        total += channels
    return torch.stack([torch.cat(scales), torch.cat(shifts)]), starts
