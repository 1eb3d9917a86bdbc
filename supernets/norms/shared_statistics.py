"""Statistics of very many subnets in few bytes: what they have in common, and small differences.

Subnets that share their weights have statistics that are much alike. Over all subnets, a channel's
log σ and µ stay in a small range. Where its middle is near enough to all of them, it is all that is
kept. Otherwise the range is cut into steps, as few as are fine enough: a byte for each value,
seldom two, and four where that does not do. Equal vectors of two subnets are held once.

How near is near enough is measured in σ, which is what an error does to the normalised activation,
by decoding every value. Logarithms keep variances of any size: in float16 the smallest would vanish
and the largest overflow.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from supernets.norms.statistics import LayerStatistics, SubnetStatistics

# Largest error of µ in units of σ, and of log σ. A calibration on hundreds of images does not know
# them any better: benchmarks/subnet_norms.py measures both.
TOLERANCE = 0.005

ALIGNMENT = 64  # bytes
SIZES = (0, 1, 2, 4)  # bytes a value may take
_STEPS = {0: 0, 1: 254, 2: 65534}  # even numbers, so that the middle has a code
_TINY = 1e-38  # for σ² of a channel that never changes, in a layer without ε


@dataclass(frozen=True, slots=True)
class SharedStatistics:
    """log σ and µ of many subnets, where σ² = variance + ε, as codes.

    ``value = centre + step · (code − steps / 2)``, with a centre, a step and a size for each
    channel of each layer; of four bytes the code is the value itself, a float32. A *vector* is what
    one subnet has in one layer: the codes of log σ, then those of µ.
    """

    layers: tuple[tuple[int, int, int], ...]  # its id, its first channel, its first vector
    centres: Tensor  # float32 [2, channels of all layers]: of log σ and of µ
    steps: Tensor  # float32 [2, channels of all layers]
    sizes: Tensor  # uint8 [2, channels of all layers]
    codes: Tensor  # uint8: the bytes of all distinct vectors
    starts: Tensor  # int32 [distinct vectors + 1]: where each starts among the codes
    widths: Tensor  # int16 [distinct vectors]: channels
    vectors: Tensor  # int32: which vectors each subnet has, in execution order
    rows: Tensor  # int32 [subnets + 1]: where each subnet starts among the vectors
    error: float  # the largest one, in σ

    @classmethod
    def encode(
        cls,
        subnets: Sequence[SubnetStatistics],
        eps: Mapping[int, float],
        tolerance: float = TOLERANCE,
    ) -> Self:
        """Code the statistics of ``subnets``, which keep their order; ``eps`` is per layer id.

        Raises ``ValueError`` where statistics are not finite or a variance is negative.
        """
        members: dict[int, list[int]] = {}  # layer -> which subnets run it
        for index, subnet in enumerate(subnets):
            for layer in subnet:
                members.setdefault(layer, []).append(index)
        layers, quantised, first_channel, error = [], [], 0, 0.0
        contents: list[bytes] = []
        widths: list[int] = []
        found: list[dict[int, int]] = [{} for _ in subnets]
        for layer, indices in sorted(members.items()):
            values = _values([subnets[i][layer] for i in indices], eps[layer], layer)
            coded = _quantise(values, tolerance)
            layers.append((layer, first_channel, len(contents)))
            quantised.append(coded)
            first_channel += values.shape[2]
            error = max(error, coded.error)
            known: dict[tuple[int, bytes], int] = {}
            for place, index in enumerate(indices):
                width = len(subnets[index][layer].mean)
                key = width, coded.content(place, width)
                if key not in known:
                    known[key] = len(contents)
                    widths.append(width)
                    contents.append(key[1])
                found[index][layer] = known[key]
        order = [found[i][layer] for i, subnet in enumerate(subnets) for layer in subnet]
        return cls(
            layers=tuple(layers),
            centres=_joined([q.centre for q in quantised], np.float32),
            steps=_joined([q.step for q in quantised], np.float32),
            sizes=_joined([q.sizes for q in quantised], np.uint8),
            codes=torch.frombuffer(bytearray(b"".join(contents) or b"\0"), dtype=torch.uint8),
            starts=_running_sum(map(len, contents)),
            widths=torch.tensor(widths, dtype=torch.int16),
            vectors=torch.tensor(order, dtype=torch.int32),
            rows=_running_sum(map(len, subnets)),
            error=error,
        )

    def decode(self, subnet: int) -> "DecodedStatistics":
        """What was encoded as the ``subnet``-th, to the tolerance."""
        first, last = self.rows[subnet : subnet + 2].tolist()
        which = self.vectors[first:last].long()
        widths = self.widths[which].long()
        first_vectors = [vector for _, _, vector in self.layers]
        layers = [self.layers[bisect_right(first_vectors, v) - 1] for v in which.tolist()]
        first_channels = which.new_tensor([channel for _, channel, _ in layers])
        # The layers' channels side by side, as in a row: of each, its layer and its channel.
        layer = torch.arange(len(layers), device=which.device).repeat_interleave(widths)
        begins = widths.cumsum(0) - widths
        channel = torch.arange(len(layer), device=which.device) - begins[layer]
        channel += first_channels[layer]
        # Where its codes lie: log σ of the whole layer comes first, then µ.
        sizes = self.sizes[:, channel].long()
        places = sizes.cumsum(1) - sizes
        places += (self.starts[which].long() - places[:, begins])[:, layer]
        places[1] += sizes[0].new_zeros(len(layers)).index_add(0, layer, sizes[0])[layer]
        # Rounded twice, as when the errors were measured: an addcmul may round once.
        values = self.centres[:, channel] + self.steps[:, channel] * _numbers(
            self.codes, places, sizes
        )
        active = dict(zip((layer for layer, _, _ in layers), widths.tolist(), strict=True))
        return DecodedStatistics(active, channel, values[0], values[1])

    def spans(self) -> dict[int, slice]:
        """Layer id -> where its channels lie among those of all layers."""
        ends = [*(first for _, first, _ in self.layers[1:]), self.centres.shape[1]]
        return {
            layer: slice(first, end)
            for (layer, first, _), end in zip(self.layers, ends, strict=True)
        }

    def tensors(self) -> dict[str, Tensor]:
        """Everything whose size depends on channels or subnets."""
        return {f.name: v for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)}

    def nbytes(self) -> int:
        """Of what `packed` gives."""
        return sum(_aligned(tensor.nbytes) for tensor in self.tensors().values())

    def packed(self) -> Tensor:
        """All of them in one tensor, uint8, each aligned."""
        parts = (t.contiguous().view(-1).view(torch.uint8) for t in self.tensors().values())
        return torch.cat([F.pad(part, (0, -len(part) % ALIGNMENT)) for part in parts])

    def moved(self, packed: Tensor) -> Self:
        """The same with its tensors as views of what `packed` gave."""
        views: dict[str, Any] = {}
        start = 0
        for name, tensor in self.tensors().items():
            views[name] = (
                packed[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
            )
            start += _aligned(tensor.nbytes)
        return replace(self, **views)


@dataclass(frozen=True, slots=True)
class DecodedStatistics:
    """One subnet's, its layers side by side in execution order, float32 [their channels]."""

    channels: dict[int, int]  # layer id -> how many
    channel: Tensor  # int64: which of the channels of all layers
    log_sigma: Tensor
    mean: Tensor


