"""Runs a program step by step: the plain way, on any device and in any type."""

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from kernels.activation import OUT_OF_PLACE
from kernels.ops.conv import conv
from kernels.ops.conv import reference as conv_meaning
from kernels.ops.depthwise import depthwise
from kernels.ops.depthwise import reference as depthwise_meaning
from kernels.ops.depthwise_project import depthwise_project
from kernels.ops.depthwise_project import reference as depthwise_project_meaning
from kernels.ops.head import head
from kernels.ops.head import reference as head_meaning
from kernels.ops.pointwise import pointwise
from kernels.ops.pointwise import reference as pointwise_meaning
from kernels.ops.pool import pool
from kernels.ops.squeeze_excite import reference as squeeze_excite_meaning
from kernels.ops.squeeze_excite import squeeze_excite
from kernels.program import (
    Activate,
    Add,
    Conv,
    Depthwise,
    DepthwiseProject,
    GlobalAverage,
    Head,
    Multiply,
    Pointwise,
    Pool,
    Program,
    SqueezeExcite,
    Step,
    Value,
    reads,
    writes,
)

Ops = Literal["fast", "plain"]
"""The registered ops, by device, or their meaning in plain PyTorch."""

_FAST: dict[str, Callable[..., object]] = {
    "pointwise": pointwise,
    "conv": conv,
    "depthwise": depthwise,
    "depthwise_project": depthwise_project,
    "squeeze_excite": squeeze_excite,
    "head": head,
}
_PLAIN: dict[str, Callable[..., object]] = {
    "pointwise": pointwise_meaning.pointwise,
    "conv": conv_meaning.conv,
    "depthwise": depthwise_meaning.depthwise,
    "depthwise_project": depthwise_project_meaning.depthwise_project,
    "squeeze_excite": squeeze_excite_meaning.squeeze_excite,
    "head": head_meaning.head,
}


def execute(
    program: Program,
    x: Tensor,
    ops: Ops = "fast",
    before: Callable[[int, Step], None] | None = None,
) -> Tensor:
    """The program's answer for ``x`` [N, H, W, C], of the type and on the device of its weights.

    ``before`` is called with each step's index just before it runs. A value is let go as soon as no
    later step reads it.
    """
    last = {value: index for index, step in enumerate(program.steps) for value in reads(step)}
    last[program.output] = len(program.steps)
    values: dict[Value, Tensor] = {0: x}
    for index, step in enumerate(program.steps):
        if before is not None:
            before(index, step)
        values.update(zip(writes(step), run_step(step, values, ops), strict=True))
        for value in reads(step):
            if last[value] == index:
                values.pop(value, None)
    return values[program.output]


def run_step(step: Step, values: dict[Value, Tensor], ops: Ops = "fast") -> tuple[Tensor, ...]:
    """What ``step`` writes, in the order of `kernels.program.writes`."""
    call = _FAST if ops == "fast" else _PLAIN
    result: object
    match step:
        case Pointwise():
            result = call["pointwise"](
                values[step.x], step.weight.matrix()[:, 0], step.affine.scale, step.affine.shift,
                step.activation, _get(values, step.residual), _get(values, step.gate),
            )  # fmt: skip
        case Conv():
            result = call["conv"](
                values[step.x], step.weight.matrix(), step.affine.scale, step.affine.shift,
                step.stride, step.padding, step.activation, _get(values, step.residual),
            )  # fmt: skip
        case Depthwise():
            scale, shift = _both(step.affine.scale, step.affine.shift, step.filters)
            made = call["depthwise"](
                values[step.x], step.filters, scale, shift, step.stride, step.activation,
                step.pooled is not None,
            )  # fmt: skip
            assert isinstance(made, tuple)
            return made if step.pooled is not None else made[:1]
        case DepthwiseProject():
            inner, outer = step.depthwise, step.project
            scale, shift = _both(inner.affine.scale, inner.affine.shift, inner.filters)
            result = call["depthwise_project"](
                values[inner.x], inner.filters, scale, shift, inner.stride, inner.activation,
                outer.weight.matrix()[:, 0], outer.affine.scale, outer.affine.shift,
                outer.activation, _get(values, outer.residual),
            )  # fmt: skip
        case SqueezeExcite():
            result = call["squeeze_excite"](
                values[step.x], step.reduce, step.reduce_bias, step.expand, step.expand_bias
            )
        case Head():
            result = call["head"](
                values[step.x], step.weight.matrix()[:, 0], step.affine.scale, step.affine.shift,
                step.activation,
            )  # fmt: skip
        case GlobalAverage():
            result = values[step.x].mean((1, 2))
        case Pool():
            result = pool(
                values[step.x], step.kind, step.window, step.stride, step.padding, step.ceil
            )
        case Multiply():
            result = values[step.x] * values[step.gate][:, None, None, :]
        case Add():
            result = OUT_OF_PLACE[step.activation](values[step.x] + values[step.y])
        case Activate():
            result = OUT_OF_PLACE[step.activation](_affine(values[step.x], step))
    assert isinstance(result, Tensor)
    return (result,)


def _get(values: dict[Value, Tensor], value: Value | None) -> Tensor | None:
    return None if value is None else values[value]


def _both(scale: Tensor | None, shift: Tensor | None, like: Tensor) -> tuple[Tensor, Tensor]:
    channels = like.shape[-1:]
    return (
        like.new_ones(channels) if scale is None else scale,
        like.new_zeros(channels) if shift is None else shift,
    )


def _affine(x: Tensor, step: Activate) -> Tensor:
    y = x if step.affine.scale is None else x * step.affine.scale
    return y if step.affine.shift is None else y + step.affine.shift
