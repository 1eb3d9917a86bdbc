"""A resident form for any supernet: its own forward pass over parameters that lie in one arena.

It is what nets get that are no programs of our kernels, such as transformers.
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kernels.arena import Arena
from supernets.norms.compact_norms import norm_tables
from supernets.norms.norm_tables import ResidentMemory, Storage, SubnetNormTable
from supernets.norms.statistics import Recorded, StatisticsTable, normalised
from supernets.space import Subnet
from supernets.supernet import ResidentForm, Supernet


class ResidentCopy(ResidentForm):
    """A copy of the net whose parameters, buffers and statistics are views of one arena."""

    def __init__(
        self,
        net: Supernet,
        device: torch.device,
        dtype: torch.dtype,
        norms: Storage = "auto",
        *,
        reason: str = "",
        arena_file: Path | None = None,
    ) -> None:
        """``reason`` says why there is no better form."""
        self.device, self.dtype, self.reason = device, dtype, reason
        self._norms = norm_tables(net.norms(), net.statistics, dtype, "mean-variance", norms)
        own = [*net.named_parameters(), *net.named_buffers()]
        held: dict[str, Tensor] = {name: t for name, t in own if t.is_floating_point()}
        self._arena = Arena({**held, **self._norms.slots}, device, dtype, file=arena_file)
        self._norms.attach(self._arena)
        # What a deep copy finds here it takes instead of copying: views for weights.
        memo: dict[int, Any] = {id(net.statistics): StatisticsTable()}
        for name, tensor in held.items():
            view = self._arena[name]
            is_weight = isinstance(tensor, nn.Parameter)
            memo[id(tensor)] = nn.Parameter(view, requires_grad=False) if is_weight else view
        self._net = copy.deepcopy(net, memo).eval().to(device)
        self._has_norms = bool(self._net.norms())

    @torch.inference_mode()
    def __call__(self, x: Tensor, subnet: Subnet) -> Tensor:
        x = x.to(self.dtype)
        if not self._has_norms:
            return self._net.run(x, subnet, Recorded({}))
        with self._norms.held(subnet) as table:
            return self._net.run(x, subnet, _FromTable(table))

    def tensors(self, subnet: Subnet) -> dict[str, Tensor]:
        own = [*self._net.named_parameters(), *self._net.named_buffers()]
        found: dict[str, Tensor] = {name: t for name, t in own if name in self._arena}
        if self._has_norms:
            for layer, (mean, var) in self._norms[subnet].layers().items():
                found[f"mean/{layer}"], found[f"var/{layer}"] = mean, var
        return found

    def memory(self) -> ResidentMemory:
        return ResidentMemory.of(self._arena, self._norms.memory())

    @property
    def arena(self) -> Arena:
        return self._arena


@dataclass(frozen=True, slots=True)
class _FromTable:
    """Normalise with the mean and variance of a row."""

    table: SubnetNormTable

    def __call__(self, x: Tensor, layer: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        return normalised(x, *self.table.layer(layer, x.shape[1]), weight, bias, eps)
