"""Depthwise convolution on a GPU: tiles of strips (see `strips`), and means in a fixed order."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.configs import Config, lookup
from kernels.epilogue import activate, await_previous, options, unit_of
from kernels.launch import Launch
from kernels.ops.depthwise.strips import Strips, convolve, cover, place

SIZES = [
    "height", "width", "out_height", "out_width", "channel_units", "row_units", "tap_units",
    "across",
]  # fmt: skip
MEAN_TILES = {"BT": 16, "BC": 64}
ALL_REGISTERS = {"maxnreg": 255}
"""Left to itself the assembler spills some for the sake of more warps, which are not there."""


@triton.jit(do_not_specialize=[*SIZES, "share"])
def filter_tiles(
    x: tl.tensor,
    filters: tl.tensor,
    scale: tl.tensor,
    shift: tl.tensor,
    out: tl.tensor,
    sums: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    out_height: tl.tensor,
    out_width: tl.tensor,
    channel_units: tl.tensor,
    row_units: tl.tensor,
    tap_units: tl.tensor,
    across: tl.tensor,
    share: tl.tensor,
    UNIT: tl.constexpr,
    K: tl.constexpr,
    STRIDE: tl.constexpr,
    ACTIVATION: tl.constexpr,
    ROWS: tl.constexpr,
    STRIPS: tl.constexpr,
    STRIP: tl.constexpr,
    BC: tl.constexpr,
    UNROLL: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    """A tile [ROWS, STRIPS · STRIP, BC] of one image's result.

    ``sums`` [N, tiles, C] gets the tile's sum over its pixels, times ``share``, unless it is None.
    """
    channels = channel_units * UNIT
    filter_row, filter_tap = row_units * UNIT, tap_units * UNIT
    first = tl.program_id(0) * BC
    tile = tl.program_id(1)
    image = tl.program_id(2).to(tl.int64)
    channel = (first + tl.arange(0, BC))[None, :]
    live = channel < channels
    row, column = place(tile, across, ROWS, STRIPS, STRIP)
    each = channel + tl.zeros_like(row)[:, None]
    factor = tl.load(scale + each, mask=live, other=0.0)
    term = tl.load(shift + each, mask=live, other=0.0)
    if PDL:
        SIDE: tl.constexpr = 4 if K == 3 else 8
        tap = tl.arange(0, SIDE * SIDE)
        extent = tl.minimum(channels - first, BC)
        await_previous(filters + first, tap, K * K, filter_tap, extent)
    pixels = convolve(
        x + image * height * width * channels, filters, row, column, channel, live,
        height, width, channels, filter_row, filter_tap, K, STRIDE, STRIP, UNROLL,
    )  # fmt: skip
    results = out + image * out_height * out_width * channels
    results += ((row * out_width + column) * channels)[:, None] + channel
    total = tl.zeros(each.shape, tl.float32)
    for t in tl.static_range(STRIP):
        y = activate(pixels[t] * factor.to(tl.float32) + term.to(tl.float32), ACTIVATION)
        mask = ((row < out_height) & (column + t < out_width))[:, None] & live
        tl.store(results + t * channels, y.to(out.dtype.element_ty), mask=mask)
        total += tl.where(mask, y, 0.0)
    if sums is not None:
        at = (image * tl.num_programs(1) + tile) * channels + channel
        summed = tl.sum(total, axis=0)[None, :] * share
        tl.store(sums + at, summed.to(sums.dtype.element_ty), mask=live)


@triton.jit(do_not_specialize=["tiles", "channel_units"])
def add_tiles(
    sums: tl.tensor,
    pooled: tl.tensor,
    tiles: tl.tensor,
    channel_units: tl.tensor,
    UNIT: tl.constexpr,
    BT: tl.constexpr,
    BC: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    """``sums`` [N, tiles, C] added in one fixed order: a block [BC] of ``pooled`` [N, C]."""
    channels = channel_units * UNIT
    image = tl.program_id(1).to(tl.int64)
    channel = (tl.program_id(0) * BC + tl.arange(0, BC))[None, :]
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    total = tl.zeros([BT, BC], tl.float32)
    for start in range(0, tiles, BT):
        tile = (start + tl.arange(0, BT))[:, None]
        mask = (tile < tiles) & (channel < channels)
        at = (image * tiles + tile) * channels + channel
        total += tl.load(sums + at, mask=mask, other=0.0)
    mean = tl.sum(total, axis=0)[None, :].to(pooled.dtype.element_ty)
    tl.store(pooled + image * channels + channel, mean, mask=channel < channels)


def depthwise(
    x: Tensor,
    filters: Tensor,
    scale: Tensor,
    shift: Tensor,
    stride: int = 1,
    activation: str = "identity",
    pool: bool = False,
) -> tuple[Tensor, Tensor]:
    """As `kernels.ops.depthwise`, on the current stream."""
    x = x.contiguous()
    config = choose(x, filters, stride, pool)
    out = x.new_empty(out_shape(x, stride))
    pooled = x.new_empty((x.shape[0], x.shape[3]) if pool else (0,))
    partial = x.new_empty(partial_shape(x, stride, pool, config), dtype=torch.float32)
    for launch in launches(
        x, filters, scale, shift, stride, activation, pool,
        out=out, pooled=pooled, partial=partial, config=config,
    ):  # fmt: skip
        launch.run()
    return out, pooled


def out_shape(x: Tensor, stride: int) -> tuple[int, int, int, int]:
    """[N, H', W', C]."""
    batch, height, width, channels = x.shape
    return batch, -(-height // stride), -(-width // stride), channels


def choose(x: Tensor, filters: Tensor, stride: int, pool: bool) -> Config:
    """The table's configuration for these arguments."""
    batch, _, side, channels = out_shape(x, stride)
    sizes = {"planes": batch * channels, "side": side, "kernel": len(filters), "stride": stride}
    table = "depthwise_pool" if pool else "depthwise"
    return lookup(table, x.device, sizes, x.dtype, filter_unit(filters) == 1)


