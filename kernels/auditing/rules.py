"""What a compiled kernel must be, and what is off about one. Pure."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from kernels.auditing.inspection import Facts

TABLE = Path(__file__).with_name("expected.json")
_DOT = re.compile(r"tt\.dot\b[^\n]*?(f16|bf16|f32)")


@dataclass(frozen=True, slots=True)
class Limit:
    """What one architecture has for a program: registers a thread, bytes of shared memory.

    ``stack`` is the bytes a thread that may be in local memory, by the bits of the elements. For 16
    none; in 32 ptxas keeps a number or two there to fit another program beside this one.
    """

    registers: int
    shared: int
    stack: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Requirement:
    """How one kernel reaches global memory where all its channel counts are multiples of 8.

    ``load`` and ``store`` are the bits of its widest access, at least; ``narrow`` the number of
    accesses of less than 32 bits, at most.
    """

    load: int
    store: int
    narrow: int


@dataclass(frozen=True, slots=True)
class Expected:
    """The committed table."""

    limits: Mapping[str, Limit]
    kernels: Mapping[str, Requirement]

    @classmethod
    def read(cls) -> Self:
        document: dict[str, Any] = json.loads(TABLE.read_text(encoding="utf-8"))
        return cls(
            {name: Limit(**entry) for name, entry in document["limits"].items()},
            {name: Requirement(**entry) for name, entry in document["kernels"].items()},
        )

    def unused(self, kernels: Iterable[str]) -> list[str]:
        """Kernels of the table that nothing launched: a rule that checks nothing."""
        return sorted(self.kernels.keys() - set(kernels))


def has_narrow_dot(ttir: str) -> bool:
    """Whether the program multiplies matrices of 16-bit numbers."""
    return any(kind in {"f16", "bf16"} for kind in _DOT.findall(ttir))


def problems(
    kernel: str,
    target: str,
    found: Facts,
    *,
    bits: int,
    narrow_dot: bool,
    aligned: bool,
    expected: Expected,
) -> list[str]:
    """Everything that is off, in words; empty where all is well. ``bits``: of an element."""
    limit, requirement = expected.limits[target], expected.kernels.get(kernel)
    off = []
    if found.stack > limit.stack[str(bits)] or (found.local and not found.stack):
        off.append(f"spills: {found.stack} bytes of stack, {found.local} local accesses")
    if found.registers > limit.registers:
        off.append(f"{found.registers} registers, more than {limit.registers}")
    if found.shared > limit.shared:
        off.append(f"{found.shared} bytes of shared memory, more than {limit.shared}")
    if narrow_dot and not found.tensor_cores:
        off.append("a 16-bit product without tensor cores")
    if requirement is None:
        off.append("not in the table of expectations")
    elif aligned:
        if max(found.loads, default=0) < requirement.load:
            off.append(f"no load of {requirement.load} bits: {found.loads}")
        if max(found.stores, default=0) < requirement.store:
            off.append(f"no store of {requirement.store} bits: {found.stores}")
        narrow = sum(n for kind in (found.loads, found.stores) for w, n in kind.items() if w < 32)
        if narrow > requirement.narrow:
            off.append(f"{narrow} accesses of less than 32 bits, more than {requirement.narrow}")
    return off
