"""A program as compiled steps: what is done together, what shares memory, how long. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from kernels.native.structs import Kind
from kernels.native.workspace import Life
from kernels.program import (
    PLAIN,
    Activate,
    Add,
    Affine,
    Conv,
    Depthwise,
    GlobalAverage,
    Multiply,
    Pointwise,
    Pool,
    Program,
    Step,
    Value,
    reads,
)
from kernels.shapes import Shape, value_shapes
from kernels.weights import Weight

# Bytes of the widest activations that a step works on at once. A batch of large images is taken in
# parts, so that what one step writes is in the cache when the next one reads it.
WORKING_SET = 1 << 20
_KERNELS, _STRIDES = (3, 5, 7), (1, 2)


class NotCompiled(TypeError):
    """A program with a step, a type or a layout that the compiled plans do not know."""


@dataclass(frozen=True, slots=True)
class Bound:
    """One compiled step before it has a place: which values it uses, and the struct."""

    kind: Kind
    x: Value
    out: Value
    y: Value | None = None
    pooled: Value | None = None
    product: tuple[Weight | None, Affine, str] = (None, PLAIN, "identity")
    depthwise: Depthwise | None = None
    window: tuple[int, int, int] = (1, 1, 0)  # kernel, stride, padding

    def values(self) -> Iterator[Value]:
        yield from (v for v in (self.x, self.y, self.out, self.pooled) if v is not None)


def bind(
    program: Program, image: Shape
) -> tuple[list[Bound], dict[Value, Value], dict[Value, Shape]]:
    """The steps as they are compiled, which values share another's memory, and all shapes.

    A product whose only reader is a depthwise convolution is done inside it; gates are applied in
    place before the product that asked for them.
    """
    shapes, aliases = value_shapes(program, image), dict[Value, Value]()
    readers: dict[Value, list[Step]] = {program.output: []}
    for step in program.steps:
        for value in reads(step):
            readers.setdefault(value, []).append(step)
    expansions: dict[Value, Pointwise] = {}
    bound: list[Bound] = []
    for step in program.steps:
        if isinstance(step, Pointwise) and _is_expansion(step, readers.get(step.out, [])):
            expansions[step.out] = step
        elif isinstance(step, Depthwise):
            bound.append(_depthwise(step, expansions.get(step.x)))
        elif isinstance(step, Pointwise) and step.gate is not None:
            scaled, origin = max(shapes) + 1, step.x
            shapes[scaled] = shapes[step.x]
            if len(readers[step.x]) == 1 and step.x != 0:
                aliases[scaled] = aliases.get(origin, origin)
            bound.append(Bound(Kind.SCALE, step.x, scaled, step.gate))
            bound.append(_bound(replace(step, x=scaled, gate=None)))
        else:
            bound.append(_bound(step))
    return bound, aliases, shapes


def _is_expansion(step: Pointwise, readers: list[Step]) -> bool:
    fits = len(readers) == 1 and isinstance(readers[0], Depthwise)
    return fits and step.residual is None and step.gate is None


def _depthwise(step: Depthwise, expansion: Pointwise | None) -> Bound:
    kernel = step.filters.shape[0]
    known = kernel in _KERNELS and step.stride in _STRIDES and step.activation != "h_sigmoid"
    if not known:
        raise NotCompiled(f"no compiled depthwise {kernel}x{kernel}, stride {step.stride}")
    if expansion is None:
        return Bound(Kind.DEPTHWISE, step.x, step.out, pooled=step.pooled, depthwise=step)
    return Bound(
        Kind.EXPAND_DEPTHWISE,
        expansion.x,
        step.out,
        pooled=step.pooled,
        product=(expansion.weight, expansion.affine, expansion.activation),
        depthwise=step,
    )


def _bound(step: Step) -> Bound:
    match step:
        case Pointwise():
            product = (step.weight, step.affine, step.activation)
            return Bound(Kind.POINTWISE, step.x, step.out, step.residual, product=product)
        case Conv():
            return Bound(
                Kind.CONV,
                step.x,
                step.out,
                step.residual,
                product=(step.weight, step.affine, step.activation),
                window=(step.kernel, step.stride, step.padding),
            )
        case Multiply():
            return Bound(Kind.SCALE, step.x, step.out, step.gate)
        case GlobalAverage():
            return Bound(Kind.AVERAGE, step.x, step.out)
        case Pool():
            kind = Kind.POOL_MAX if step.kind == "max" else Kind.POOL_MEAN
            return Bound(kind, step.x, step.out, window=(step.window, step.stride, step.padding))
        case Add():
            sum_of = (None, PLAIN, step.activation)
            return Bound(Kind.COMBINE, step.x, step.out, step.y, product=sum_of)
        case Activate():
            return Bound(
                Kind.COMBINE, step.x, step.out, product=(None, step.affine, step.activation)
            )
    raise NotCompiled(f"no compiled {type(step).__name__}")


def in_segments(
    steps: list[Bound], shapes: Mapping[Value, Shape], batch: int
) -> list[tuple[int, int, int]]:
    """(begin, end, images together): runs of steps that take the same part of the batch."""
    found: list[tuple[int, int, int]] = []
    for index, step in enumerate(steps):
        widest = max(4 * h * w * c for h, w, c in (shapes[v] for v in step.values()))
        together = min(batch, max(1, WORKING_SET // widest))
        if found and (found[-1][2] >= together or together < batch):
            begin, _, before = found[-1]
            found[-1] = (begin, index + 1, min(before, together))
        else:
            found.append((index, index + 1, together))
    return found


def lifetimes(
    steps: list[Bound],
    aliases: Mapping[Value, Value],
    segments: list[tuple[int, int, int]],
    shapes: Mapping[Value, Shape],
    output: Value,
    batch: int,
) -> dict[Value, Life]:
    """When each value that needs memory is alive, and how many floats it takes."""
    where = {i: n for n, (begin, end, _) in enumerate(segments) for i in range(begin, end)}
    born: dict[Value, int] = {}
    dies: dict[Value, int] = {}
    for index, step in enumerate(steps):
        for value in step.values():
            origin = aliases.get(value, value)
            born.setdefault(origin, index)
            dies[origin] = index
    lives = {}
    for value, begin in born.items():
        if value in {0, output}:
            continue
        height, width, channels = shapes[value]
        whole = where[begin] != where[dies[value]]
        images = batch if whole else segments[where[begin]][2]
        # A value that outlives its segment is there before the segment's later parts begin.
        first, last = begin, dies[value]
        if whole:
            first, last = segments[where[begin]][0], segments[where[last]][1] - 1
        lives[value] = Life(value, first, last, images * height * width * channels, whole)
    return lives
