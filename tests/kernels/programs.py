"""Small programs over slices of larger weights, the rest of which is not a number."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from kernels.activation import Activation
from kernels.binding import bind
from kernels.program import (
    Affine,
    Conv,
    Depthwise,
    Pointwise,
    Program,
    SqueezeExcite,
    Step,
    Value,
)
from kernels.weights import Layout, Weight, lay_out, prefix


@dataclass
class Builder:
    """Appends steps to a program; every weight is a prefix of a larger, poisoned one."""

    layout: Layout = "panels"
    dtype: torch.dtype = torch.float32
    steps: list[Step] = field(default_factory=list)
    last: Value = 0

    def new(self) -> Value:
        self.last += 1
        return self.last

    def add(self, step: Step) -> Value:
        self.steps.append(step)
        return step.out

    def weight(self, rows: int, columns: int, kernel: int = 1) -> Weight:
        whole = torch.full((rows + 5, columns + 3, kernel, kernel), torch.nan, dtype=self.dtype)
        whole[:rows, :columns] = torch.randn(rows, columns, kernel, kernel, dtype=self.dtype)
        whole /= (columns * kernel * kernel) ** 0.5
        return prefix(lay_out(whole, self.layout).contiguous(), rows, columns, self.layout)

    def vector(self, channels: int) -> Tensor:
        whole = torch.full((channels + 7,), torch.nan, dtype=self.dtype)
        whole[:channels] = torch.randn(channels, dtype=self.dtype)
        return whole[:channels]

    def affine(self, channels: int) -> Affine:
        return Affine(self.vector(channels), self.vector(channels))

    def bank(self, kernel: int, channels: int) -> Tensor:
        whole = torch.full((kernel, kernel, channels + 9), torch.nan, dtype=self.dtype)
        whole[..., :channels] = torch.randn(kernel, kernel, channels, dtype=self.dtype) / kernel
        return whole[..., :channels]

    def pointwise(
        self,
        x: Value,
        columns: int,
        rows: int,
        activation: Activation = "identity",
        *,
        residual: Value | None = None,
        gate: Value | None = None,
        affine: Affine | None = None,
    ) -> Value:
        weight = self.weight(rows, columns)
        after = self.affine(rows) if affine is None else affine
        return self.add(Pointwise(x, self.new(), weight, after, activation, residual, gate))

    def conv(
        self,
        x: Value,
        columns: int,
        rows: int,
        kernel: int,
        stride: int,
        activation: Activation = "relu",
        *,
        residual: Value | None = None,
    ) -> Value:
        weight, after = self.weight(rows, columns, kernel), self.affine(rows)
        step = Conv(x, self.new(), weight, kernel, stride, kernel // 2, after, activation, residual)
        return self.add(step)

    def depthwise(
        self,
        x: Value,
        channels: int,
        kernel: int,
        stride: int,
        activation: Activation = "h_swish",
        *,
        pool: bool = False,
    ) -> tuple[Value, Value | None]:
        out, pooled = self.new(), self.new() if pool else None
        bank, after = self.bank(kernel, channels), self.affine(channels)
        self.add(Depthwise(x, out, bank, stride, after, activation, pooled))
        return out, pooled

    def gates(self, pooled: Value, channels: int, squeezed: int) -> Value:
        """As the layout has it: one step over rows, or two products over panels."""
        if self.layout == "rows":
            reduce, expand = self.weight(squeezed, channels), self.weight(channels, squeezed)
            biases = self.vector(squeezed), self.vector(channels)
            step = SqueezeExcite(
                pooled, self.new(), reduce.data[:, 0], biases[0], expand.data[:, 0], biases[1]
            )
            return self.add(step)
        hidden = self.pointwise(
            pooled, channels, squeezed, "relu", affine=Affine(None, self.vector(squeezed))
        )
        bias = Affine(None, self.vector(channels))
        return self.pointwise(hidden, squeezed, channels, "h_sigmoid", affine=bias)

    def program(self, output: Value) -> Program:
        return Program(tuple(self.steps), output)


def in_float64(program: Program) -> Program:
    """The same steps in float64, to be the reference."""
    return bind(program, lambda tensor: tensor.double())
