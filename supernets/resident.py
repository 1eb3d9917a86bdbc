"""A resident form for any supernet: its own forward pass over parameters that lie in one arena.

Families with kernels of their own (OFA MobileNetV3) override `Supernet.resident`; this is what a
user's supernet gets without doing anything.
"""

import copy

import torch
from torch import Tensor, nn

from kernels.arena import Arena
from supernets.space import Subnet
from supernets.statistics import LayerStatistics, Recorded, StatisticsTable
from supernets.supernet import ResidentForm, Supernet


class ResidentCopy(ResidentForm):
    """A copy of the net whose parameters, buffers and statistics are views of one arena."""

    def __init__(self, net: Supernet, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        own = [*net.named_parameters(), *net.named_buffers()]
        held: dict[str, Tensor] = {name: t for name, t in own if t.is_floating_point()}
        for subnet in net.statistics:
            for layer, entry in net.statistics[subnet].items():
                held[f"mean/{subnet.id}/{layer}"] = entry.mean
                held[f"var/{subnet.id}/{layer}"] = entry.var
        if net.statistics.shared is not None:
            for layer, entry in net.statistics.shared.items():
                held[f"mean/shared/{layer}"] = entry.mean
                held[f"var/shared/{layer}"] = entry.var
        self._arena = Arena(held, device, dtype)
        self._statistics = StatisticsTable()
        for subnet in net.statistics:
            self._statistics[subnet] = self._views(subnet.id, net.statistics[subnet])
        if net.statistics.shared is not None:
            self._statistics.shared = self._views("shared", net.statistics.shared)
        self._net = copy.deepcopy(net).eval().requires_grad_(requires_grad=False).to(device)
        self._net.statistics = self._statistics
        for path, module in self._net.named_modules():
            self._adopt(path, module)

    def _views(self, key: str, layers: object) -> dict[int, LayerStatistics]:
        return {
            layer: LayerStatistics(
                self._arena[f"mean/{key}/{layer}"], self._arena[f"var/{key}/{layer}"]
            )
            for layer in layers  # type: ignore[attr-defined]
        }

    def _adopt(self, path: str, module: nn.Module) -> None:
        """Make the module's own tensors views of the arena."""
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for name, tensor in own:
            full = f"{path}.{name}".lstrip(".")
            if full in self._arena:
                tensor.data = self._arena[full]

    @torch.inference_mode()
    def __call__(self, x: Tensor, subnet: Subnet) -> Tensor:
        normalise = Recorded(self._statistics[subnet] if self._net.norms() else {})
        return self._net.run(x.to(self.dtype), subnet, normalise)

    def tensors(self, subnet: Subnet) -> dict[str, Tensor]:
        own = [*self._net.named_parameters(), *self._net.named_buffers()]
        found: dict[str, Tensor] = {name: t for name, t in own if name in self._arena}
        for layer, entry in self._statistics[subnet].items() if self._net.norms() else ():
            found[f"mean/{layer}"], found[f"var/{layer}"] = entry.mean, entry.var
        return found

    @property
    def arena(self) -> Arena:
        return self._arena