@dataclass(frozen=True, slots=True)
class _Quantised:
    """log σ and µ of one layer in all subnets, as codes."""

    centre: npt.NDArray[np.float32]  # [2, C]
    step: npt.NDArray[np.float32]  # [2, C]
    sizes: npt.NDArray[np.uint8]  # [2, C]
    codes: npt.NDArray[np.uint8]  # [S, 2, C, 4], least byte first
    error: float

    def content(self, subnet: int, width: int) -> bytes:
        """The bytes of the first ``width`` channels, without those that are not used."""
        used = np.arange(4) < self.sizes[:, :width, None]
        return self.codes[subnet, :, :width][used].tobytes()


def _values(entries: Sequence[LayerStatistics], eps: float, layer: int) -> npt.NDArray[np.float64]:
    """Of one layer log σ and µ, [S, 2, C], NaN where a subnet is narrower."""
    widest = max(len(entry.mean) for entry in entries)
    values = np.full((len(entries), 2, widest), np.nan)
    for row, entry in zip(values, entries, strict=True):
        mean, var = (t.detach().double().cpu().numpy() for t in (entry.mean, entry.var))
        if not (np.isfinite(mean).all() and np.isfinite(var).all() and (var >= 0).all()):
            raise ValueError(f"the statistics of layer {layer} are not finite variances")
        row[0, : len(var)] = np.log(np.maximum(var + eps, _TINY)) / 2
        row[1, : len(mean)] = mean
    return values


