"""A step as PyTorch does it best without compiling: norms folded into weights of its own."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from kernels.activation import OUT_OF_PLACE
from kernels.ops.pool import pool
from kernels.program import (
    Activate,
    Add,
    Affine,
    Conv,
    Depthwise,
    DepthwiseProject,
    GlobalAverage,
    Head,
    Multiply,
    Pointwise,
    Pool,
    SqueezeExcite,
    Step,
    Value,
)

Values = dict[Value, Tensor]


def frozen(step: Step) -> Callable[[Values], Tensor]:
    """A function of the step's inputs, with contiguous weights that belong to no arena.

    The mean that a depthwise step may give besides is computed and not returned.
    """
    match step:
        case Pointwise():
            return _linear(step)
        case Conv():
            side = step.kernel
            weight, bias = _folded(step.weight.matrix().unflatten(1, (side, side)), step.affine)
            filters = weight.permute(0, 3, 1, 2)
            return lambda v: _end(
                _convolved(v[step.x], filters, bias, step.stride, step.padding), step, v
            )
        case Depthwise():
            return _depthwise(step)
        case DepthwiseProject():
            first, then = _depthwise(step.depthwise), _linear(step.project)
            middle = step.depthwise.out
            return lambda v: then({**v, middle: first(v)})
        case SqueezeExcite():
            reduce, expand = step.reduce.contiguous(), step.expand.contiguous()
            return lambda v: F.hardsigmoid(
                F.linear(
                    F.relu(F.linear(v[step.x], reduce, step.reduce_bias)), expand, step.expand_bias
                )
            )
        case Head():
            weight, bias = _folded(step.weight.matrix()[:, 0], step.affine)
            act = OUT_OF_PLACE[step.activation]
            return lambda v: act(F.linear(v[step.x].mean((1, 2)), weight, bias))
        case GlobalAverage():
            return lambda v: v[step.x].mean((1, 2))
        case Pool():
            return lambda v: pool(
                v[step.x], step.kind, step.window, step.stride, step.padding, step.ceil
            )
        case Multiply():
            return lambda v: v[step.x] * v[step.gate][:, None, None, :]
        case Add():
            return lambda v: OUT_OF_PLACE[step.activation](v[step.x] + v[step.y])
        case Activate():
            return lambda v: _activated(v[step.x], step)


def _linear(step: Pointwise) -> Callable[[Values], Tensor]:
    weight, bias = _folded(step.weight.matrix()[:, 0], step.affine)

    def call(values: Values) -> Tensor:
        x = values[step.x]
        if step.gate is not None:
            gate = values[step.gate]
            x = x * gate.view(len(gate), *([1] * (x.dim() - 2)), -1)
        return _end(F.linear(x, weight, bias), step, values)

    return call


def _depthwise(step: Depthwise) -> Callable[[Values], Tensor]:
    weight, bias = _folded(step.filters.permute(2, 0, 1)[:, None], step.affine)
    groups, padding = len(weight), step.filters.shape[0] // 2
    act = OUT_OF_PLACE[step.activation]

    def call(values: Values) -> Tensor:
        y = act(_convolved(values[step.x], weight, bias, step.stride, padding, groups))
        if step.pooled is not None:
            y.mean((1, 2))
        return y

    return call


def _convolved(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, groups: int = 1
) -> Tensor:
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, stride, padding, groups=groups)
    return y.permute(0, 2, 3, 1)


def _end(y: Tensor, step: Pointwise | Conv, values: Values) -> Tensor:
    y = y if step.residual is None else y + values[step.residual]
    return OUT_OF_PLACE[step.activation](y)


def _activated(x: Tensor, step: Activate) -> Tensor:
    y = x if step.affine.scale is None else x * step.affine.scale
    y = y if step.affine.shift is None else y + step.affine.shift
    return OUT_OF_PLACE[step.activation](y)


def _folded(weight: Tensor, affine: Affine) -> tuple[Tensor, Tensor | None]:
    """A contiguous weight [C_out, ...] times the norm's scale, and the shift as its bias."""
    made = weight
    if affine.scale is not None:
        scale = affine.scale.float().view(-1, *([1] * (weight.dim() - 1)))
        made = (weight.float() * scale).to(weight.dtype)
    return made.contiguous(), affine.shift
