"""Each fast CPU op equals its plain reference, on slices, odd shapes and poisoned memory."""

import pytest
import torch

from kernels import native
from kernels.ops.conv import conv
from kernels.ops.conv import reference as conv_reference
from kernels.ops.depthwise import depthwise
from kernels.ops.depthwise import reference as depthwise_reference
from kernels.ops.pointwise import pointwise
from kernels.ops.pointwise import reference as pointwise_reference
from kernels.ops.squeeze_excite import reference as squeeze_reference
from kernels.ops.squeeze_excite import squeeze_excite


@pytest.fixture(autouse=True, params=["compiled", "torch"])
def build(request, monkeypatch):
    """Both builds: with our compiled ops, and as where there was no compiler."""
    if request.param == "torch":
        monkeypatch.setattr(native, "_library", None)
    elif not native.variant():
        pytest.skip("no C++ compiler was there at installation")


DTYPES = [torch.float32, torch.float64]
ACTIVATIONS = ["identity", "relu", "h_swish"]
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12}


def sliced(rows, columns, dtype):
    """A [rows, columns] prefix of a larger matrix whose rest is NaN: reading past it shows."""
    whole = torch.full((rows + 5, columns + 3), torch.nan, dtype=dtype)
    whole[:rows, :columns] = torch.randn(rows, columns, dtype=dtype) / columns**0.5
    return whole[:rows, :columns]


def bank(kernel, channels, dtype):
    """The first channels of a tap-major filter bank whose other channels are NaN."""
    whole = torch.full((kernel, kernel, channels + 9), torch.nan, dtype=dtype)
    whole[..., :channels] = torch.randn(kernel, kernel, channels, dtype=dtype)
    return whole[..., :channels]


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
    filters = bank(kernel, channels, dtype)
    scale, shift = torch.randn(channels, dtype=dtype), torch.randn(channels, dtype=dtype)
    arguments = (x, filters, scale, shift, stride, activation)
    expected = depthwise_reference.depthwise(*arguments)

    close(depthwise(*arguments), expected, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(
    ("n", "height", "width", "channels", "kernel", "stride"),
    [(1, 14, 14, 24, 7, 1), (2, 9, 23, 33, 5, 2), (1, 2, 3, 5, 3, 1), (3, 16, 12, 16, 3, 2)],
)
def test_depthwise_normalises_what_it_reads_and_pools_what_it_writes(
    dtype, activation, n, height, width, channels, kernel, stride
):
    x = torch.randn(n, height, width, channels, dtype=dtype)
    norms = [torch.randn(channels, dtype=dtype) for _ in range(4)]
    before = (norms[0], norms[1], activation)
    pooled = torch.full((n, channels), torch.nan, dtype=dtype)
    expected_pooled = torch.empty_like(pooled)
    arguments = (bank(kernel, channels, dtype), norms[2], norms[3], stride, "h_swish", before)
    expected = depthwise_reference.depthwise(x, *arguments, expected_pooled)

    close(depthwise(x.clone(), *arguments, pooled), expected, dtype)
    close(pooled, expected_pooled, dtype)


def test_a_depthwise_kernel_of_another_size_still_runs():
    x, filters = torch.randn(1, 12, 12, 8), bank(9, 8, torch.float32)
    ones = torch.ones(8)
    expected = depthwise_reference.depthwise(x, filters, ones, ones)

    close(depthwise(x, filters, ones, ones), expected, torch.float32)


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
    close(squeeze_excite(x.clone(), *gates, x.mean((1, 2))), expected, dtype)


def test_ops_leave_their_inputs_alone():
    x = torch.randn(2, 6, 6, 8)
    before = x.clone()
    extra = torch.randn(2, 6, 6, 16)
    kept = extra.clone()
    ones = torch.ones(16)
    pointwise(x, torch.randn(16, 8), ones, ones, "relu", extra)
    depthwise(x, torch.randn(3, 3, 8), ones[:8], ones[:8], 1, "relu")
    conv(x, torch.randn(16, 8, 3, 3), ones, ones, 1, "relu")

    assert torch.equal(x, before)
    assert torch.equal(extra, kept)


@pytest.mark.parametrize(
    "call",
    [
        lambda: pointwise(torch.zeros(1, 2, 2, 4), torch.zeros(8, 5)),
        lambda: pointwise(torch.zeros(1, 2, 2, 4), torch.zeros(8, 4), torch.zeros(7)),
        lambda: depthwise(torch.zeros(1, 2, 2, 4), torch.zeros(3, 3, 5), *[torch.zeros(5)] * 2),
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


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_what_is_not_a_number_stays_so(activation):
    """A poisoned activation must show in the answer, not be clamped away."""
    x, ones = torch.ones(1, 4, 4, 16), torch.ones(16)
    x[0, 0, 0] = torch.nan
    taps = torch.zeros(3, 3, 16)
    taps[1, 1] = 1.0
    y = depthwise(x.clone(), taps, ones, ones, 1, activation, (ones, ones, activation))
    z = pointwise(x, torch.eye(16), ones, ones, activation)

    assert y[0, 0, 0].isnan().all()
    assert z[0, 0, 0].isnan().all()
    assert y[0, 2:].isfinite().all()
