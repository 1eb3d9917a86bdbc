"""Whole networks as calls of ops: see `kernels.auditing.calls`."""

from collections.abc import Iterator

from kernels.auditing.calls import (
    Call,
    conv,
    depthwise,
    depthwise_project,
    head,
    pointwise,
    squeeze_excite,
)

CLASSES = 1000
_STAGES = (  # channels, stride, activation, squeeze-and-excite
    (24, 2, "relu", False),
    (40, 2, "relu", True),
    (80, 2, "h_swish", False),
    (112, 1, "h_swish", True),
    (160, 2, "h_swish", True),
)


def divisible(value: float) -> int:
    """The multiple of 8 nearest to ``value``, at most 10 % below it: the rounding of MobileNets."""
    rounded = max(8, int(value + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * value else rounded


def mobilenetv3(
    width: float, kernel: int, expand: int, depth: int, batch: int = 1, side: int = 224
) -> Iterator[Call]:
    """OFA MobileNetV3: the same kernel, ratio and depth everywhere; both forms of each block."""

    def scaled(channels: int) -> int:
        return divisible(channels * width)

    side //= 2
    yield conv((batch, 2 * side, 2 * side, 3), scaled(16), 3, 2, "h_swish")
    x: tuple[int, ...] = (batch, side, side, scaled(16))
    yield from _block(x, 3, 1, 1, "relu", scaled(16), squeeze=False, most=1)
    for channels, stride, activation, squeeze in _STAGES:
        for index in range(depth):
            s, out = stride if index == 0 else 1, scaled(channels)
            yield from _block(x, kernel, expand, s, activation, out, squeeze=squeeze, most=6)
            x = (batch, *((n - 1) // s + 1 for n in x[1:3]), out)
    yield pointwise(x, scaled(960), "h_swish")
    yield head((*x[:3], scaled(960)), scaled(1280), "h_swish", norm="none", most=scaled(960))
    yield pointwise((batch, scaled(1280)), CLASSES, norm="shift")


def _block(
    x: tuple[int, ...],
    kernel: int,
    expand: int,
    stride: int,
    activation: str,
    out: int,
    *,
    squeeze: bool,
    most: int,
) -> Iterator[Call]:
    middle, widest = divisible(x[-1] * expand), divisible(x[-1] * most)
    residual = stride == 1 and x[-1] == out
    if expand > 1:
        yield pointwise(x, middle, activation, most=(widest, x[-1]))
    x = (*x[:3], middle)
    yield depthwise(x, kernel, stride, activation, most=widest, pool=squeeze)
    if squeeze:
        reduced, rows = divisible(middle // 4), divisible(widest // 4)
        yield squeeze_excite(x[0], middle, reduced, most=(rows, widest))
    else:
        yield depthwise_project(x, kernel, stride, activation, out, most=widest, residual=residual)
    x = (x[0], *((n - 1) // stride + 1 for n in x[1:3]), middle)
    yield pointwise(x, out, most=(out, widest), residual=residual, gate=squeeze)


def ofa_resnet50(
    width: float, expand: float, depth: int, batch: int = 1, side: int = 224
) -> Iterator[Call]:
    """OFA ResNet50; ``depth`` blocks more than the 2, 2, 4, 2 that always run."""
    stem, most_stem = divisible(64 * width), 64
    middle, most_middle = divisible(stem // 2), 32
    side //= 2
    yield conv((batch, 2 * side, 2 * side, 3), middle, 3, 2, most=(most_middle, 3))
    x: tuple[int, ...] = (batch, side, side, middle)
    if depth == 2:
        yield conv(x, middle, 3, 1, most=(most_middle, most_middle))
    yield conv(x, stem, 3, 1, most=(most_stem, most_middle))
    x, widest = (batch, side // 2, side // 2, stem), most_stem
    for channels, stride, blocks in zip(
        (256, 512, 1024, 2048), (1, 2, 2, 2), (2, 2, 4, 2), strict=True
    ):
        out, most_inner = divisible(channels * width), divisible(round(channels * 0.35))
        inner = divisible(round(out * expand))
        for index in range(blocks + depth):
            s = stride if index == 0 else 1
            yield pointwise(x, inner, "relu", most=(most_inner, widest))
            yield conv((*x[:3], inner), inner, 3, s, most=(most_inner, most_inner))
            small = (batch, *((n - 1) // s + 1 for n in x[1:3]))
            most = (channels, most_inner)
            if index == 0:  # the shortcut's product is the later one, and adds the other
                yield pointwise((*small, inner), out, most=most)
                yield pointwise(
                    (*small, x[-1]), out, "relu", most=(channels, widest), residual=True
                )
            else:
                yield pointwise((*small, inner), out, "relu", most=most, residual=True)
            x, widest = (*small, out), channels
    yield head(x, CLASSES, "identity", norm="shift", most=widest)


def stitched_resnet(batch: int = 1, side: int = 224) -> Iterator[Call]:
    """ResNet18 and ResNet50 as anchors, every kind of block of both, and the stitches between."""
    yield conv((batch, side, side, 3), 64, 7, 2)
    side, width = side // 4, 64
    for stage, stride in enumerate((1, 2, 2, 2)):
        narrow, wide = 64 * 2**stage, 256 * 2**stage
        x, small = (batch, side, side), (batch, side // stride, side // stride)
        front = 64 if stage == 0 else narrow // 2
        yield conv((*x, front), narrow, 3, stride)
        yield conv((*small, narrow), narrow, 3, 1, residual=True)
        if stride > 1:
            yield conv((*small, narrow), narrow, 3, 1, "identity")
            yield conv((*x, front), narrow, 1, stride, residual=True)
        yield pointwise((*x, width), narrow, "relu")
        yield conv((*x, narrow), narrow, 3, stride)
        yield pointwise((*small, narrow), wide)
        if stride > 1:
            yield conv((*x, width), wide, 1, stride, residual=True)
        yield pointwise((*small, wide), narrow, "relu")
        yield conv((*small, narrow), narrow, 3, 1)
        yield pointwise((*small, narrow), wide, "relu", residual=True)
        yield pointwise((*small, narrow), wide, "relu", norm="shift")
        side, width = side // stride, wide
    yield head((batch, side, side, 512), CLASSES, "identity", norm="shift", most=512)
    yield head((batch, side, side, 2048), CLASSES, "identity", norm="shift", most=2048)


def middle_calls(batch: int = 1) -> Iterator[Call]:
    """A middle subnet of each family."""
    yield from mobilenetv3(1.0, 5, 4, 3, batch)
    yield from ofa_resnet50(0.8, 0.25, 1, batch)
    yield from stitched_resnet(batch)


def all_calls(batch: int = 1) -> Iterator[Call]:
    """Smallest, middle and largest subnets of every family."""
    yield from middle_calls(batch)
    for width in (1.0, 1.2):
        for kernel, expand, depth in ((3, 3, 2), (5, 4, 3), (7, 6, 4)):
            yield from mobilenetv3(width, kernel, expand, depth, batch)
    for width, ratio, more in ((0.65, 0.2, 0), (1.0, 0.35, 2)):
        yield from ofa_resnet50(width, ratio, more, batch)
