"""What a compiled kernel uses, counted in its machine code. Pure: texts in, numbers out."""

import re
from collections import Counter
from dataclasses import dataclass

_OPCODE = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", re.MULTILINE)
_RESOURCE = re.compile(r"\b(REG|STACK|LOCAL):(\d+)")
_NARROW = {"U8": 8, "S8": 8, "U16": 16, "S16": 16, "64": 64, "128": 128}
_LOADS = {"LDG", "LDGSTS"}  # LDGSTS is cp.async: global to shared memory
_TENSOR_CORES = {"HGMMA", "HMMA", "QGMMA", "IMMA", "UTCHMMA"}


@dataclass(frozen=True, slots=True)
class Facts:
    """One kernel for one architecture. ``shared`` and ``stack`` are bytes, widths bits.

    Counts are of instructions in the text, not of executions.
    """

    registers: int
    stack: int
    shared: int
    loads: dict[int, int]
    stores: dict[int, int]
    local: int
    tensor_cores: dict[str, int]
    instructions: int

    @property
    def spills(self) -> bool:
        """Whether registers, or an array that no register can hold, went to local memory."""
        return self.local > 0 or self.stack > 0


def facts(sass: str, resources: str, shared: int) -> Facts:
    """From `nvdisasm`'s listing, ``cuobjdump --dump-resource-usage`` and Triton's shared memory.

    ``ValueError`` where either holds nothing that we know: an empty count must not pass for a
    clean one.
    """
    opcodes = Counter(_OPCODE.findall(sass))
    used: dict[str, int] = {}
    for name, value in _RESOURCE.findall(resources):
        used[name] = max(used.get(name, 0), int(value))
    if not opcodes or "REG" not in used:
        raise ValueError("no instructions, or no registers, in what the disassembler wrote")
    by_base: Counter[str] = Counter()
    for opcode, count in opcodes.items():
        by_base[opcode.split(".")[0]] += count
    return Facts(
        registers=used["REG"],
        stack=used.get("STACK", 0) + used.get("LOCAL", 0),
        shared=shared,
        loads=_widths(opcodes, _LOADS),
        stores=_widths(opcodes, {"STG"}),
        local=by_base["LDL"] + by_base["STL"],
        tensor_cores={name: by_base[name] for name in sorted(_TENSOR_CORES & by_base.keys())},
        instructions=opcodes.total(),
    )


def _widths(opcodes: Counter[str], bases: set[str]) -> dict[int, int]:
    widths: Counter[int] = Counter()
    for opcode, count in opcodes.items():
        base, *modifiers = opcode.split(".")
        if base in bases:
            widths[next((_NARROW[m] for m in modifiers if m in _NARROW), 32)] += count
    return dict(sorted(widths.items()))
