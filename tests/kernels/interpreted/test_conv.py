"""The Triton dense convolution equals its meaning."""

from itertools import product

import pytest
import torch
import triton
import triton.language as tl

from kernels.ops.conv import kernel, result_shape
from kernels.ops.conv.reference import conv as meaning
from tests.kernels.interpreted.common import SPLIT, TILED, WHOLE, check
from tests.kernels.interpreted.poison import DTYPES, close, exactly, framed, prefix, unwritten

PARTS = ("scale", "shift", "residual")
KINDS = [(3, 1, 1), (3, 2, 1), (7, 2, 3), (1, 2, 0), (2, 2, 0), (5, 1, 0), (3, 1, 3)]
"""(side, stride, padding)"""


def arguments(pixels, inputs, outputs, kind=(3, 1, 1), dtype=torch.float32, **others):
    """``pixels`` is [N, H, W]; the weight is a slice in both channels."""
    side, stride, padding = kind
    parts = others.get("parts", PARTS)
    x = framed(*pixels, inputs, dtype=dtype)
    weight = prefix(
        outputs, side * side, inputs,
        more=(5, 0, others.get("more", 8)), dtype=dtype, scale=(side * side * inputs) ** -0.5,
    )  # fmt: skip
    return (
        x,
        weight,
        prefix(outputs, more=(8,), dtype=dtype) if "scale" in parts else None,
        prefix(outputs, more=(8,), dtype=dtype) if "shift" in parts else None,
        stride,
        padding,
        others.get("activation", "h_swish"),
        framed(*result_shape(x, weight, stride, padding), dtype=dtype)
        if "residual" in parts
        else None,
    )


def right(given, config=WHOLE):
    x, weight, _, _, stride, padding = given[:6]
    partial = unwritten(*kernel.partial_shape(x, weight, stride, padding, config))
    shape = result_shape(x, weight, stride, padding)
    return check(kernel.launches, meaning, given, shape, partial=partial, config=config)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("inputs", [24, 3])
def test_every_type(inputs, dtype):
    right(arguments((2, 7, 9), inputs, 40, dtype=dtype))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("inputs", [16, 3])
def test_every_kind_of_window(inputs, kind):
    right(arguments((2, 9, 8), inputs, 16, kind))


@pytest.mark.parametrize("activation", ["identity", "relu", "h_swish", "h_sigmoid"])
def test_every_activation(activation):
    right(arguments((1, 5, 5), 8, 16, activation=activation))


@pytest.mark.parametrize("there", list(product([False, True], repeat=3)))
def test_with_and_without_each_part(there):
    parts = [part for part, t in zip(PARTS, there, strict=True) if t]
    right(arguments((2, 3, 3), 8, 16, parts=parts))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("inputs", "kind", "programs"), [(40, (3, 1, 1), 2 * 2), (3, (3, 2, 1), 4 * 2)]
)
def test_tiles_meet_without_gaps_within_an_image_and_between_images(inputs, kind, programs, dtype):
    pixels = (2, 5, 5) if inputs == 40 else (2, 13, 14)
    (launch,) = right(arguments(pixels, inputs, 24, kind, dtype), TILED)

    assert launch.grid == (programs, 1)


def test_a_tile_holds_many_images():
    right(arguments((20, 3, 3), 8, 8, (3, 1, 0)), TILED)


@pytest.mark.parametrize(
    ("inputs", "outputs", "more"), [(17, 13, 8), (1, 24, 0), (8, 7, 8), (16, 8, 3)]
)
def test_channels_that_no_eight_divides(inputs, outputs, more):
    right(arguments((2, 5, 6), inputs, outputs, more=more))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("inputs", "kind"), [(40, (3, 1, 1)), (12, (3, 2, 1))])
def test_parts_of_a_split_sum_add_up(inputs, kind, dtype):
    made = right(arguments((1, 7, 7), inputs, 40, kind, dtype), SPLIT)

    assert len(made) == 2
    assert made[0].grid[1] == 4


@pytest.mark.parametrize("inputs", [8, 3])
def test_the_op_takes_its_tiles_from_the_table(inputs):
    given = arguments((2, 6, 6), inputs, 16, (3, 2, 1))
    x, weight, scale, shift, residual = exactly(*given[:4], given[7])

    close(kernel.conv(*given), meaning(x, weight, scale, shift, 2, 1, "h_swish", residual),
          torch.float32)  # fmt: skip


def test_launches_are_made_from_shapes_alone():
    x, weight, out = (
        torch.empty(shape, device="meta", dtype=torch.bfloat16)
        for shape in ((2, 14, 14, 40), (64, 9, 40), (2, 7, 7, 64))
    )

    (launch,) = kernel.launches(
        x, weight, None, None, 2, 1, "relu", None,
        out=out, partial=torch.empty(0, device="meta"), config=TILED,
    )  # fmt: skip

    assert launch.grid == (4 * 4, 1)


@triton.jit
def quotients(out, divisor, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    tl.store(out + at, kernel.divide(at, divisor))


@pytest.mark.parametrize("divisor", [1, 2, 3, 41, 56, 83, 112, 113, 4095, 65537])
def test_small_numbers_are_divided_exactly(divisor):
    out = torch.empty(1 << 20, dtype=torch.int32)

    quotients[(1,)](out, divisor, SIZE=1 << 20)

    assert torch.equal(out, torch.arange(1 << 20, dtype=torch.int32) // divisor)
