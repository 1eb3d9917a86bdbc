"""A program's tensors exchanged for others of the same shape: from shapes alone to an arena."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import TypeVar

from torch import Tensor

from kernels.program import Program

Part = TypeVar("Part")


def bind(program: Program, find: Callable[[Tensor], Tensor]) -> Program:
    """The same steps with ``find(tensor)`` in the place of every tensor that they read."""
    return replace(program, steps=tuple(_bound(step, find) for step in program.steps))


def _bound(part: Part, find: Callable[[Tensor], Tensor]) -> Part:
    changed: dict[str, object] = {}
    for field in fields(part):  # type: ignore[arg-type]
        value = getattr(part, field.name)
        if isinstance(value, Tensor):
            changed[field.name] = find(value)
        elif is_dataclass(value):
            changed[field.name] = _bound(value, find)
    return replace(part, **changed) if changed else part  # type: ignore[type-var]
