"""The Triton head equals its meaning, in one launch and in two."""

import pytest
import torch

from kernels.configs import Config
from kernels.ops.head import kernel
from kernels.ops.head.reference import head as meaning
from kernels.ops.pointwise.kernel import partial_shape
from tests.kernels.interpreted.common import TILED, WHOLE, check
from tests.kernels.interpreted.poison import DTYPES, close, exactly, framed, prefix, unwritten

ONE = Config({"FUSED": 8, "BN": 64, "BC": 256, "BP": 64}, 4, 1)
ONE_TILED = Config({"FUSED": 8, "BN": 16, "BC": 32, "BP": 16}, 4, 1)
TWO = Config({"FUSED": 0, "BN": 16, "BC": 64, "BP": 16}, 4, 1)
BOTH = pytest.mark.parametrize("config", [ONE, ONE_TILED, TWO], ids=["one", "tiled", "two"])


def arguments(pixels, inputs, outputs, dtype=torch.float32, activation="h_swish", affine=True):
    return (
        framed(*pixels, inputs, dtype=dtype),
        prefix(outputs, inputs, more=(5, 8), dtype=dtype, scale=inputs**-0.5),
        prefix(outputs, more=(8,), dtype=dtype) if affine else None,
        prefix(outputs, more=(8,), dtype=dtype) if affine else None,
        activation,
    )


def right(given, config, product=WHOLE):
    x, weight = given[:2]
    mean = unwritten(len(x), x.shape[3], dtype=x.dtype)
    return check(
        kernel.launches, meaning, given, (len(x), len(weight)),
        mean=mean, partial=unwritten(*partial_shape(mean, weight, product)),
        config=config, product=product,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@BOTH
def test_every_type(config, dtype):
    right(arguments((3, 7, 7), 136, 40, dtype), config)


@pytest.mark.parametrize("activation", ["identity", "relu", "h_swish", "h_sigmoid"])
@BOTH
def test_every_activation(config, activation):
    right(arguments((2, 3, 3), 24, 16, activation=activation), config)


@BOTH
def test_without_a_norm(config):
    right(arguments((2, 3, 3), 24, 16, affine=False), config)


@pytest.mark.parametrize(("inputs", "outputs"), [(17, 13), (24, 7), (3, 10)])
@BOTH
def test_channels_that_no_eight_divides(config, inputs, outputs):
    right(arguments((2, 5, 4), inputs, outputs), config)


@pytest.mark.parametrize("pixels", [(1, 1, 1), (5, 1, 3), (2, 9, 9)])
@BOTH
def test_any_number_of_pixels(config, pixels):
    right(arguments(pixels, 40, 24), config)


def test_few_images_take_one_launch():
    (launch,) = right(arguments((8, 2, 2), 40, 24), ONE_TILED)

    assert launch.grid == (2, 8)


def test_more_images_take_two_launches():
    made = right(arguments((9, 2, 2), 40, 24), ONE_TILED, TILED)

    assert [launch.grid for launch in made] == [(2, 9), (2, 1)]


@pytest.mark.parametrize("images", [1, 3])
def test_the_op_takes_its_tiles_from_the_table(images):
    given = arguments((images, 4, 4), 40, 24)

    close(kernel.head(*given), meaning(*exactly(*given[:4]), "h_swish"), torch.float32)


def test_launches_are_made_from_shapes_alone():
    x, weight, out, mean = (
        torch.empty(shape, device="meta") for shape in ((1, 7, 7, 40), (24, 40), (1, 24), (1, 40))
    )

    (launch,) = kernel.launches(
        x, weight, None, None, "identity",
        out=out, mean=mean, partial=torch.empty(0, device="meta"), config=ONE, product=WHOLE,
    )  # fmt: skip

    assert launch.grid == (1, 1)
