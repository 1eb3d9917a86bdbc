"""What one subnet computes, as a list of steps over slices of the arena: the unit of actuation.

A program is made once per subnet and copies no weight. Everything that runs a subnet (the ops one
by one, the compiled CPU plan, a CUDA graph), and everything that reasons about one (fusion, L2
windows, prefetch, the roofline), reads the same program.

Values are numbered: 0 is the input, and every step writes new numbers. Activations are NHWC,
[N, H, W, C], or [N, C] behind a global average.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields

from torch import Tensor

from kernels.activation import Activation
from kernels.weights import Weight

Value = int


@dataclass(frozen=True, slots=True)
class Affine:
    """What follows a matrix product, per channel [C]: a SubnetNorm, or a bias (no scale)."""

    scale: Tensor | None = None
    shift: Tensor | None = None


PLAIN = Affine()


@dataclass(frozen=True, slots=True)
class Pointwise:
    """out = act(affine((x · gate) Wᵀ) + residual), for every pixel of ``x``."""

    x: Value
    out: Value
    weight: Weight
    affine: Affine = PLAIN
    activation: Activation = "identity"
    residual: Value | None = None
    gate: Value | None = None  # [N, C_in]


@dataclass(frozen=True, slots=True)
class Conv:
    """out = act(affine(conv(x, W)) + residual), square kernel, symmetric zero padding."""

    x: Value
    out: Value
    weight: Weight
    kernel: int
    stride: int
    padding: int
    affine: Affine = PLAIN
    activation: Activation = "identity"
    residual: Value | None = None


@dataclass(frozen=True, slots=True)
class Depthwise:
    """out = act(affine(depthwise conv)), padding k // 2; ``pooled`` is its mean over pixels."""

    x: Value
    out: Value
    filters: Tensor  # [k, k, C], a prefix of a tap-major bank
    stride: int
    affine: Affine = PLAIN
    activation: Activation = "identity"
    pooled: Value | None = None  # [N, C]


@dataclass(frozen=True, slots=True)
class SqueezeExcite:
    """out [N, C] = h_sigmoid(W₂ relu(W₁ x + b₁) + b₂) of pooled ``x`` [N, C]: the gates."""

    x: Value
    out: Value
    reduce: Tensor  # [M, C]
    reduce_bias: Tensor
    expand: Tensor  # [C, M]
    expand_bias: Tensor


@dataclass(frozen=True, slots=True)
class DepthwiseProject:
    """`Depthwise` and the `Pointwise` behind it, without the activation between them in memory."""

    depthwise: Depthwise
    project: Pointwise

    @property
    def x(self) -> Value:
        return self.depthwise.x

    @property
    def out(self) -> Value:
        return self.project.out


@dataclass(frozen=True, slots=True)
class GlobalAverage:
    """out [N, C] = the mean over the pixels of ``x``."""

    x: Value
    out: Value


@dataclass(frozen=True, slots=True)
class Head:
    """out [N, C_out] = act(affine(mean(x) Wᵀ)): `GlobalAverage` and `Pointwise` in one."""

    x: Value
    out: Value
    weight: Weight
    affine: Affine = PLAIN
    activation: Activation = "identity"


@dataclass(frozen=True, slots=True)
class Pool:
    """Windows of ``window`` x ``window`` pixels; an average leaves out what is outside."""

    x: Value
    out: Value
    kind: str  # "max" or "average"
    window: int
    stride: int
    padding: int = 0
    ceil: bool = False


@dataclass(frozen=True, slots=True)
class Multiply:
    """out = x · gate, a gate [N, C] per image and channel."""

    x: Value
    gate: Value
    out: Value


@dataclass(frozen=True, slots=True)
class Add:
    """out = act(x + y)."""

    x: Value
    y: Value
    out: Value
    activation: Activation = "identity"


@dataclass(frozen=True, slots=True)
class Activate:
    """out = act(affine(x))."""

    x: Value
    out: Value
    affine: Affine = PLAIN
    activation: Activation = "identity"


Step = (
    Pointwise
    | Conv
    | Depthwise
    | SqueezeExcite
    | DepthwiseProject
    | GlobalAverage
    | Head
    | Pool
    | Multiply
    | Add
    | Activate
)


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Program:
    """The steps in execution order, and the value that is the answer."""

    steps: tuple[Step, ...]
    output: Value

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor that a run reads, by step and field: all of them views of the arena."""
        return {
            f"{index}.{name}": tensor
            for index, step in enumerate(self.steps)
            for name, tensor in step_tensors(step)
        }


def step_tensors(step: object) -> Iterator[tuple[str, Tensor]]:
    """The tensors that one step reads, by the path of field names."""
    for field in fields(step):  # type: ignore[arg-type]
        part = getattr(step, field.name)
        if isinstance(part, Tensor):
            yield field.name, part
        elif isinstance(part, Weight):
            yield field.name, part.data
        elif isinstance(part, Affine | Depthwise | Pointwise):
            yield from ((f"{field.name}.{name}", t) for name, t in step_tensors(part))


def reads(step: Step) -> tuple[Value, ...]:
    """The values that a step needs."""
    if isinstance(step, DepthwiseProject):
        inner = (*reads(step.depthwise), *reads(step.project))
        return tuple(value for value in inner if value != step.depthwise.out)
    named = (getattr(step, name, None) for name in ("x", "y", "residual", "gate"))
    return tuple(value for value in named if value is not None)


def writes(step: Step) -> tuple[Value, ...]:
    """The values that a step makes."""
    pooled = step.pooled if isinstance(step, Depthwise) else None
    return (step.out,) if pooled is None else (step.out, pooled)
