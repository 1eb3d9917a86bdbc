"""The steps of a program one by one, each with the numbers that it reads in a whole run."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from kernels.binding import bind
from kernels.execute import run_step
from kernels.program import Program, Step, Value, reads, step_tensors, writes


@dataclass(frozen=True, slots=True)
class Work:
    """One step of a program, its inputs in the program's type, and its meaning in float64."""

    index: int
    step: Step
    exact: Step  # with tensors in float64
    inputs: dict[Value, Tensor]

    def reference(self) -> tuple[Tensor, ...]:
        """What the step gives of exactly these inputs, in float64."""
        return run_step(self.exact, {v: t.double() for v, t in self.inputs.items()}, "plain")


@torch.no_grad()
def walk(program: Program, x: Tensor) -> Iterator[Work]:
    """Every step in order; ``x`` [N, H, W, C] has the program's type.

    Between steps the values are float64, rounded where a step reads them: an error of one step
    does not become the next one's.
    """
    exact = bind(program, lambda tensor: tensor.double())
    last = {value: index for index, step in enumerate(program.steps) for value in reads(step)}
    values: dict[Value, Tensor] = {0: x.double()}
    for index, (step, meaning) in enumerate(zip(program.steps, exact.steps, strict=True)):
        yield Work(index, step, meaning, {v: values[v].to(x.dtype) for v in reads(step)})
        made = run_step(meaning, values, "plain")
        values.update(zip(writes(step), made, strict=True))
        for value in reads(step):
            if last[value] == index:
                values.pop(value, None)


def label(work: Work) -> str:
    """The op, its shapes and its options: equal for steps that do the same work."""
    step = work.step
    shapes = [f"x{_shape(work.inputs[reads(step)[0]])}"]
    shapes += [
        f"{name.removesuffix('.data')}{_shape(tensor)}/{'x'.join(map(str, tensor.stride()))}"
        for name, tensor in step_tensors(step)
        if tensor.dim() > 1
    ]
    return f"{type(step).__name__} {' '.join(shapes)} {' '.join(_options(step))}".strip()


def _options(step: Any) -> Iterator[str]:
    """Whatever else changes what a kernel does."""
    for field in fields(step):
        value = getattr(step, field.name)
        if field.name in {"kernel", "stride", "padding", "activation", "window", "kind"}:
            yield f"{field.name}={value}"
        elif field.name in {"residual", "gate", "pooled"} and value is not None:
            yield field.name
        elif field.name in {"depthwise", "project"}:
            yield from _options(value)


def _shape(tensor: Tensor) -> str:
    return f"[{','.join(map(str, tensor.shape))}]"
