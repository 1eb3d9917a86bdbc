"""The head on a GPU: one launch for few images, a mean and a GEMM for many.

One launch makes every program average the image again, for its own few outputs: the reads stay in
L2, and what is saved is a launch. With more images those reads cost more than a launch does.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.configs import Config, lookup
from kernels.epilogue import (
    activate,
    await_previous,
    check_rows,
    load_affine,
    options,
    unit_of,
)
from kernels.launch import Launch
from kernels.ops.pointwise import kernel as pointwise


@triton.jit
def mean_of(
    image: tl.tensor,
    pixels: tl.tensor,
    c: tl.tensor,
    channels: tl.tensor,
    BP: tl.constexpr,
    BC: tl.constexpr,
) -> tl.tensor:
    """The mean over the pixels of one image [pixels, c], at ``channels`` [BC], in float32."""
    total = tl.zeros([BC], tl.float32)
    for first in tl.range(0, pixels, BP, loop_unroll_factor=4):
        pixel = first + tl.arange(0, BP)
        inside = (pixel < pixels)[:, None] & (channels < c)[None, :]
        values = tl.load(image + pixel[:, None] * c + channels[None, :], mask=inside, other=0.0)
        total += tl.sum(values.to(tl.float32), 0)
    return total / pixels


@triton.jit(do_not_specialize=["n", "c_units", "row_units", "pixels"])
def fused(
    x: tl.tensor,
    weight: tl.tensor,
    scale: tl.tensor,
    shift: tl.tensor,
    out: tl.tensor,
    n: tl.tensor,
    c_units: tl.tensor,
    row_units: tl.tensor,
    pixels: tl.tensor,
    C_UNIT: tl.constexpr,
    ACTIVATION: tl.constexpr,
    BN: tl.constexpr,
    BC: tl.constexpr,
    BP: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    """BN outputs of one image: its mean, the product with BN rows, and what follows."""
    c = c_units * C_UNIT
    row_stride = row_units * C_UNIT
    columns = tl.program_id(0) * BN + tl.arange(0, BN)
    inside = columns < n
    factor, term = load_affine(scale, shift, columns, inside, BN)
    if PDL:
        await_previous(weight, columns, n, row_stride, c)
    image = x + tl.program_id(1).to(tl.int64) * pixels * c
    rows = columns.to(tl.int64)[:, None] * row_stride
    product = tl.zeros([BN, BC], tl.float32)
    for first in range(0, c, BC):
        channels = first + tl.arange(0, BC)
        both = inside[:, None] & (channels < c)[None, :]
        values = tl.load(weight + rows + channels[None, :], mask=both, other=0.0).to(tl.float32)
        product += values * mean_of(image, pixels, c, channels, BP, BC)[None, :]
    y = activate(tl.sum(product, 1) * factor + term, ACTIVATION)
    at = tl.program_id(1).to(tl.int64) * n + columns
    tl.store(out + at, y.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["c_units", "pixels"])
def average(
    x: tl.tensor,
    out: tl.tensor,
    c_units: tl.tensor,
    pixels: tl.tensor,
    C_UNIT: tl.constexpr,
    BC: tl.constexpr,
    BP: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    """BC channels of one image's mean: ``out`` [N, c] of ``x`` [N, pixels, c]."""
    c = c_units * C_UNIT
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    image = tl.program_id(1).to(tl.int64)
    channels = tl.program_id(0) * BC + tl.arange(0, BC)
    mean = mean_of(x + image * pixels * c, pixels, c, channels, BP, BC)
    tl.store(out + image * c + channels, mean.to(out.dtype.element_ty), mask=channels < c)


def head(
    x: Tensor,
    weight: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    activation: str = "identity",
) -> Tensor:
    """As `kernels.ops.head`, on the current stream."""
    x = x.contiguous()
    out = x.new_empty((x.shape[0], weight.shape[0]))
    mean = x.new_empty((x.shape[0], x.shape[3]))
    config, product = choose(x, weight), pointwise.choose(mean, weight)
    partial = x.new_empty(pointwise.partial_shape(mean, weight, product), dtype=torch.float32)
    for launch in launches(
        x, weight, scale, shift, activation,
        out=out, mean=mean, partial=partial, config=config, product=product,
    ):  # fmt: skip
        launch.run()
    return out


def choose(x: Tensor, weight: Tensor) -> Config:
    """The table's configuration for these arguments."""
    n, k = weight.shape
    shape = {"m": x.shape[0], "n": n, "k": k}
    return lookup("head", x.device, shape, x.dtype, unit_of(k, weight.stride(0)) == 1)


def launches(
    x: Tensor,
    weight: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    activation: str,
    *,
    out: Tensor,
    mean: Tensor,
    partial: Tensor,
    config: Config,
    product: Config,
    pdl: bool = False,
) -> tuple[Launch, ...]:
    """What writes the result into ``out`` [N, C_out].

    More images than the configuration's ``FUSED`` are averaged into the scratch ``mean`` [N, C],
    and multiplied as a `pointwise` with ``product`` and ``partial``, which see there.
    """
    check_rows(weight)
    (n, c), images = weight.shape, x.shape[0]
    tiles = {key: config.tiles[key] for key in ("BC", "BP")}
    tiles["BC"] = min(tiles["BC"], triton.next_power_of_2(c))
    pixels = x.shape[1] * x.shape[2]
    scheduling = options(config.options, pdl)
    if images <= config.tiles["FUSED"]:
        unit = unit_of(c, weight.stride(0))
        return (
            Launch(
                kernel=fused,
                grid=(triton.cdiv(n, config.tiles["BN"]), images),
                arguments={
                    "x": x,
                    "weight": weight,
                    "scale": scale,
                    "shift": shift,
                    "out": out,
                    "n": n,
                    "c_units": c // unit,
                    "row_units": weight.stride(0) // unit,
                    "pixels": pixels,
                },
                constants={
                    "C_UNIT": unit,
                    "ACTIVATION": activation,
                    "BN": config.tiles["BN"],
                    **tiles,
                    "PDL": pdl,
                },
                options=scheduling,
            ),
        )
    unit = unit_of(c)
    averaging = Launch(
        kernel=average,
        grid=(triton.cdiv(c, tiles["BC"]), images),
        arguments={"x": x, "out": mean, "c_units": c // unit, "pixels": pixels},
        constants={"C_UNIT": unit, **tiles, "PDL": pdl},
        options=scheduling,
    )
    return averaging, *pointwise.launches(
        mean, weight, scale, shift, activation, None, None,
        out=out, partial=partial, config=product, pdl=pdl,
    )  # fmt: skip
