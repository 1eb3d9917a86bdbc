"""1x1 convolution on a GPU: one GEMM over the pixels, on the strided slice of the arena."""

import math

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

SIZES = [
    "m", "n_units", "k_units", "weight_units", "pixels", "group_rows", "group_tiles", "part",
]  # fmt: skip


@triton.jit(do_not_specialize=SIZES)
def multiply(
    x: tl.tensor,
    weight: tl.tensor,
    scale: tl.tensor,
    shift: tl.tensor,
    residual: tl.tensor,
    gate: tl.tensor,
    out: tl.tensor,
    m: tl.tensor,
    n_units: tl.tensor,
    k_units: tl.tensor,
    weight_units: tl.tensor,
    pixels: tl.tensor,
    group_rows: tl.tensor,
    group_tiles: tl.tensor,
    part: tl.tensor,
    K_UNIT: tl.constexpr,
    N_UNIT: tl.constexpr,
    GATE: tl.constexpr,
    ACTIVATION: tl.constexpr,
    SPLIT: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    UPCAST: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    """A tile [BM, BN] of x [m, k] · weight [n, k]ᵀ, finished; of a part of k where SPLIT.

    Rows are tiled within groups of ``group_rows``: an image each where GATE is "image", so that
    one gate [BK] serves a tile, else all of them. Programs that share rows of x run side by side.
    """
    n = n_units * N_UNIT
    k = k_units * K_UNIT
    row_stride = weight_units * K_UNIT
    n_tiles = tl.cdiv(n, BN)
    tile = tl.program_id(0) // n_tiles
    group = tile // group_tiles
    first = (tile % group_tiles) * BM
    row = tl.arange(0, BM)
    row_inside = first + row < group_rows
    first_row = group.to(tl.int64) * group_rows + first
    first_column = (tl.program_id(0) % n_tiles) * BN
    column = tl.arange(0, BN)
    columns = first_column + column
    column_inside = columns < n
    factor, term = load_affine(scale, shift, columns, column_inside, BN)
    begin = 0
    end = k
    if SPLIT:
        begin = tl.program_id(1) * part * BK
        end = tl.minimum(begin + part * BK, k)
    if PDL:
        await_previous(weight + begin, columns, n, row_stride, k - begin)
    inside = row_inside[:, None] & column_inside[None, :]
    at = first_row * n + (row[:, None] * n + columns[None, :])
    if BM * BN <= EARLY:
        extra = load_residual(residual, at, inside)
    inner = tl.arange(0, BK)
    x_tile = x + first_row * k
    x_at = row[:, None] * k + inner[None, :]
    weight_tile = weight + first_column.to(tl.int64) * row_stride
    weight_at = column[:, None] * row_stride + inner[None, :]
    if GATE == "row":
        gate_at = ((first_row + row) // pixels)[:, None] * k + inner[None, :]
    product = tl.zeros([BM, BN], tl.float32)
    for start in range(begin, end, BK):
        inner_inside = (start + inner < k)[None, :]
        a = tl.load(x_tile + start + x_at, mask=row_inside[:, None] & inner_inside, other=0.0)
        b = tl.load(
            weight_tile + start + weight_at, mask=column_inside[:, None] & inner_inside, other=0.0
        )
        if UPCAST:
            a, b = a.to(tl.float32), b.to(tl.float32)
        if GATE == "image":
            gates = tl.load(gate + group * k + start + inner, mask=start + inner < k, other=0.0)
            a *= gates.to(a.dtype)[None, :]
        elif GATE == "row":
            gates = tl.load(
                gate + start + gate_at, mask=row_inside[:, None] & inner_inside, other=0.0
            )
            a *= gates.to(a.dtype)
        product = tl.dot(a, tl.trans(b), product, input_precision="ieee")
    if SPLIT:
        plane = tl.program_id(1).to(tl.int64) * m * n
        tl.store(out + plane + at, product, mask=inside)
    else:
        if BM * BN > EARLY:
            extra = load_residual(residual, at, inside)
        finish(product, factor, term, extra, out, at, inside, ACTIVATION)


def pointwise(
    x: Tensor,
    weight: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    activation: str = "identity",
    residual: Tensor | None = None,
    gate: Tensor | None = None,
) -> Tensor:
    """As `kernels.ops.pointwise`, on the current stream."""
    x = x.contiguous()
    config = choose(x, weight)
    out = x.new_empty((*x.shape[:-1], weight.shape[0]))
    partial = x.new_empty(partial_shape(x, weight, config), dtype=torch.float32)
    for launch in launches(
        x, weight, scale, shift, activation, residual, gate, out=out, partial=partial, config=config
    ):
        launch.run()
    return out


def choose(x: Tensor, weight: Tensor) -> Config:
    """The table's configuration for these arguments."""
    n, k = weight.shape
    shape = {"m": x.numel() // k, "n": n, "k": k}
    return lookup("pointwise", x.device, shape, x.dtype, unit_of(n, k, weight.stride(0)) == 1)


def partial_shape(x: Tensor, weight: Tensor, config: Config) -> tuple[int, int, int]:
    """[splits, M, N] of the float32 scratch that `launches` wants; no elements without a split."""
    n, k = weight.shape
    splits, _ = split(triton.cdiv(k, fit(config.tiles["BK"], k)), config.tiles["SPLIT_K"])
    return (splits if splits > 1 else 0, x.numel() // k, n)


def launches(
    x: Tensor,
    weight: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    activation: str,
    residual: Tensor | None,
    gate: Tensor | None,
    *,
    out: Tensor,
    partial: Tensor,
    config: Config,
    pdl: bool = False,
) -> tuple[Launch, ...]:
    """What writes the result into ``out`` [N, ..., C_out], contiguous as ``x`` is.

    ``partial`` is scratch of `partial_shape`; its contents before do not matter. ``pdl``: every
    launch waits by itself for the one before it on the stream, and reads only weights, scale and
    shift before: nothing that is still running may write those.
    """
    check_rows(weight)
    n, k = weight.shape
    m, images = x.numel() // k, x.shape[0]
    tiles = {
        "BM": fit(config.tiles["BM"], m),
        "BN": fit(config.tiles["BN"], n),
        "BK": fit(config.tiles["BK"], k),
    }
    splits, part = split(triton.cdiv(k, tiles["BK"]), config.tiles["SPLIT_K"])
    gating = "none" if gate is None else gate_by(images, m // images, tiles["BM"])
    if gating == "image":
        # A gate for every thread would be too narrow a copy to run ahead, and stall each step.
        step = min(tiles["BK"], 16 * config.num_warps)
        tiles["BK"], part = step, part * (tiles["BK"] // step)
    groups = images if gating == "image" else 1
    group_tiles = triton.cdiv(m // groups, tiles["BM"])
    k_unit, n_unit = unit_of(k, weight.stride(0)), unit_of(n)
    split_k = splits > 1
    ending = {"scale": scale, "shift": shift, "residual": residual}
    product = Launch(
        kernel=multiply,
        grid=(groups * group_tiles * triton.cdiv(n, tiles["BN"]), splits),
        arguments={
            "x": x,
            "weight": weight,
            **(dict.fromkeys(ending) if split_k else ending),
            "gate": gate,
            "out": partial if split_k else out,
            "m": m,
            "n_units": n // n_unit,
            "k_units": k // k_unit,
            "weight_units": weight.stride(0) // k_unit,
            "pixels": m // images,
            "group_rows": m // groups,
            "group_tiles": group_tiles,
            "part": part,
        },
        constants={
            "K_UNIT": k_unit,
            "N_UNIT": n_unit,
            "GATE": gating,
            "ACTIVATION": "identity" if split_k else activation,
            "SPLIT": split_k,
            **tiles,
            "UPCAST": upcast(multiply, x.dtype),
            "PDL": pdl,
        },
        options=options(config.options, pdl),
    )
    if not split_k:
        return (product,)
    return product, sum_launch(partial, scale, shift, residual, out, activation, pdl)


def gate_by(images: int, pixels: int, rows: int) -> str:
    """Whether tiles of ``rows`` rows are cut per image, with one gate each, or gated row by row.

    Cutting leaves a tile of every image partly empty; by a third more work is still cheaper than
    reading a gate for every element.
    """
    cut, whole = images * math.ceil(pixels / rows), math.ceil(images * pixels / rows)
    return "image" if 3 * cut <= 4 * whole else "row"