def _quantise(values: npt.NDArray[np.float64], tolerance: float) -> _Quantised:
    """Each channel of ``values`` [S, 2, C] in the fewest bytes that keep to the tolerance."""
    least, most = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
    known = np.nan_to_num(values)
    in_sigma = np.stack([np.ones_like(values[:, 0]), np.exp(-values[:, 0])], axis=1)
    shape = least.shape
    centre, step = np.zeros(shape, np.float32), np.ones(shape, np.float32)
    codes, sizes = known.astype("<f4").view("<u4"), np.full(shape, 4, np.uint8)
    errors = _errors(values, known.astype(np.float32), in_sigma)
    for size in reversed(SIZES[:-1]):  # what is coarser replaces what is finer, where it does
        middle = ((least + most) / 2).astype(np.float32)
        width = ((most - least) / max(_STEPS[size], 1)).astype(np.float32)
        half = _STEPS[size] // 2
        number = np.divide(known - middle, width, out=np.zeros_like(known), where=width > 0)
        number = np.clip(np.rint(number), -half, half).astype(np.float32)
        found = _errors(values, middle + width * number, in_sigma)
        enough = found <= tolerance
        centre, step = np.where(enough, middle, centre), np.where(enough, width, step)
        codes = np.where(enough, (number + half).astype("<u4"), codes)
        sizes, errors = np.where(enough, np.uint8(size), sizes), np.where(enough, found, errors)
    codes = np.ascontiguousarray(codes).view(np.uint8).reshape(*values.shape, 4)
    return _Quantised(centre, step, sizes, codes, float(errors.max()))


def _errors(
    values: npt.NDArray[np.float64],
    decoded: npt.NDArray[np.float32],
    in_sigma: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """The largest over subnets, [2, C], in σ."""
    return np.nanmax(np.abs(decoded - values) * in_sigma, axis=0)


def _numbers(codes: Tensor, places: Tensor, sizes: Tensor) -> Tensor:
    """Values of ``sizes`` bytes each at ``places`` among the codes, as float32 of that shape."""
    whole = torch.zeros_like(sizes, dtype=torch.int32)
    for byte in range(4):
        found = codes[(places + byte).clamp_max(len(codes) - 1)].int()
        whole |= found.where(sizes > byte, 0) << 8 * byte
    halves = sizes.new_tensor([_STEPS.get(size, 0) // 2 for size in range(max(SIZES) + 1)])
    return whole.view(torch.float32).where(sizes == 4, (whole - halves[sizes]).float())


def _joined(parts: Sequence[npt.NDArray[np.generic]], dtype: npt.DTypeLike) -> Tensor:
    """Side by side, [2, channels of all layers]."""
    return torch.from_numpy(np.concatenate([np.zeros((2, 0), dtype), *parts], axis=1))


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def _running_sum(sizes: Iterable[int]) -> Tensor:
    return torch.tensor([0, *accumulate(sizes)], dtype=torch.int32)
