"""The Triton depthwise convolution equals its meaning, and touches nothing outside its slice."""

import pytest
import torch

from kernels.activation import OUT_OF_PLACE
from kernels.configs import Config
from kernels.ops.depthwise import kernel
from kernels.ops.depthwise.reference import depthwise as meaning
from tests.kernels.interpreted.common import landing, run
from tests.kernels.interpreted.poison import DTYPES, close, exactly, framed, prefix, unwritten

ONE_TILE = {"STRIPS": 32, "STRIP": 3, "BC": 32, "UNROLL": 1}
FOUR_TILES = {"STRIPS": 8, "STRIP": 2, "BC": 8, "UNROLL": 2}  # of a map of 8 x 7


def arguments(n, height, width, channels, k, dtype=torch.float32):
    """x, filters, scale, shift: the filters a slice, the norm the front of a longer one."""
    return (
        framed(n, height, width, channels, dtype=dtype),
        prefix(k, k, channels, more=(0, 0, 8), dtype=dtype, scale=1 / k),
        prefix(channels, more=(8,), dtype=dtype),
        prefix(channels, more=(8,), dtype=dtype),
    )


def check(given, stride, activation="identity", pool=False, tiles=ONE_TILE):
    """The launches, which wrote the result and nothing around it."""
    x, channels, config = given[0], given[0].shape[3], Config(tiles, 4, 1)
    memory, out = landing(*kernel.out_shape(x, stride), dtype=x.dtype)
    around, pooled = landing(*((len(x), channels) if pool else (0,)), dtype=x.dtype)
    partial = unwritten(*kernel.partial_shape(x, stride, pool, config))
    made = kernel.launches(
        *given, stride, activation, pool, out=out, pooled=pooled, partial=partial, config=config
    )
    run(made, memory)
    run((), around)
    expected, means = meaning(*exactly(*given), stride, activation, pool)
    close(out, expected, x.dtype)
    close(pooled, means, x.dtype)
    return made


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("k", [3, 5, 7])
def test_every_filter_and_stride_on_an_odd_map(k, stride):
    check(arguments(1, 7, 10, 24, k), stride, "h_swish")


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type(dtype):
    check(arguments(2, 9, 5, 24, 5, dtype), 2, "h_swish")


@pytest.mark.parametrize("activation", OUT_OF_PLACE)
def test_every_activation(activation):
    check(arguments(1, 5, 5, 8, 3), 1, activation)


@pytest.mark.parametrize("channels", [1, 7, 8, 17, 40, 136])
def test_any_number_of_channels(channels):
    check(arguments(1, 4, 5, channels, 3), 1, tiles={**ONE_TILE, "BC": 64})


@pytest.mark.parametrize("side", [1, 2])
def test_a_map_smaller_than_the_filter(side):
    check(arguments(2, side, side, 8, 7), 1, pool=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_means_of_maps_that_are_one_tile_take_one_launch(dtype):
    assert len(check(arguments(2, 7, 9, 24, 3, dtype), 1, "relu", pool=True)) == 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_means_of_many_tiles_are_those_of_the_whole_map(dtype):
    given = arguments(1, 8, 7, 11, 3, dtype)

    assert len(check(given, 1, "h_swish", pool=True, tiles=FOUR_TILES)) == 2


@pytest.mark.parametrize("stride", [1, 2])
def test_tiles_meet_without_gaps_in_rows_columns_channels_and_images(stride):
    side = {1: (8, 7), 2: (15, 13)}[stride]

    (launch,) = check(arguments(2, *side, 16, 3), stride, "h_sigmoid", tiles=FOUR_TILES)

    assert launch.grid == (2, 4, 2)
    assert launch.arguments["across"] == 2


def test_the_op_takes_its_tiles_from_the_table():
    given = arguments(2, 7, 7, 24, 5)

    out, pooled = kernel.depthwise(*given, 2, "relu", pool=True)

    expected, means = meaning(*exactly(*given), 2, "relu", pool=True)
    close(out, expected, torch.float32)
    close(pooled, means, torch.float32)


def test_launches_are_made_from_shapes_alone():
    x, filters, norm = (
        torch.empty(shape, device="meta") for shape in ((2, 14, 14, 24), (5, 5, 24), (24,))
    )
    config = Config(FOUR_TILES, 2, 1)
    shape = kernel.partial_shape(x, 2, True, config)

    filtered, added = kernel.launches(
        x, filters, norm, norm, 2, "relu", True,
        out=torch.empty(kernel.out_shape(x, 2), device="meta"),
        pooled=torch.empty(2, 24, device="meta"),
        partial=torch.empty(shape, device="meta"),
        config=config, pdl=True,
    )  # fmt: skip

    assert shape == (2, filtered.grid[1], 24)
    assert filtered.grid[0] == 3
    assert filtered.grid[2] == added.grid[1] == 2
    assert filtered.options["launch_pdl"]


def test_filters_whose_channels_are_not_adjacent_are_refused():
    x, filters, scale, shift = arguments(1, 4, 4, 3, 3)

    with pytest.raises(ValueError, match="tap-major"):
        kernel.depthwise(x, filters.mT, scale, shift)
