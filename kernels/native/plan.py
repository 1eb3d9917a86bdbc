"""Compiles a program for the CPU: steps bound to memory, run by one call into `plan.inl`.

A plan belongs to one subnet, one size of image and one size of batch. It owns no weight: its steps
point into the arena. Activations lie in a workspace in which values that are never alive together
share their place, so that what a step reads is still in the cache.
"""

import ctypes
import threading
from collections.abc import Mapping

import torch
from torch import Tensor

from kernels import native
from kernels.activation import CODES
from kernels.native import structs
from kernels.native.steps import Bound, NotCompiled, bind, in_segments, lifetimes
from kernels.native.workspace import places
from kernels.program import Affine, Depthwise, Program, Value
from kernels.shapes import Shape
from kernels.weights import PANEL, Weight

NONE = -1
INPUT, OUTPUT = -1, -2

_OWN = threading.local()


def _workspace(floats: int) -> Tensor:
    """This thread's own, of at least that size: fresh pages can cost more than a step."""
    held: Tensor | None = getattr(_OWN, "workspace", None)
    if held is None or len(held) < floats:
        held = _OWN.workspace = torch.empty(floats)
    return held


class NativePlan:
    """``plan(x)`` for ``x`` [batch, H, W, C], float32 and contiguous: logits [batch, classes]."""

    def __init__(self, program: Program, image: Shape, batch: int) -> None:
        """Raises `NotCompiled`."""
        if native.library is None:
            raise NotCompiled("the CPU plans were not built at installation")
        self._tensors = tuple(program.tensors().values())  # the steps point into them
        self.batch, self.image = batch, image
        steps, aliases, shapes = bind(program, image)
        segments = in_segments(steps, shapes, batch)
        lives = lifetimes(steps, aliases, segments, shapes, program.output, batch)
        offsets, self._floats = places(lives.values())
        count = max(shapes) + 1
        at, sizes, whole = ([0] * count for _ in range(3))
        for value, shape in shapes.items():
            origin = aliases.get(value, value)
            sizes[value] = shape[0] * shape[1] * shape[2]
            if value in {0, program.output}:
                at[value], whole[value] = (OUTPUT if value else INPUT), 1
            elif origin in lives:
                at[value] = offsets[origin]
                whole[value] = int(lives[origin].whole)
        self._outputs = sizes[program.output]
        self.steps, self.segments = steps, segments
        self._steps = (structs.Step * len(steps))(*(_struct(step, shapes) for step in steps))
        self._segments = (structs.Segment * len(segments))(*(structs.Segment(*s) for s in segments))
        longs = ctypes.c_long * count
        self._tables = (longs(*at), longs(*sizes), longs(*whole))
        self._plan = structs.Plan(self._steps, self._segments, *self._tables, len(segments), count)

    def __call__(self, x: Tensor, seconds: Tensor | None = None) -> Tensor:
        """``seconds`` [steps], float64: what each step took is added to it."""
        assert native.library is not None
        out = torch.empty(self.batch, self._outputs)
        workspace = _workspace(self._floats)
        native.library.superserve_run(
            ctypes.byref(self._plan),
            workspace.data_ptr(),
            x.data_ptr(),
            out.data_ptr(),
            self.batch,
            None if seconds is None else seconds.data_ptr(),
        )
        return out


def _struct(step: Bound, shapes: Mapping[Value, Shape]) -> structs.Step:
    in_h, in_w, _ = shapes[step.x]
    out_h, out_w, channels = shapes[step.out]
    kernel, stride, padding = step.window
    made = structs.Step(
        step.kind,
        step.x,
        NONE if step.y is None else step.y,
        step.out,
        NONE if step.pooled is None else step.pooled,
        channels,
        window=structs.Window(in_h, in_w, out_h, out_w, kernel, stride, padding),
    )
    weight, affine, activation = step.product
    made.product = _product(weight, affine, activation)
    if step.depthwise is not None:
        made.filters = _filters(step.depthwise)
    return made


def _product(weight: Weight | None, affine: Affine, activation: str) -> structs.Product:
    scale, shift = _vector(affine.scale), _vector(affine.shift)
    code = CODES[activation]
    if weight is None:
        return structs.Product(0, 0, 0, 0, 0, scale, shift, 0, code)
    data = weight.data
    if weight.layout != "panels" or data.dtype is not torch.float32 or data.device.type != "cpu":
        raise NotCompiled(f"weights in {weight.layout} of {data.dtype} on {data.device}")
    assert data.stride()[2:] == (PANEL, 1)
    # Where there is one tap its stride means nothing to PyTorch, and may be anything.
    taps = data.stride(1) if data.shape[1] > 1 else 0
    panel = data.stride(0)
    return structs.Product(
        data.data_ptr(), panel, taps, data.shape[1], data.shape[2], scale, shift, weight.rows, code
    )


def _filters(step: Depthwise) -> structs.Filters:
    taps, affine = step.filters, step.affine
    if taps.dtype is not torch.float32 or taps.stride(2) != 1:
        raise NotCompiled(f"filters of {taps.dtype}, channels {taps.stride(2)} apart")
    return structs.Filters(
        taps.data_ptr(),
        taps.stride(1),
        _vector(affine.scale),
        _vector(affine.shift),
        taps.shape[0],
        step.stride,
        CODES[step.activation],
    )


def _vector(vector: Tensor | None) -> int | None:
    if vector is None:
        return None
    if vector.dtype is not torch.float32 or vector.stride(-1) != 1:
        raise NotCompiled(f"a norm of {vector.dtype}")
    return vector.data_ptr()
