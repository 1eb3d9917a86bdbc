"""Where SubnetNorm finds its mean and variance: per subnet, beside the shared weights."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from supernets.space import Subnet


class MissingStatistics(LookupError):
    """A subnet was run that nobody calibrated: its accuracy would collapse silently."""


@dataclass(frozen=True, slots=True, weakref_slot=True)
class LayerStatistics:
    """Running mean and variance of one normalisation layer, float32 [C]. Nobody writes to them."""

    mean: Tensor
    var: Tensor


SubnetStatistics = Mapping[int, LayerStatistics]  # layer id -> statistics, active layers only


class StatisticsTable:
    """The side table of SubnetNorm (SuperServe, NSDI'25, section 3.1): (subnet, layer) -> (µ, σ²).

    ``shared`` holds full-width statistics that every subnet falls back to by slicing its first
    channels, as the `ofa` package does. They come with a foreign checkpoint, and a subnet that
    relies on them counts as uncalibrated.

    Two subnets that are equal up to a layer have the same statistics there if they were calibrated
    on the same batches, so what is equal to the last bit is held once.
    """

    def __init__(self) -> None:
        self._entries: dict[Subnet, SubnetStatistics] = {}
        self._distinct: WeakValueDictionary[bytes, LayerStatistics] = WeakValueDictionary()
        self.shared: SubnetStatistics | None = None

    def __setitem__(self, subnet: Subnet, statistics: SubnetStatistics) -> None:
        self._entries[subnet] = {
            layer: self._distinct.setdefault(_content(entry), entry)
            for layer, entry in statistics.items()
        }

    def __getstate__(self) -> tuple[dict[Subnet, SubnetStatistics], SubnetStatistics | None]:
        """For copies and pickles: weak references go into neither."""
        return self._entries, self.shared

    def __setstate__(
        self, state: tuple[dict[Subnet, SubnetStatistics], SubnetStatistics | None]
    ) -> None:
        self.__init__()  # type: ignore[misc]
        entries, self.shared = state
        for subnet, statistics in entries.items():
            self[subnet] = statistics

    def __getitem__(self, subnet: Subnet) -> SubnetStatistics:
        """Raises `MissingStatistics` where there are neither own nor shared ones."""
        found = self._entries.get(subnet, self.shared)
        if found is None:
            raise MissingStatistics(
                f"subnet {subnet.id} ({subnet}) has no normalisation statistics; "
                "run supernets.calibrate(net, [subnet], batches) on training images first"
            )
        return found

    def __contains__(self, subnet: Subnet) -> bool:
        """Whether the subnet was calibrated itself."""
        return subnet in self._entries

    def __iter__(self) -> Iterator[Subnet]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __delitem__(self, subnet: Subnet) -> None:
        del self._entries[subnet]

    def nbytes(self) -> int:
        """Bytes of all per-subnet statistics, those that several subnets share counted once."""
        held = {id(layer): layer for entry in self._entries.values() for layer in entry.values()}
        return sum(layer.mean.nbytes + layer.var.nbytes for layer in held.values())


def _content(entry: LayerStatistics) -> bytes:
    """The same for what is equal to the last bit, on the same device and of the same type."""
    digest = hashlib.blake2b(f"{entry.mean.device} {entry.mean.dtype} {entry.var.dtype}".encode())
    for tensor in (entry.mean, entry.var):
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.digest()


class Normalisation(Protocol):
    """Which mean and variance a forward pass uses; passed down with the subnet, never stored."""

    def __call__(self, x: Tensor, layer: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        """Normalise ``x`` [N, C, H, W] for this normalisation layer; weight and bias are [C]."""
        ...


def batch_statistics(x: Tensor, layer: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:  # noqa: ARG001 - every Normalisation takes the layer
    """Training: normalise with the batch's own mean and variance, keep nothing."""
    return torch.batch_norm(x, weight, bias, None, None, True, 0.0, eps, False)


@dataclass(frozen=True, slots=True)
class Recorded:
    """Evaluation: one subnet's statistics, sliced to the active channels where they are shared."""

    statistics: SubnetStatistics

    def __call__(self, x: Tensor, layer: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        entry = self.statistics[layer]
        channels = x.shape[1]
        return normalised(x, entry.mean[:channels], entry.var[:channels], weight, bias, eps)


def normalised(
    x: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> Tensor:
    """``(x − mean) / √(var + eps) · weight + bias`` per channel of ``x`` [N, C, H, W].

    Where ``x`` has 16 bits, everything else is used in float32: a variance above 65504 is infinite
    in float16 and would silence its channel.
    """
    dtype = torch.float32 if x.dtype.itemsize < 4 else x.dtype
    mean, var, weight, bias = (t.to(dtype) for t in (mean, var, weight, bias))
    return torch.batch_norm(x, weight, bias, mean, var, False, 0.0, eps, False)


class Collector:
    """Calibration: batch statistics, averaged over batches weighted by their size.

    This is `set_running_statistics` of the Once-for-All code: each layer is normalised by its own
    batch on the way, and the biased batch variances are averaged.
    """

    def __init__(self) -> None:
        self._sums: dict[int, tuple[Tensor, Tensor, int]] = {}

    def __call__(self, x: Tensor, layer: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        # Two passes: several times quicker on a CPU than `torch.var_mean`, and just as accurate.
        mean = x.mean((0, 2, 3))
        var = (x - mean[:, None, None]).square_().mean((0, 2, 3))
        n = x.shape[0]
        old_mean, old_var, count = self._sums.get(layer, (0.0 * mean, 0.0 * var, 0))
        self._sums[layer] = (old_mean + n * mean, old_var + n * var, count + n)
        return torch.batch_norm(x, weight, bias, mean, var, False, 0.0, eps, False)

    def statistics(self) -> dict[int, LayerStatistics]:
        return {
            layer: LayerStatistics((mean / n).float(), (var / n).float())
            for layer, (mean, var, n) in self._sums.items()
        }
