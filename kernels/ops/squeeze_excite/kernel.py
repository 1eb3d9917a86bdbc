"""The gates of squeeze-and-excite on a GPU: one launch where the weights are small, else two."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.configs import Config, lookup
from kernels.epilogue import activate, await_previous, check_rows, fit, options, unit_of, upcast
from kernels.launch import Launch
from kernels.ops.pointwise import kernel as pointwise

SIZES = ["images", "channel_units", "middle_units", "reduce_units", "expand_units"]


@triton.jit(do_not_specialize=SIZES)
def gates(
    pooled: tl.tensor,
    reduce_weight: tl.tensor,
    reduce_bias: tl.tensor,
    expand_weight: tl.tensor,
    expand_bias: tl.tensor,
    out: tl.tensor,
    images: tl.tensor,
    channel_units: tl.tensor,
    middle_units: tl.tensor,
    reduce_units: tl.tensor,
    expand_units: tl.tensor,
    CHANNEL_UNIT: tl.constexpr,
    MIDDLE_UNIT: tl.constexpr,
    BI: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    UPCAST: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    """A block [BI, BN] of h_sigmoid(W₂ relu(W₁ pooled + b₁) + b₂).

    Every block of channels computes all of the middle, BM at most, once more: reading W₁ again
    takes less than another launch would.
    """
    channels = channel_units * CHANNEL_UNIT
    middle = middle_units * MIDDLE_UNIT
    reduce_row, expand_row = reduce_units * CHANNEL_UNIT, expand_units * MIDDLE_UNIT
    image = tl.program_id(1) * BI + tl.arange(0, BI)
    column = tl.program_id(0) * BN + tl.arange(0, BN)
    hidden = tl.arange(0, BM)
    inner = tl.arange(0, BK)
    if PDL:
        await_previous(reduce_weight, hidden, middle, reduce_row, channels)
    expanding = tl.load(
        expand_weight + column[:, None] * expand_row + hidden[None, :],
        mask=(column < channels)[:, None] & (hidden < middle)[None, :],
        other=0.0,
    )
    squeezed = tl.zeros([BI, BM], tl.float32)
    for start in range(0, channels, BK):
        inside = (start + inner < channels)[None, :]
        a = tl.load(
            pooled + (image[:, None] * channels + (start + inner)[None, :]),
            mask=(image < images)[:, None] & inside,
            other=0.0,
        )
        b = tl.load(
            reduce_weight + (hidden[:, None] * reduce_row + (start + inner)[None, :]),
            mask=(hidden < middle)[:, None] & inside,
            other=0.0,
        )
        if UPCAST:
            a, b = a.to(tl.float32), b.to(tl.float32)
        squeezed = tl.dot(a, tl.trans(b), squeezed, input_precision="ieee")
    bias = tl.load(reduce_bias + hidden, mask=hidden < middle, other=0.0)
    squeezed = activate(squeezed + bias.to(tl.float32)[None, :], "relu")
    if UPCAST:
        expanding = expanding.to(tl.float32)
    bias = tl.load(expand_bias + column, mask=column < channels, other=0.0).to(tl.float32)
    gate = tl.dot(squeezed.to(expanding.dtype), tl.trans(expanding), input_precision="ieee")
    tl.store(
        out + (image[:, None] * channels + column[None, :]),
        activate(gate + bias[None, :], "h_sigmoid").to(out.dtype.element_ty),
        mask=(image < images)[:, None] & (column < channels)[None, :],
    )


def squeeze_excite(
    pooled: Tensor,
    reduce_weight: Tensor,
    reduce_bias: Tensor,
    expand_weight: Tensor,
    expand_bias: Tensor,
) -> Tensor:
    """As `kernels.ops.squeeze_excite`, on the current stream."""
    pooled = pooled.contiguous()
    config = choose(pooled, reduce_weight)
    out = torch.empty_like(pooled)
    middle = pooled.new_empty(middle_shape(pooled, reduce_weight, config))
    for launch in launches(
        pooled, reduce_weight, reduce_bias, expand_weight, expand_bias,
        out=out, middle=middle, config=config,
    ):  # fmt: skip
        launch.run()
    return out


def choose(pooled: Tensor, reduce_weight: Tensor) -> Config:
    """The table's configuration for these arguments."""
    images, channels = pooled.shape
    sizes = {"images": images, "channels": channels, "middle": len(reduce_weight)}
    return lookup("squeeze_excite", pooled.device, sizes, pooled.dtype)


def middle_shape(pooled: Tensor, reduce_weight: Tensor, config: Config) -> tuple[int, int]:
    """[N, M] of the scratch, of ``pooled``'s type; no elements where one launch does it all."""
    fused = len(reduce_weight) <= config.tiles["BM"]
    return 0 if fused else len(pooled), len(reduce_weight)


def launches(
    pooled: Tensor,
    reduce_weight: Tensor,
    reduce_bias: Tensor,
    expand_weight: Tensor,
    expand_bias: Tensor,
    *,
    out: Tensor,
    middle: Tensor,
    config: Config,
    pdl: bool = False,
) -> tuple[Launch, ...]:
    """What writes the gates into ``out`` [N, C]: one launch where M is at most ``BM``.

    ``middle`` is scratch of `middle_shape`; its contents before do not matter. ``pdl``: every
    launch waits by itself for the one before it on the stream, which must know of this too.
    """
    (images, channels), m, tiles = pooled.shape, len(reduce_weight), config.tiles
    if m > tiles["BM"]:
        shared = {"BM": tiles["BI"], "BN": tiles["BN"], "BK": tiles["BK"], "SPLIT_K": 1}
        plain = Config(shared, config.num_warps, config.num_stages)
        partial = middle.new_empty((0, images, m), dtype=torch.float32)
        layers = (
            (pooled, reduce_weight, reduce_bias, "relu", middle),
            (middle, expand_weight, expand_bias, "h_sigmoid", out),
        )
        return tuple(
            launch
            for x, weight, bias, activation, result in layers
            for launch in pointwise.launches(
                x, weight, None, bias, activation, None, None,
                out=result, partial=partial, config=plain, pdl=pdl,
            )
        )  # fmt: skip
    check_rows(reduce_weight)
    check_rows(expand_weight)
    channel_unit = unit_of(channels, reduce_weight.stride(0))
    middle_unit = unit_of(m, expand_weight.stride(0))
    blocks = {
        "BI": fit(tiles["BI"], images), "BM": fit(tiles["BM"], m),
        "BN": fit(tiles["BN"], channels), "BK": fit(tiles["BK"], channels),
    }  # fmt: skip
    launch = Launch(
        kernel=gates,
        grid=(triton.cdiv(channels, blocks["BN"]), triton.cdiv(images, blocks["BI"])),
        arguments={
            "pooled": pooled, "reduce_weight": reduce_weight, "reduce_bias": reduce_bias,
            "expand_weight": expand_weight, "expand_bias": expand_bias, "out": out,
            "images": images, "channel_units": channels // channel_unit,
            "middle_units": m // middle_unit,
            "reduce_units": reduce_weight.stride(0) // channel_unit,
            "expand_units": expand_weight.stride(0) // middle_unit,
        },
        constants={
            "CHANNEL_UNIT": channel_unit, "MIDDLE_UNIT": middle_unit, **blocks,
            "UPCAST": upcast(gates, pooled.dtype), "PDL": pdl,
        },
        options=options(config.options, pdl),
    )  # fmt: skip
    return (launch,)
