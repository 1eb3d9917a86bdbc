"""What each of PyTorch's ops that a forward pass calls becomes in a program.

A rule is called as the op is, with the `Recorder` in front: it records the steps, and returns what
the op would, without values. An op of weights alone is none of its business.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kernels.activation import Activation
from kernels.program import (
    PLAIN,
    Add,
    Affine,
    Conv,
    Depthwise,
    GlobalAverage,
    Multiply,
    Pointwise,
    Pool,
)
from supernets.recording import NotLowered, Recorder
from supernets.stored_weights import storage


def _convolution(
    to: Recorder,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Tensor:
    del output_padding  # of transposed ones
    shapes = zip(weight.shape[2:], stride, padding, dilation, strict=True)
    (kernel, step, pad, gap), *others = shapes
    if transposed or gap != 1 or others != [(kernel, step, pad, gap)]:
        raise NotLowered("a convolution that is transposed, dilated or not square")
    affine, out = _bias(to, bias), to.new()
    size = [(n + 2 * pad - kernel) // step + 1 for n in x.shape[2:]]
    filters = to.bank(weight)
    vector = False
    if filters is not None:
        if groups != x.shape[1] or pad != kernel // 2 or kernel % 2 == 0 or to.is_vector(x):
            raise NotLowered("a depthwise convolution of another form than k // 2 padding, odd k")
        to.steps.append(Depthwise(to.value(x), out, filters, step, affine))
    elif groups != 1:
        raise NotLowered("a grouped convolution")
    elif kernel == step == 1 and pad == 0:
        vector = to.is_vector(x)
        to.steps.append(Pointwise(to.value(x), out, to.matrix(weight), affine))
    elif to.is_vector(x):
        raise NotLowered("a convolution over one pixel")
    else:
        to.steps.append(Conv(to.value(x), out, to.matrix(weight), kernel, step, pad, affine))
    return to.give(out, (x.shape[0], weight.shape[0], *size), vector=vector)


def _linear(to: Recorder, x: Tensor, transposed: Tensor, affine: Affine = PLAIN) -> Tensor:
    """``x`` [N, I] times a weight that is seen as [I, O]."""
    out, value = to.new(), to.vector(x)
    to.steps.append(Pointwise(value, out, to.matrix(transposed.t()), affine))
    return to.give(out, (x.shape[0], transposed.shape[1]), vector=True)


def _addmm(
    to: Recorder, bias: Tensor, x: Tensor, transposed: Tensor, beta: float = 1, alpha: float = 1
) -> Tensor:
    if beta != 1 or alpha != 1 or to.knows(bias) or bias.numel() != transposed.shape[1]:
        raise NotLowered("a matrix product that is no linear layer")
    return _linear(to, x, transposed, _bias(to, bias))


def _bias(to: Recorder, bias: Tensor | None) -> Affine:
    return PLAIN if bias is None else Affine(shift=to.per_channel(bias))


def _batch_norm(
    to: Recorder,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Of an `nn.BatchNorm2d`; a SubnetNorm comes as `Recorder.normalise`."""
    del momentum
    if training or mean is None or var is None:
        raise NotLowered("a normalisation by the batch's own statistics")
    scale, shift = to.per_channel(mean, "norm"), to.per_channel(var, "norm")
    norm = to.skeleton.batch_norms[storage(mean)]
    given, own = (weight, bias, var), (norm.weight, norm.bias, norm.running_var)
    if eps != norm.eps or list(map(_origin, given)) != list(map(_origin, own)):
        raise NotLowered("a batch norm with another one's weights")
    y = to.activate(x, "identity", Affine(scale, shift))
    return y, x.new_empty(0), x.new_empty(0)


def _origin(tensor: Tensor | None) -> tuple[int, int] | None:
    return None if tensor is None else (storage(tensor), int(tensor.storage_offset()))


def _activation(to: Recorder, x: Tensor, *, activation: Activation) -> Tensor:
    return to.activate(x, activation)


