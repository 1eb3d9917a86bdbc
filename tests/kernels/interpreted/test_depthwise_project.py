"""The fused depthwise convolution and projection equals the two after each other."""

import pytest
import torch

from kernels.activation import OUT_OF_PLACE
from kernels.configs import Config
from kernels.ops.depthwise_project import kernel
from kernels.ops.depthwise_project.reference import depthwise_project as meaning
from tests.kernels.interpreted.common import landing, run
from tests.kernels.interpreted.poison import DTYPES, close, framed, prefix

ONE_TILE = {"STRIPS": 32, "STRIP": 3, "BN": 128, "BK": 128, "UNROLL": 1}
FOUR_TILES = {"STRIPS": 16, "STRIP": 2, "BN": 16, "BK": 16, "UNROLL": 2}  # of a map of 13 x 7


def arguments(
    n, height, width, channels, outputs, k, dtype=torch.float32, stride=1,
    activations=("h_swish", "identity"), residual=False, norm=True,
):  # fmt: skip
    """The op's, with slices of larger weights."""
    sides = [-(-side // stride) for side in (height, width)]
    return (
        framed(n, height, width, channels, dtype=dtype),
        prefix(k, k, channels, more=(0, 0, 8), dtype=dtype, scale=1 / k),
        prefix(channels, more=(8,), dtype=dtype),
        prefix(channels, more=(8,), dtype=dtype),
        stride,
        activations[0],
        prefix(outputs, channels, more=(5, 8), dtype=dtype, scale=channels**-0.5),
        prefix(outputs, more=(8,), dtype=dtype) if norm else None,
        prefix(outputs, more=(8,), dtype=dtype) if norm else None,
        activations[1],
        framed(n, *sides, outputs, dtype=dtype) if residual else None,
    )


def expected(given):
    return meaning(*(a.double() if isinstance(a, torch.Tensor) else a for a in given))


def check(given, tiles=ONE_TILE):
    """The launch, which wrote the result and nothing around it."""
    x, stride, weight = given[0], given[4], given[6]
    memory, out = landing(*kernel.out_shape(x, stride)[:3], len(weight), dtype=x.dtype)
    made = kernel.launches(*given, out=out, config=Config(tiles, 4, 1))
    run(made, memory)
    close(out, expected(given), x.dtype)
    return made[0]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("k", [3, 5, 7])
def test_every_filter_and_stride_on_an_odd_map(k, stride):
    check(arguments(1, 7, 10, 24, 40, k, stride=stride))


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_with_and_without_a_residual(dtype, residual):
    check(arguments(2, 9, 5, 24, 40, 5, dtype, stride=2, residual=residual))


@pytest.mark.parametrize("activation", OUT_OF_PLACE)
def test_every_activation_in_either_place(activation):
    check(arguments(1, 5, 5, 8, 16, 3, activations=(activation, "identity")))
    check(arguments(1, 5, 5, 8, 16, 3, activations=("identity", activation), residual=True))


@pytest.mark.parametrize(("channels", "outputs"), [(8, 8), (17, 5), (40, 24), (136, 17)])
def test_any_number_of_channels_and_outputs(channels, outputs):
    check(arguments(1, 4, 5, channels, outputs, 3))


def test_tiles_meet_without_gaps_in_rows_columns_channels_outputs_and_images():
    launch = check(arguments(2, 13, 7, 24, 24, 3, residual=True), FOUR_TILES)

    assert launch.grid == (2, 4, 2)
    assert launch.arguments["across"] == 2


def test_a_projection_without_a_norm():
    check(arguments(1, 5, 4, 24, 16, 5, norm=False))


def test_the_op_takes_its_tiles_from_the_table():
    given = arguments(2, 7, 7, 24, 16, 5, stride=2, residual=True)

    close(kernel.depthwise_project(*given), expected(given), torch.float32)


def test_launches_are_made_from_shapes_alone():
    x, filters, middle, weight, norm, out = (
        torch.empty(shape, device="meta")
        for shape in ((2, 26, 14, 24), (5, 5, 24), (24,), (40, 24), (40,), (2, 13, 7, 40))
    )

    (launch,) = kernel.launches(
        x, filters, middle, middle, 2, "relu", weight, norm, norm, "identity", None,
        out=out, config=Config(FOUR_TILES, 2, 1),
    )  # fmt: skip

    assert launch.grid == (3, 4, 2)
