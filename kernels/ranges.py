"""Which bytes of memory tensors lie in, as disjoint ranges. Pure.

Ranges are an int64 array [n, 2] of half-open (start, end) addresses, ascending, neither empty nor
touching each other.
"""

from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor

from kernels.program import Program

Ranges: TypeAlias = npt.NDArray[np.int64]

NONE: Ranges = np.empty((0, 2), np.int64)


def tensor_ranges(tensor: Tensor) -> Ranges:
    """The bytes of every element, wherever the strides lead; ``ValueError`` for negative ones."""
    if tensor.numel() == 0:
        return NONE
    run, starts = tensor.element_size(), np.array([tensor.data_ptr()], np.int64)
    sides = sorted(zip(tensor.stride(), tensor.shape, strict=True))
    for stride, size in sides:
        step = stride * tensor.element_size()
        if step < 0:
            raise ValueError(f"a tensor with strides {tensor.stride()}")
        if len(starts) == 1 and step <= run:  # what lies side by side stays one range
            run += step * (size - 1)
        else:
            starts = (starts[:, None] + step * np.arange(size)).ravel()
    return merged(np.stack([starts, starts + run], axis=1))


def merged(ranges: npt.ArrayLike) -> Ranges:
    """The union of any (start, end), in any order."""
    pairs = np.asarray(ranges, np.int64).reshape(-1, 2)
    pairs = pairs[pairs[:, 0] < pairs[:, 1]]
    if len(pairs) == 0:
        return NONE
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    reach = np.maximum.accumulate(pairs[:, 1])
    first = np.concatenate([[True], pairs[1:, 0] > reach[:-1]])
    last = np.concatenate([first[1:], [True]])
    return np.stack([pairs[first, 0], reach[last]], axis=1)


def union(parts: Iterable[Ranges]) -> Ranges:
    """What lies in any of the parts."""
    return merged(np.concatenate([NONE, *parts]))


def difference(ranges: Ranges, without: Ranges) -> Ranges:
    """What lies in ``ranges`` and not in ``without``."""
    cuts = np.unique(np.concatenate([ranges.ravel(), without.ravel()]))
    starts, ends = cuts[:-1], cuts[1:]
    kept = _inside(starts, ranges) & ~_inside(starts, without)
    return merged(np.stack([starts[kept], ends[kept]], axis=1))


def widened(ranges: Ranges, line: int) -> Ranges:
    """Every range out to multiples of ``line``: what a cache holds once it has been read."""
    return merged(np.stack([ranges[:, 0] // line * line, -(-ranges[:, 1] // line) * line], axis=1))


def size(ranges: Ranges) -> int:
    """Bytes."""
    return int((ranges[:, 1] - ranges[:, 0]).sum())


def program_ranges(program: Program) -> Ranges:
    """All bytes that a run of the program reads besides its input."""
    return union(tensor_ranges(tensor) for tensor in program.tensors().values())


def added(before: Program | None, now: Program) -> Ranges:
    """The bytes that ``now`` reads and ``before`` did not: what a switch between them adds."""
    return difference(program_ranges(now), NONE if before is None else program_ranges(before))


def _inside(points: npt.NDArray[np.int64], ranges: Ranges) -> npt.NDArray[np.bool_]:
    if len(ranges) == 0:
        return np.zeros(len(points), bool)
    at = np.searchsorted(ranges[:, 0], points, side="right") - 1
    return (at >= 0) & (points < ranges[np.maximum(at, 0), 1])
