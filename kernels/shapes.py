"""The shape of every value of a program, for one image. Pure."""

from kernels.program import (
    Conv,
    Depthwise,
    DepthwiseProject,
    GlobalAverage,
    Head,
    Pointwise,
    Pool,
    Program,
    SqueezeExcite,
    Step,
    Value,
)

Shape = tuple[int, int, int]
"""Height, width, channels; a value [N, C] counts as one pixel."""


def value_shapes(program: Program, image: Shape) -> dict[Value, Shape]:
    """What each step writes, given ``image``, value 0."""
    shapes: dict[Value, Shape] = {0: image}
    for step in program.steps:
        shapes[step.out] = _result(step, shapes)
        if isinstance(step, Depthwise) and step.pooled is not None:
            shapes[step.pooled] = (1, 1, shapes[step.out][2])
    return shapes


def windows(length: int, window: int, stride: int, padding: int, ceil: bool = False) -> int:
    """How many windows fit; with ``ceil``, one that begins inside counts (PyTorch's rule)."""
    room = length + 2 * padding - window
    if not ceil:
        return room // stride + 1
    count = -(-room // stride) + 1
    return count - 1 if (count - 1) * stride >= length + padding else count


def _result(step: Step, shapes: dict[Value, Shape]) -> Shape:
    height, width, channels = shapes[step.x]
    match step:
        case Pointwise():
            return (height, width, step.weight.rows)
        case Conv():
            sides = (windows(n, step.kernel, step.stride, step.padding) for n in (height, width))
            return (*sides, step.weight.rows)  # type: ignore[return-value]
        case Depthwise():
            return (-(-height // step.stride), -(-width // step.stride), channels)
        case DepthwiseProject():
            inner = _result(step.depthwise, shapes)
            return (*inner[:2], step.project.weight.rows)
        case Head():
            return (1, 1, step.weight.rows)
        case GlobalAverage():
            return (1, 1, channels)
        case SqueezeExcite():
            return (1, 1, channels)
        case Pool():
            sides = (
                windows(n, step.window, step.stride, step.padding, step.ceil)
                for n in (height, width)
            )
            return (*sides, channels)  # type: ignore[return-value]
        case _:
            return (height, width, channels)