def filter_unit(filters: Tensor) -> int:
    """The unit of the channels and of the bank's strides."""
    return unit_of(filters.shape[2], filters.stride(0), filters.stride(1))


def partial_shape(x: Tensor, stride: int, pool: bool, config: Config) -> tuple[int, int, int]:
    """[N, tiles, C] of the float32 scratch; no elements where one tile holds a whole map."""
    batch, channels = x.shape[0], x.shape[3]
    _, strips = blocks(x, stride, config)
    return batch, strips.tiles if pool and strips.tiles > 1 else 0, channels


def blocks(x: Tensor, stride: int, config: Config) -> tuple[int, Strips]:
    """The channels of a program, ``BC`` or all there are, and how its tiles cover a map."""
    _, height, width, channels = out_shape(x, stride)
    block = min(config.tiles["BC"], max(8, triton.next_power_of_2(channels)))
    return block, cover(height, width, config, config.tiles["BC"] // block)


def launches(
    x: Tensor,
    filters: Tensor,
    scale: Tensor,
    shift: Tensor,
    stride: int,
    activation: str,
    pool: bool,
    *,
    out: Tensor,
    pooled: Tensor,
    partial: Tensor,
    config: Config,
    pdl: bool = False,
) -> tuple[Launch, ...]:
    """What writes the result into ``out`` (`out_shape`) and, with ``pool``, ``pooled`` [N, C].

    ``partial`` is scratch of `partial_shape`; its contents before do not matter. ``pdl``: every
    launch waits by itself for the one before it on the stream, which must know of this too.
    ``ValueError`` for filters whose channels are not adjacent.
    """
    check_filters(filters)
    batch, height, width, channels = x.shape
    _, out_height, out_width, _ = out_shape(x, stride)
    block, strips = blocks(x, stride, config)
    unit = filter_unit(filters)
    unroll = min(config.tiles["UNROLL"], len(filters))
    several = strips.tiles > 1
    sums = (partial if several else pooled) if pool else None
    filtered = Launch(
        kernel=filter_tiles,
        grid=(triton.cdiv(channels, block), strips.tiles, batch),
        arguments={
            "x": x, "filters": filters, "scale": scale, "shift": shift, "out": out, "sums": sums,
            "height": height, "width": width, "out_height": out_height, "out_width": out_width,
            "channel_units": channels // unit, "row_units": filters.stride(0) // unit,
            "tap_units": filters.stride(1) // unit, "across": strips.across,
            "share": 1.0 / (out_height * out_width),
        },
        constants={
            "UNIT": unit, "K": len(filters), "STRIDE": stride, "ACTIVATION": activation,
            **strips.constants, "BC": block, "UNROLL": unroll, "PDL": pdl,
        },
        options=options(config.options | (ALL_REGISTERS if unroll > 1 else {}), pdl),
    )  # fmt: skip
    if not (pool and several):
        return (filtered,)
    added = Launch(
        kernel=add_tiles,
        grid=(triton.cdiv(channels, MEAN_TILES["BC"]), batch),
        arguments={
            "sums": partial, "pooled": pooled, "tiles": strips.tiles,
            "channel_units": channels // unit,
        },
        constants={"UNIT": unit, **MEAN_TILES, "PDL": pdl},
        options=options({"num_warps": 4, "num_stages": 1}, pdl),
    )  # fmt: skip
    return filtered, added


def check_filters(filters: Tensor) -> None:
    """``ValueError`` for a bank that is not tap-major."""
    if filters.shape[2] > 1 and filters.stride(2) != 1:
        raise ValueError(f"filters with strides {filters.stride()} are not tap-major")
