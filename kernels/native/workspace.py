"""Where activations lie: values that are never alive together share memory. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

ALIGNMENT = 16  # floats


@dataclass(frozen=True, slots=True)
class Life:
    """A value is alive from step ``first`` to step ``last``, both inclusive."""

    value: int
    first: int
    last: int
    floats: int
    whole: bool  # holds the whole batch, not only the part at work


def places(lives: Iterable[Life]) -> tuple[dict[int, int], int]:
    """The offset of each value, in floats, and how many floats there are in all.

    First fit in order of birth: the lowest gap between the values that are alive at the same time.
    Low addresses are thus used again and again, and stay in the cache.
    """
    placed: list[tuple[Life, int]] = []
    offsets: dict[int, int] = {}
    total = 0
    for life in sorted(lives, key=lambda life: (life.first, -life.floats)):
        others = sorted(
            (offset, offset + _rounded(other.floats))
            for other, offset in placed
            if other.first <= life.last and life.first <= other.last
        )
        at = 0
        for begin, end in others:
            if at + _rounded(life.floats) <= begin:
                break
            at = max(at, end)
        placed.append((life, at))
        offsets[life.value] = at
        total = max(total, at + _rounded(life.floats))
    return offsets, total


def _rounded(floats: int) -> int:
    return -(-floats // ALIGNMENT) * ALIGNMENT
