"""Dense convolution on a GPU: an implicit GEMM over taps and channels, on the arena's slice.

Rows are output pixels and the inner dimension is every tap's channels; nothing is unfolded in
memory. Where the channels are a multiple of eight, a step of the product reads one tap; otherwise
(an image's three channels) taps and channels are one flat dimension, gathered element by element.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.configs import Config, lookup
from kernels.epilogue import (
    EARLY,
    await_previous,
    check_rows,
    finish,
    fit,
    load_affine,
    load_residual,
    options,
    split,
    sum_launch,
    unit_of,
    upcast,
)
from kernels.launch import Launch
from kernels.ops.conv import result_shape, side

SIZES = [
    "m", "n_units", "c_units", "row_units", "tap_units", "height", "width", "out_height",
    "out_width", "part",
]  # fmt: skip


@triton.jit
def divide(small: tl.tensor, divisor: tl.tensor) -> tl.tensor:
    """floor(small / divisor) of numbers from 0 to 2²⁰, for a fifth of an integer division.

    Exact: (small + 1/2) / divisor is at least 1/(2 divisor) from the next integer, and rounding
    errs by less.
    """
    return ((small.to(tl.float32) + 0.5) * (1.0 / divisor)).to(tl.int32)


@triton.jit
def within(place: tl.tensor, size: tl.tensor) -> tl.tensor:
    """0 <= place < size, in one comparison: as an unsigned number a negative one is huge."""
    return place.to(tl.uint32, bitcast=True) < size.to(tl.uint32, bitcast=True)


@triton.jit(do_not_specialize=SIZES)
def convolve(
    x: tl.tensor,
    weight: tl.tensor,
    scale: tl.tensor,
    shift: tl.tensor,
    residual: tl.tensor,
    out: tl.tensor,
    m: tl.tensor,
    n_units: tl.tensor,
    c_units: tl.tensor,
    row_units: tl.tensor,
    tap_units: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    out_height: tl.tensor,
    out_width: tl.tensor,
    part: tl.tensor,
    C_UNIT: tl.constexpr,
    N_UNIT: tl.constexpr,
    SIDE: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    GATHER: tl.constexpr,
    ACTIVATION: tl.constexpr,
    SPLIT: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    UPCAST: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    """A tile [BM, BN] of the result [m, n], finished; of a part of the inner steps where SPLIT."""
    n = n_units * N_UNIT
    c = c_units * C_UNIT
    if GATHER > 0:
        c = GATHER
    row_stride = row_units * C_UNIT
    tap_stride = tap_units * C_UNIT
    n_tiles = tl.cdiv(n, BN)
    first_row = (tl.program_id(0) // n_tiles) * BM
    rows = first_row + tl.arange(0, BM)
    row_inside = rows < m
    first_column = (tl.program_id(0) % n_tiles) * BN
    column = tl.arange(0, BN)
    columns = first_column + column
    column_inside = columns < n
    factor, term = load_affine(scale, shift, columns, column_inside, BN)
    blocks = tl.cdiv(c, BK)
    begin = 0
    end = SIDE * SIDE * blocks
    if GATHER > 0:
        end = tl.cdiv(SIDE * SIDE * GATHER, BK)
    if SPLIT:
        begin = tl.program_id(1) * part
        end = tl.minimum(begin + part, end)
    if PDL:
        skipped = begin * BK if GATHER > 0 else begin // blocks * tap_stride
        row_size = (SIDE * SIDE - 1) * tap_stride + c
        await_previous(weight + skipped, columns, n, row_stride, row_size - skipped)
    inside = row_inside[:, None] & column_inside[None, :]
    at = first_row.to(tl.int64) * n + (tl.arange(0, BM)[:, None] * n + columns[None, :])
    if BM * BN <= EARLY:
        extra = load_residual(residual, at, inside)

    # Line y and column z of a row's first tap: divided out for the tile's first row, and counted
    # on from there for the others, whose divisions are then of small numbers.
    first_line = first_row // out_width
    first_image = first_line // out_height
    out_z = first_row % out_width + tl.arange(0, BM)
    lines = divide(out_z, out_width)
    out_y = first_line % out_height + lines
    images = divide(out_y, out_height)
    y = (out_y - images * out_height) * STRIDE - PADDING
    z = (out_z - lines * out_width) * STRIDE - PADDING
    x_tile = x + first_image.to(tl.int64) * height * width * c
    x_row = ((images * height + y) * width + z) * c
    weight_tile = weight + first_column.to(tl.int64) * row_stride
    weight_row = column * row_stride
    inner = tl.arange(0, BK)
    product = tl.zeros([BM, BN], tl.float32)
    for step in range(begin, end):
        if GATHER > 0:
            flat = step * BK + inner
            inner_inside = flat < SIDE * SIDE * c
            tap, channel = flat // c, flat % c
            dy, dz = tap // SIDE, tap % SIDE
            at_y, at_z = y[:, None] + dy[None, :], z[:, None] + dz[None, :]
            pixel_inside = row_inside[:, None] & within(at_y, height) & within(at_z, width)
            a_pointers = x_tile + x_row[:, None] + ((dy * width + dz) * c + channel)[None, :]
            b_pointers = weight_tile + weight_row[:, None] + (tap * tap_stride + channel)[None, :]
        else:
            tap = step // blocks
            channel = (step % blocks) * BK
            inner_inside = channel + inner < c
            dy, dz = tap // SIDE, tap % SIDE
            at_y, at_z = y + dy, z + dz
            pixel_inside = (row_inside & within(at_y, height) & within(at_z, width))[:, None]
            a_pointers = x_tile + ((dy * width + dz) * c + channel)
            a_pointers += x_row[:, None] + inner[None, :]
            b_pointers = weight_tile + (tap * tap_stride + channel)
            b_pointers += weight_row[:, None] + inner[None, :]
        a = tl.load(a_pointers, mask=pixel_inside & inner_inside[None, :], other=0.0)
        b = tl.load(b_pointers, mask=column_inside[:, None] & inner_inside[None, :], other=0.0)
        if UPCAST:
            a, b = a.to(tl.float32), b.to(tl.float32)
        product = tl.dot(a, tl.trans(b), product, input_precision="ieee")

    if SPLIT:
        plane = tl.program_id(1).to(tl.int64) * m * n
        tl.store(out + plane + at, product, mask=inside)
    else:
        if BM * BN > EARLY:
            extra = load_residual(residual, at, inside)
        finish(product, factor, term, extra, out, at, inside, ACTIVATION)


def conv(
    x: Tensor,
    weight: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    stride: int = 1,
    padding: int = 0,
    activation: str = "identity",
    residual: Tensor | None = None,
) -> Tensor:
    """As `kernels.ops.conv`, on the current stream."""
    x = x.contiguous()
    config = choose(x, weight, stride, padding)
    out = x.new_empty(result_shape(x, weight, stride, padding))
    shape = partial_shape(x, weight, stride, padding, config)
    partial = x.new_empty(shape, dtype=torch.float32)
    for launch in launches(
        x, weight, scale, shift, stride, padding, activation, residual,
        out=out, partial=partial, config=config,
    ):  # fmt: skip
        launch.run()
    return out


def choose(x: Tensor, weight: Tensor, stride: int, padding: int) -> Config:
    """The table's configuration for these arguments."""
    images, height, width, n = result_shape(x, weight, stride, padding)
    shape = {"m": images * height * width, "n": n, "k": weight.shape[1] * weight.shape[2]}
    if _gathers(weight.shape[2]):
        return lookup("stem", x.device, shape, x.dtype, unit_of(n) == 1)
    return lookup("conv", x.device, shape, x.dtype, unit_of(n, *weight.stride()[:2]) == 1)