def _in_place(rule: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The rule of an op that puts its result where its first argument was."""

    def changed(to: Recorder, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        to.value(x)  # a weight is not to be changed
        y = rule(to, x, *args, **kwargs)
        to.hold(x, to.value(y), vector=to.is_vector(y))
        return x

    return changed


def _add(to: Recorder, x: Tensor, y: Any, alpha: float = 1) -> Tensor:
    if not to.knows(x):
        x, y = y, x
    if alpha != 1:
        raise NotLowered("a weighted sum")
    if not to.knows(y):
        return to.activate(x, "identity", Affine(shift=_broadcast(to, x, y)))
    if x.shape != y.shape:
        raise NotLowered(f"a sum of {tuple(x.shape)} and {tuple(y.shape)}")
    vector = to.is_vector(x) or to.is_vector(y)
    one, other = (to.vector(x), to.vector(y)) if vector else (to.value(x), to.value(y))
    out = to.new()
    to.steps.append(Add(one, other, out))
    return to.give(out, x.shape, vector=vector)


def _multiply(to: Recorder, x: Tensor, y: Any) -> Tensor:
    if not to.knows(x) or (to.knows(y) and to.is_vector(x)):
        x, y = y, x
    if not to.knows(y):
        return to.activate(x, "identity", Affine(scale=_broadcast(to, x, y)))
    if to.is_vector(x) or x.dim() != 4 or y.shape != (*x.shape[:2], 1, 1):
        raise NotLowered(f"a product of {tuple(x.shape)} and {tuple(y.shape)}")
    gate, out = to.vector(y), to.new()
    to.steps.append(Multiply(to.value(x), gate, out))
    return to.give(out, x.shape, vector=False)


def _broadcast(to: Recorder, x: Tensor, weight: Any) -> Tensor:
    """A weight with one number for each channel of ``x`` [N, C, ...]."""
    if not isinstance(weight, Tensor):
        raise NotLowered("a sum or product with a number")
    expected = (x.shape[1], *(1 for _ in x.shape[2:]))
    if tuple(weight.shape)[-len(expected) :] != expected or weight.numel() != x.shape[1]:
        raise NotLowered(f"a sum or product with a weight {tuple(weight.shape)}")
    return to.per_channel(weight)


def _mean(
    to: Recorder, x: Tensor, dim: Sequence[int], keepdim: bool = False, dtype: Any = None
) -> Tensor:
    if x.dim() != 4 or sorted(d % 4 for d in dim) != [2, 3] or dtype not in {None, x.dtype}:
        raise NotLowered(f"a mean over dimensions {list(dim)}")
    shape = (*x.shape[:2], 1, 1) if keepdim else x.shape[:2]
    return _pooled(to, x, shape)


def _pooled(to: Recorder, x: Tensor, shape: Sequence[int]) -> Tensor:
    """The mean over all pixels."""
    if to.is_vector(x):
        return to.give(to.value(x), shape, vector=True)
    out = to.new()
    to.steps.append(GlobalAverage(to.value(x), out))
    return to.give(out, shape, vector=True)


def _max_pool(
    to: Recorder,
    x: Tensor,
    window: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil: bool = False,
) -> tuple[Tensor, Tensor]:
    if set(dilation) != {1}:
        raise NotLowered("a dilated pooling")
    y = _pool(to, x, "max", window, stride, padding, ceil)
    return y, x.new_empty(0)


def _average_pool(
    to: Recorder,
    x: Tensor,
    window: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil: bool = False,
    count_padding: bool = True,
    divisor: int | None = None,
) -> Tensor:
    if divisor is not None or (count_padding and set(padding) != {0}):
        raise NotLowered("an average that counts what is outside the image")
    if (*window, *window)[:2] == tuple(x.shape[2:]) and set(padding) == {0}:
        return _pooled(to, x, (*x.shape[:2], 1, 1))
    return _pool(to, x, "average", window, stride, padding, ceil)


def _pool(
    to: Recorder,
    x: Tensor,
    kind: str,
    window: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil: bool,
) -> Tensor:
    sizes = [set(size) for size in (window, stride or window, padding)]
    if x.dim() != 4 or to.is_vector(x) or any(len(size) > 1 for size in sizes):
        raise NotLowered("a pooling that is not square")
    (side,), (step,), (pad,) = sizes
    pooling = torch.nn.functional.max_pool2d if kind == "max" else torch.nn.functional.avg_pool2d
    shape = pooling(torch.empty_like(x), side, step, pad, ceil_mode=ceil).shape
    out = to.new()
    to.steps.append(Pool(to.value(x), out, kind, side, step, pad, ceil))
    return to.give(out, shape, vector=False)


def _adaptive_pool(to: Recorder, x: Tensor, size: Sequence[int]) -> Tensor:
    if set(size) != {1}:
        raise NotLowered(f"a pooling to {tuple(size)} pixels")
    return _pooled(to, x, (*x.shape[:2], 1, 1))


def _same(op: Any) -> Callable[..., Tensor]:
    """The rule of an op whose result is the same activation in another shape, memory or object."""

    def same(to: Recorder, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        y = op(x, *args, **kwargs)
        if y.dtype != x.dtype or y.device != x.device:
            raise NotLowered(f"a conversion to {y.dtype}")
        pixel = math.prod(x.shape[2:]) == math.prod(y.shape[2:]) == 1
        if y.shape != x.shape and not (y.shape[:2] == x.shape[:2] and pixel):
            raise NotLowered(f"{tuple(x.shape)} seen as {tuple(y.shape)}")
        if storage(y) == storage(x):
            to.keep(y)
            return y
        return to.give(to.value(x), y.shape, vector=to.is_vector(x))

    return same


aten = torch.ops.aten
_SAME = (
    aten.view.default,
    aten._unsafe_view.default,  # noqa: SLF001
    aten.reshape.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.unsqueeze.default,
    aten.alias.default,
    aten.detach.default,
    aten.clone.default,
    aten._to_copy.default,  # noqa: SLF001
)
_ACTIVATIONS: dict[Any, Activation] = {
    aten.relu: "relu",
    aten.hardswish: "h_swish",
    aten.hardsigmoid: "h_sigmoid",
}
RULES: dict[Any, Callable[..., Any]] = {
    aten.convolution.default: _convolution,
    aten.mm.default: _linear,
    aten.addmm.default: _addmm,
    aten.native_batch_norm.default: _batch_norm,
    aten.add.Tensor: _add,
    aten.mul.Tensor: _multiply,
    aten.add_.Tensor: _in_place(_add),
    aten.mul_.Tensor: _in_place(_multiply),
    aten.mean.dim: _mean,
    aten._adaptive_avg_pool2d.default: _adaptive_pool,  # noqa: SLF001
    aten.max_pool2d_with_indices.default: _max_pool,
    aten.avg_pool2d.default: _average_pool,
    **{op: _same(op) for op in _SAME},
}
for _packet, _name in _ACTIVATIONS.items():
    _rule = partial(_activation, activation=_name)
    RULES[_packet.default] = _rule
    RULES[getattr(aten, f"{_packet.__name__}_").default] = _in_place(_rule)
