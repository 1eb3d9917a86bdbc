"""The Triton 1x1 convolution equals its meaning."""

from itertools import product

import pytest
import torch

from kernels.configs import Config
from kernels.ops.pointwise import kernel
from kernels.ops.pointwise.reference import pointwise as meaning
from tests.kernels.interpreted.common import SPLIT, TILED, WHOLE, check
from tests.kernels.interpreted.poison import DTYPES, close, exactly, framed, prefix, unwritten

PARTS = ("scale", "shift", "residual", "gate")


def arguments(
    pixels, inputs, outputs, dtype=torch.float32, activation="h_swish", parts=PARTS, more=(5, 8)
):
    """``pixels`` is [N, ...]; the weight is a slice of one that is ``more`` larger."""
    return (
        framed(*pixels, inputs, dtype=dtype),
        prefix(outputs, inputs, more=more, dtype=dtype, scale=inputs**-0.5),
        prefix(outputs, more=(8,), dtype=dtype) if "scale" in parts else None,
        prefix(outputs, more=(8,), dtype=dtype) if "shift" in parts else None,
        activation,
        framed(*pixels, outputs, dtype=dtype) if "residual" in parts else None,
        framed(pixels[0], inputs, dtype=dtype) if "gate" in parts else None,
    )


def right(given, config=WHOLE):
    x, weight = given[:2]
    partial = unwritten(*kernel.partial_shape(x, weight, config))
    shape = (*x.shape[:-1], len(weight))
    return check(kernel.launches, meaning, given, shape, partial=partial, config=config)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("parts", [PARTS, ()], ids=["all", "none"])
def test_every_type(parts, dtype):
    right(arguments((2, 7, 7), 136, 40, dtype, parts=parts))


@pytest.mark.parametrize("activation", ["identity", "relu", "h_swish", "h_sigmoid"])
def test_every_activation(activation):
    right(arguments((1, 5, 5), 24, 16, activation=activation))


@pytest.mark.parametrize("there", list(product([False, True], repeat=4)))
def test_with_and_without_each_part(there):
    right(arguments((2, 3, 3), 24, 16, parts=[p for p, t in zip(PARTS, there, strict=True) if t]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("parts", [PARTS, PARTS[:3]], ids=["gated", "plain"])
def test_tiles_meet_without_gaps(parts, dtype):
    (launch,) = right(arguments((2, 7, 7), 136, 40, dtype, parts=parts), TILED)

    assert launch.grid == (4 * 3, 1)


@pytest.mark.parametrize(
    ("inputs", "outputs", "more"),
    [(17, 13, (5, 8)), (3, 24, (5, 8)), (24, 7, (5, 8)), (24, 16, (5, 3)), (1, 1, (0, 0))],
)
def test_channels_that_no_eight_divides(inputs, outputs, more):
    right(arguments((2, 3, 5), inputs, outputs, more=more))


def test_many_programs_of_channels_that_no_eight_divides():
    right(arguments((2, 5, 5), 67, 33), TILED)


@pytest.mark.parametrize("pixels", [(3,), (1,), (2, 9), (1, 1, 1)])
def test_any_number_of_pixels(pixels):
    right(arguments(pixels, 40, 24))


@pytest.mark.parametrize(("pixels", "groups"), [((4, 5, 6), 4), ((4, 3, 3), 1)])
def test_a_gate_serves_an_image_or_a_row(pixels, groups):
    (launch,) = right(arguments(pixels, 40, 16), TILED)

    assert launch.constants["GATE"] == ("image" if groups > 1 else "row")
    assert launch.grid == (groups, 1) if groups > 1 else (2, 1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_parts_of_a_split_sum_add_up(dtype):
    made = right(arguments((1, 7, 7), 136, 40, dtype), SPLIT)

    assert [launch.grid for launch in made] == [(1, 3), (13,)]


def test_a_sum_too_short_to_be_split_is_not():
    (launch,) = right(arguments((1, 7, 7), 24, 40), SPLIT)

    assert launch.grid == (1, 1)


@pytest.mark.parametrize("channels", [24, 21])
def test_the_op_takes_its_tiles_from_the_table(channels):
    given = arguments((2, 5, 5), channels, 16)

    close(kernel.pointwise(*given), meaning(*exactly(*given[:4]), "h_swish", *exactly(*given[5:])),
          torch.float32)  # fmt: skip


def test_a_nan_of_x_is_not_hidden_by_an_activation():
    given = arguments((1, 2, 2), 8, 8, activation="relu")
    given[0][0, 0, 0] = torch.nan

    assert kernel.pointwise(*given)[0, 0, 0].isnan().all()


def test_launches_are_made_from_shapes_alone():
    x, weight, vector, out = (
        torch.empty(shape, device="meta", dtype=torch.float16)
        for shape in ((2, 8, 8, 40), (64, 40), (64,), (2, 8, 8, 64))
    )

    (launch,) = kernel.launches(
        x, weight, vector, vector, "relu", out, None,
        out=out, partial=torch.empty(0, device="meta"), config=TILED, pdl=True,
    )  # fmt: skip

    assert launch.grid == (4 * 4, 1)
    assert launch.constants["PDL"]
    assert launch.options["launch_pdl"]


def test_a_weight_whose_rows_are_not_contiguous_is_refused():
    x, weight = torch.randn(1, 2, 2, 8), torch.randn(8, 16)[:, ::2]

    with pytest.raises(ValueError, match="rows of a weight"):
        kernel.pointwise(x, weight)


def test_a_split_sum_is_gated_in_narrower_steps():
    wide = Config({"BM": 64, "BN": 64, "BK": 64, "SPLIT_K": 2}, 2, 1)
    given = arguments((1, 7, 7), 200, 24)

    product, _ = right(given, wide)

    assert (product.constants["BK"], product.arguments["part"]) == (32, 4)
