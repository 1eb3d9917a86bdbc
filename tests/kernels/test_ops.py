"""Each fast CPU op equals its plain reference, on slices, odd shapes and poisoned memory."""

import pytest
import torch

from kernels.ops.conv import conv
from kernels.ops.conv import reference as conv_reference
from kernels.ops.depthwise import depthwise
from kernels.ops.depthwise import reference as depthwise_reference
from kernels.ops.pointwise import pointwise
from kernels.ops.pointwise import reference as pointwise_reference
from kernels.ops.squeeze_excite import reference as squeeze_reference
from kernels.ops.squeeze_excite import squeeze_excite

DTYPES = [torch.float32, torch.float64]
ACTIVATIONS = ["identity", "relu", "h_swish"]
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12}


def sliced(rows, columns, dtype):
    """A [rows, columns] prefix of a larger matrix whose rest is NaN: reading past it shows."""
    whole = torch.full((rows + 5, columns + 3), torch.nan, dtype=dtype)
    whole[:rows, :columns] = torch.randn(rows, columns, dtype=dtype) / columns**0.5
    return whole[:rows, :columns]


def close(actual, expected, dtype):
    assert actual.is_contiguous()
    torch.testing.assert_close(actual, expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize(
    ("n", "side", "cin", "cout"), [(1, 7, 8, 24), (3, 5, 17, 63), (2, 1, 1, 1)]
)
def test_pointwise(dtype, activation, residual, n, side, cin, cout):
    x = torch.randn(n, side, side, cin, dtype=dtype)
    weight = sliced(cout, cin, dtype)
    scale, shift = torch.randn(cout, dtype=dtype), torch.randn(cout, dtype=dtype)
    extra = torch.randn(n, side, side, cout, dtype=dtype) if residual else None
    arguments = (x, weight, scale, shift, activation, extra)
    expected = pointwise_reference.pointwise(*arguments)

    close(pointwise(*arguments), expected, dtype)


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("shift", [False, True])
def test_pointwise_without_parts_of_the_norm(scale, shift):
    x, weight = torch.randn(2, 3, 3, 8), sliced(16, 8, torch.float32)
    vectors = [torch.randn(16) if there else None for there in (scale, shift)]
    expected = pointwise_reference.pointwise(x, weight, *vectors)

    close(pointwise(x, weight, *vectors), expected, torch.float32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("n", "side", "channels"), [(1, 8, 16), (2, 5, 24), (1, 1, 7)])
def test_depthwise(dtype, activation, kernel, stride, n, side, channels):
    x = torch.randn(n, side, side, channels, dtype=dtype)
    bank = torch.full((channels + 9, 1, kernel, kernel), torch.nan, dtype=dtype)
    bank[:channels] = torch.randn(channels, 1, kernel, kernel, dtype=dtype)
    scale, shift = torch.randn(channels, dtype=dtype), torch.randn(channels, dtype=dtype)
    arguments = (x, bank[:channels], scale, shift, stride, activation)
    expected = depthwise_reference.depthwise(*arguments)

    close(depthwise(*arguments), expected, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("n", "side", "cin", "cout"), [(1, 9, 3, 16), (2, 8, 1, 8), (3, 6, 5, 7)])
def test_conv(dtype, activation, stride, n, side, cin, cout):
    x = torch.randn(n, side, side, cin, dtype=dtype)
    weight = torch.randn(cout, cin, 3, 3, dtype=dtype)
    scale, shift = torch.randn(cout, dtype=dtype), torch.randn(cout, dtype=dtype)
    arguments = (x, weight, scale, shift, stride, activation)
    expected = conv_reference.conv(*arguments)

    close(conv(*arguments), expected, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "side", "channels", "middle"), [(1, 7, 24, 8), (3, 4, 17, 5)])
def test_squeeze_excite(dtype, n, side, channels, middle):
    x = torch.randn(n, side, side, channels, dtype=dtype)
    gates = (
        sliced(middle, channels, dtype),
        torch.randn(middle, dtype=dtype),
        sliced(channels, middle, dtype),
        torch.randn(channels, dtype=dtype),
    )
    expected = squeeze_reference.squeeze_excite(x, *gates)

    close(squeeze_excite(x.clone(), *gates), expected, dtype)


def test_ops_leave_their_inputs_alone():
    x = torch.randn(2, 6, 6, 8)
    before = x.clone()
    extra = torch.randn(2, 6, 6, 16)
    kept = extra.clone()
    ones = torch.ones(16)
    pointwise(x, torch.randn(16, 8), ones, ones, "relu", extra)
    depthwise(x, torch.randn(8, 1, 3, 3), ones[:8], ones[:8], 1, "relu")
    conv(x, torch.randn(16, 8, 3, 3), ones, ones, 1, "relu")

    assert torch.equal(x, before)
    assert torch.equal(extra, kept)


@pytest.mark.parametrize(
    "call",
    [
        lambda: pointwise(torch.zeros(1, 2, 2, 4), torch.zeros(8, 5)),
        lambda: pointwise(torch.zeros(1, 2, 2, 4), torch.zeros(8, 4), torch.zeros(7)),
        lambda: depthwise(torch.zeros(1, 2, 2, 4), torch.zeros(5, 1, 3, 3), *[torch.zeros(5)] * 2),
        lambda: conv(torch.zeros(1, 2, 2, 4), torch.zeros(5, 3, 3, 3), *[torch.zeros(5)] * 2),
        lambda: squeeze_excite(
            torch.zeros(1, 2, 2, 4),
            torch.zeros(2, 5),
            torch.zeros(2),
            torch.zeros(4, 2),
            torch.zeros(4),
        ),
    ],
)
def test_shapes_that_do_not_fit_are_refused(call):
    with pytest.raises(ValueError, match=r"channels|norm|NHWC|gates"):
        call()