def partial_shape(
    x: Tensor, weight: Tensor, stride: int, padding: int, config: Config
) -> tuple[int, int, int]:
    """[splits, M, N] of the float32 scratch that `launches` wants; no elements without a split."""
    images, height, width, n = result_shape(x, weight, stride, padding)
    splits, _ = split(_steps(weight, config)[1], config.tiles["SPLIT_K"])
    return (splits if splits > 1 else 0, images * height * width, n)


def launches(
    x: Tensor,
    weight: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    stride: int,
    padding: int,
    activation: str,
    residual: Tensor | None,
    *,
    out: Tensor,
    partial: Tensor,
    config: Config,
    pdl: bool = False,
) -> tuple[Launch, ...]:
    """What writes the result into ``out`` [N, H', W', C_out], contiguous as ``x`` is.

    ``partial`` is scratch of `partial_shape`; its contents before do not matter. ``pdl``: every
    launch waits by itself for the one before it on the stream, and reads only weights, scale and
    shift before: nothing that is still running may write those.
    """
    check_rows(weight)
    images, out_height, out_width, n = result_shape(x, weight, stride, padding)
    m, c = images * out_height * out_width, weight.shape[2]
    block, steps = _steps(weight, config)
    tiles = {"BM": fit(config.tiles["BM"], m), "BN": fit(config.tiles["BN"], n), "BK": block}
    splits, part = split(steps, config.tiles["SPLIT_K"])
    split_k = splits > 1
    row_stride, tap_stride = weight.stride(0), weight.stride(1)
    c_unit, n_unit = unit_of(c, row_stride, tap_stride), unit_of(n)
    ending = {"scale": scale, "shift": shift, "residual": residual}
    product = Launch(
        kernel=convolve,
        grid=(triton.cdiv(m, tiles["BM"]) * triton.cdiv(n, tiles["BN"]), splits),
        arguments={
            "x": x,
            "weight": weight,
            **(dict.fromkeys(ending) if split_k else ending),
            "out": partial if split_k else out,
            "m": m,
            "n_units": n // n_unit,
            "c_units": c // c_unit,
            "row_units": row_stride // c_unit,
            "tap_units": tap_stride // c_unit,
            "height": x.shape[1],
            "width": x.shape[2],
            "out_height": out_height,
            "out_width": out_width,
            "part": part,
        },
        constants={
            "C_UNIT": c_unit,
            "N_UNIT": n_unit,
            "SIDE": side(weight),
            "STRIDE": stride,
            "PADDING": padding,
            "GATHER": c if _gathers(c) else 0,
            "ACTIVATION": "identity" if split_k else activation,
            "SPLIT": split_k,
            **tiles,
            "UPCAST": upcast(convolve, x.dtype),
            "PDL": pdl,
        },
        options=options(config.options, pdl),
    )
    if not split_k:
        return (product,)
    return product, sum_launch(partial, scale, shift, residual, out, activation, pdl)


def _gathers(channels: int) -> bool:
    """Whether a step takes its elements from several taps: one tap of these would fill few."""
    return channels % 8 != 0


def _steps(weight: Tensor, config: Config) -> tuple[int, int]:
    """How many elements of the inner dimension a step takes, and the steps."""
    _, taps, channels = weight.shape
    inner = taps * channels if _gathers(channels) else channels
    block = fit(config.tiles["BK"], inner)
    return block, triton.cdiv(inner, block) * (1 if _gathers(channels) else taps)
