"""The Triton squeeze-and-excite equals its meaning, in one launch and in two."""

import pytest
import torch

from kernels.configs import Config
from kernels.ops.squeeze_excite import kernel
from kernels.ops.squeeze_excite.reference import squeeze_excite as meaning
from tests.kernels.interpreted.common import landing, run
from tests.kernels.interpreted.poison import DTYPES, close, exactly, framed, prefix, unwritten

ONE = {"BI": 16, "BM": 64, "BN": 256, "BK": 256}
SMALL = {"BI": 16, "BM": 64, "BN": 32, "BK": 32}
TWO = {"BI": 16, "BM": 16, "BN": 64, "BK": 128}


def arguments(images, channels, middle, dtype=torch.float32):
    """``pooled``, then weights and biases that are slices of larger ones."""
    return (
        framed(images, channels, dtype=dtype),
        prefix(middle, channels, more=(5, 8), dtype=dtype, scale=channels**-0.5),
        prefix(middle, more=(5,), dtype=dtype),
        prefix(channels, middle, more=(8, 8), dtype=dtype, scale=middle**-0.5),
        prefix(channels, more=(8,), dtype=dtype),
    )


def check(given, tiles):
    pooled, reduce_weight = given[:2]
    config = Config(tiles, 4, 1)
    memory, out = landing(*pooled.shape, dtype=pooled.dtype)
    scratch = kernel.middle_shape(pooled, reduce_weight, config)
    middle = unwritten(*scratch, dtype=pooled.dtype)
    made = kernel.launches(*given, out=out, middle=middle, config=config)
    run(made, memory)
    close(out, meaning(*exactly(*given)), pooled.dtype)
    return len(made)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("tiles", "count"), [(ONE, 1), (TWO, 2)], ids=["one", "two"])
def test_every_type_in_one_launch_and_in_two(tiles, count, dtype):
    assert check(arguments(3, 136, 40, dtype), tiles) == count


@pytest.mark.parametrize(("channels", "middle"), [(8, 8), (24, 8), (30, 7), (120, 33)])
def test_any_number_of_channels(channels, middle):
    assert check(arguments(1, channels, middle), ONE) == 1


@pytest.mark.parametrize("tiles", [SMALL, TWO], ids=["one", "two"])
def test_blocks_meet_without_gaps_in_images_and_channels(tiles):
    check(arguments(19, 40, 24), tiles)


def test_the_op_takes_its_tiles_from_the_table():
    given = arguments(2, 72, 24)

    close(kernel.squeeze_excite(*given), meaning(*exactly(*given)), torch.float32)


def test_launches_are_made_from_shapes_alone():
    pooled, reduce_weight, expand_weight, hidden, channels = (
        torch.empty(shape, device="meta") for shape in ((20, 72), (24, 72), (72, 24), (24,), (72,))
    )

    (launch,) = kernel.launches(
        pooled, reduce_weight, hidden, expand_weight, channels,
        out=torch.empty(20, 72, device="meta"), middle=torch.empty(0, 24, device="meta"),
        config=Config(SMALL, 4, 1),
    )  # fmt: skip

    assert launch.grid == (3, 2)
