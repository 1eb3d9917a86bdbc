"""How long a program must take at least: bytes over bandwidth or operations over their rate. Pure.

A step's bytes are its input, weights and result once each; what fusion saves is therefore in the
program, and what caches save is not counted: a figure above 100 % of the roofline means that
activations stayed in L2.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kernels.program import (
    Conv,
    Depthwise,
    DepthwiseProject,
    Head,
    Pointwise,
    Program,
    SqueezeExcite,
    Step,
    Value,
    reads,
    step_tensors,
    writes,
)
from kernels.shapes import Shape, value_shapes

# Per multiprocessor and clock: dense 16-bit FLOP of the tensor cores, and FLOP of the float32 units
# (two for each of 64 or 128 lanes), by compute capability. NVIDIA's architecture papers; an H100's
# 4096 x 132 x 1.83 GHz is its data sheet's 989 TFLOP/s. Where the rate depends on more than this
# (consumer cards accumulate at half of it), only what is measured counts.
_PER_CLOCK = {(8, 0): (2048, 128), (9, 0): (4096, 256), (10, 0): (8192, 256)}


@dataclass(frozen=True, slots=True)
class Peaks:
    """Bytes and operations per second: of memory, of tensor cores, of the float32 units."""

    bandwidth: float
    matrix: float
    vector: float
    source: str  # "properties" or "measured"


@dataclass(frozen=True, slots=True)
class Cost:
    """One step of a batch: multiply-accumulates, and bytes read, written, and read as weights."""

    op: str
    macs: int
    read: int
    written: int
    weights: int
    matrix: bool  # whether tensor cores do the work

    @property
    def nbytes(self) -> int:
        return self.read + self.written + self.weights

    @property
    def intensity(self) -> float:
        """Operations per byte."""
        return 2 * self.macs / self.nbytes


def costs(program: Program, image: Shape, batch: int, itemsize: int) -> tuple[Cost, ...]:
    """Of every step, for ``batch`` images [height, width, channels] of ``itemsize`` bytes."""
    shapes = value_shapes(program, image)

    def nbytes(values: Sequence[Value]) -> int:
        return sum(batch * itemsize * _elements(shapes[value]) for value in values)

    return tuple(
        Cost(
            type(step).__name__,
            batch * macs(step, shapes),
            nbytes(reads(step)),
            nbytes(writes(step)),
            sum(t.numel() * t.element_size() for _, t in step_tensors(step)),
            isinstance(step, Pointwise | Conv | DepthwiseProject | Head),
        )
        for step in program.steps
    )


def macs(step: Step, shapes: dict[Value, Shape]) -> int:
    """Multiply-accumulates for one image; sums, pooling and norms count as none."""
    match step:
        case Pointwise():
            return _elements(shapes[step.out]) * step.weight.columns
        case Conv():
            return _elements(shapes[step.out]) * step.weight.taps * step.weight.columns
        case Depthwise():
            return _elements(shapes[step.out]) * step.filters.shape[0] ** 2
        case DepthwiseProject():
            height, width, _ = shapes[step.out]
            channels = step.project.weight.columns
            taps = step.depthwise.filters.shape[0] ** 2
            return height * width * channels * (taps + step.project.weight.rows)
        case SqueezeExcite():
            return 2 * step.reduce.numel()
        case Head():
            return step.weight.rows * step.weight.columns
        case _:
            return 0


def floor_seconds(cost: Cost, peaks: Peaks) -> float:
    """What a step takes at least: the longer of moving its bytes and doing its work."""
    rate = peaks.matrix if cost.matrix else peaks.vector
    return max(cost.nbytes / peaks.bandwidth, 2 * cost.macs / rate)


def program_floor(steps: Sequence[Cost], peaks: Peaks) -> float:
    """The sum over the steps, which run one after the other."""
    return sum(floor_seconds(cost, peaks) for cost in steps)


def peaks_of(properties: Any) -> Peaks | None:
    """What a device could do by its clocks, from ``torch.cuda.get_device_properties``.

    None for an architecture that the table above does not know, or without clocks.
    """
    known = _PER_CLOCK.get((properties.major, properties.minor))
    clocks = [getattr(properties, name, 0) for name in ("clock_rate", "memory_clock_rate")]
    width = getattr(properties, "memory_bus_width", 0)
    if known is None or not all(clocks) or not width:
        return None
    core, memory = (1e3 * kilohertz for kilohertz in clocks)
    matrix, vector = (properties.multi_processor_count * core * flop for flop in known)
    return Peaks(2 * memory * width / 8, matrix, vector, "properties")


def _elements(shape: Shape) -> int:
    height, width, channels = shape
    return height * width * channels
