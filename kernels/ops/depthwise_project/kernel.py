"""Depthwise convolution and projection on a GPU: what lies between them stays in registers."""

# mypy: disable-error-code="assignment"
# Inside a kernel a tuple grows as it is unrolled; to mypy that is a change of its type.

import triton
import triton.language as tl
from torch import Tensor

from kernels.configs import Config, lookup
from kernels.epilogue import (
    activate,
    await_previous,
    check_rows,
    finish,
    fit,
    load_affine,
    load_residual,
    options,
    unit_of,
    upcast,
)
from kernels.launch import Launch
from kernels.ops.depthwise.kernel import ALL_REGISTERS, SIZES, check_filters, filter_unit, out_shape
from kernels.ops.depthwise.strips import convolve, cover, place

MOST_PRODUCTS = 2048
"""Sums for each pixel of a strip up to which a tile may grow: all of a strip's are in registers."""


@triton.jit(do_not_specialize=[*SIZES, "weight_units", "n_units"])
def filter_and_project(
    x: tl.tensor,
    filters: tl.tensor,
    middle_scale: tl.tensor,
    middle_shift: tl.tensor,
    weight: tl.tensor,
    scale: tl.tensor,
    shift: tl.tensor,
    residual: tl.tensor,
    out: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    out_height: tl.tensor,
    out_width: tl.tensor,
    channel_units: tl.tensor,
    row_units: tl.tensor,
    tap_units: tl.tensor,
    weight_units: tl.tensor,
    n_units: tl.tensor,
    across: tl.tensor,
    UNIT: tl.constexpr,
    N_UNIT: tl.constexpr,
    K: tl.constexpr,
    STRIDE: tl.constexpr,
    MIDDLE_ACTIVATION: tl.constexpr,
    ACTIVATION: tl.constexpr,
    ROWS: tl.constexpr,
    STRIPS: tl.constexpr,
    STRIP: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    UNROLL: tl.constexpr,
    UPCAST: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    """A tile [ROWS, STRIPS · STRIP, BN] of one image's result.

    BK channels at a time: the depthwise result of every strip, then one product for each of the
    strip's pixels, so that no two threads need each other's part of a strip.
    """
    channels, n = channel_units * UNIT, n_units * N_UNIT
    filter_row, filter_tap = row_units * UNIT, tap_units * UNIT
    row_stride = weight_units * UNIT
    tile = tl.program_id(1)
    image = tl.program_id(2).to(tl.int64)
    columns = tl.program_id(0) * BN + tl.arange(0, BN)
    row, column = place(tile, across, ROWS, STRIPS, STRIP)
    factor, term = load_affine(scale, shift, columns, columns < n, BN)
    if PDL:
        await_previous(weight, columns, n, row_stride, channels)
    products = ()
    for _ in tl.static_range(STRIP):
        products += (tl.zeros([ROWS * STRIPS, BN], tl.float32),)
    first_pixel = x + image * height * width * channels
    for start in range(0, channels, BK):
        inner = start + tl.arange(0, BK)
        b = tl.load(
            weight + (columns[:, None] * row_stride + inner[None, :]),
            mask=(columns < n)[:, None] & (inner < channels)[None, :],
            other=0.0,
        )
        channel = inner[None, :]
        live = channel < channels
        each = channel + tl.zeros_like(row)[:, None]
        middle_factor = tl.load(middle_scale + each, mask=live, other=0.0)
        middle_term = tl.load(middle_shift + each, mask=live, other=0.0)
        pixels = convolve(
            first_pixel, filters, row, column, channel, live,
            height, width, channels, filter_row, filter_tap, K, STRIDE, STRIP, UNROLL,
        )  # fmt: skip
        if UPCAST:
            b = b.to(tl.float32)
        added = ()
        for t in tl.static_range(STRIP):
            y = pixels[t] * middle_factor.to(tl.float32) + middle_term.to(tl.float32)
            a = activate(y, MIDDLE_ACTIVATION).to(b.dtype)
            added += (tl.dot(a, tl.trans(b), products[t], input_precision="ieee"),)
        products = added
    at = image * out_height * out_width * n
    at += ((row * out_width + column) * n)[:, None] + columns[None, :]
    for t in tl.static_range(STRIP):
        inside = ((row < out_height) & (column + t < out_width))[:, None] & (columns < n)[None, :]
        extra = load_residual(residual, at + t * n, inside)
        finish(products[t], factor, term, extra, out, at + t * n, inside, ACTIVATION)


def depthwise_project(
    x: Tensor,
    filters: Tensor,
    middle_scale: Tensor,
    middle_shift: Tensor,
    stride: int,
    middle_activation: str,
    weight: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    activation: str = "identity",
    residual: Tensor | None = None,
) -> Tensor:
    """As `kernels.ops.depthwise_project`, on the current stream."""
    x = x.contiguous()
    out = x.new_empty((*out_shape(x, stride)[:3], len(weight)))
    for launch in launches(
        x, filters, middle_scale, middle_shift, stride, middle_activation,
        weight, scale, shift, activation, residual,
        out=out, config=choose(x, filters, stride, weight),
    ):  # fmt: skip
        launch.run()
    return out


def choose(x: Tensor, filters: Tensor, stride: int, weight: Tensor) -> Config:
    """The table's configuration for these arguments."""
    batch, height, width, channels = out_shape(x, stride)
    sizes = {
        "pixels": batch * height * width, "channels": channels, "outputs": len(weight),
        "kernel": len(filters), "stride": stride,
    }  # fmt: skip
    return lookup("depthwise_project", x.device, sizes, x.dtype, inner_unit(filters, weight) == 1)


def inner_unit(filters: Tensor, weight: Tensor) -> int:
    """The unit of the channels between the two, and of the strides over them."""
    return min(filter_unit(filters), unit_of(weight.stride(0)))


def launches(
    x: Tensor,
    filters: Tensor,
    middle_scale: Tensor,
    middle_shift: Tensor,
    stride: int,
    middle_activation: str,
    weight: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    activation: str,
    residual: Tensor | None,
    *,
    out: Tensor,
    config: Config,
    pdl: bool = False,
) -> tuple[Launch, ...]:
    """The one launch that writes the result into ``out`` [N, H', W', C_out].

    ``pdl``: it waits by itself for the one before it on the stream, which must know of this too.
    ``ValueError`` for filters or a weight whose rows are not contiguous.
    """
    check_filters(filters)
    check_rows(weight)
    batch, height, width, channels = x.shape
    _, out_height, out_width, _ = out_shape(x, stride)
    unit = inner_unit(filters, weight)
    n, n_unit = len(weight), unit_of(len(weight))
    blocks = {"BN": fit(config.tiles["BN"], n), "BK": fit(config.tiles["BK"], channels)}
    room = max(1, MOST_PRODUCTS // (config.tiles["STRIPS"] * blocks["BN"]))
    more = min(room, config.tiles["BK"] // blocks["BK"])
    strips = cover(out_height, out_width, config, more)
    launch = Launch(
        kernel=filter_and_project,
        grid=(triton.cdiv(n, blocks["BN"]), strips.tiles, batch),
        arguments={
            "x": x, "filters": filters, "middle_scale": middle_scale,
            "middle_shift": middle_shift, "weight": weight, "scale": scale, "shift": shift,
            "residual": residual, "out": out,
            "height": height, "width": width, "out_height": out_height, "out_width": out_width,
            "channel_units": channels // unit, "row_units": filters.stride(0) // unit,
            "tap_units": filters.stride(1) // unit, "weight_units": weight.stride(0) // unit,
            "n_units": n // n_unit, "across": strips.across,
        },
        constants={
            "UNIT": unit, "N_UNIT": n_unit, "K": len(filters), "STRIDE": stride,
            "MIDDLE_ACTIVATION": middle_activation, "ACTIVATION": activation,
            **strips.constants, **blocks, "UNROLL": min(config.tiles["UNROLL"], len(filters)),
            "UPCAST": upcast(filter_and_project, x.dtype), "PDL": pdl,
        },
        options=options(config.options | ALL_REGISTERS, pdl),
    )  # fmt: skip
    return (launch,)
