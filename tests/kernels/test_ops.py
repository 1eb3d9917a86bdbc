"""Each fast CPU op equals its plain reference, on slices, odd shapes and poisoned memory."""

import pytest
import torch

from kernels.ops.conv import conv
from kernels.ops.conv import reference as conv_reference
from kernels.ops.depthwise import depthwise
from kernels.ops.depthwise import reference as depthwise_reference
from kernels.ops.depthwise_project import depthwise_project
from kernels.ops.head import head
from kernels.ops.pointwise import pointwise
from kernels.ops.pointwise import reference as pointwise_reference
from kernels.ops.pool import pool
from kernels.ops.squeeze_excite import squeeze_excite

DTYPES = [torch.float32, torch.float64]
ACTIVATIONS = ["identity", "relu", "h_swish", "h_sigmoid"]
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12}
OPS = torch.ops.superserve


def sliced(rows, columns, dtype=torch.float32):
    """A [rows, columns] prefix of a larger matrix whose rest is NaN: reading past it shows."""
    whole = torch.full((rows + 5, columns + 3), torch.nan, dtype=dtype)
    whole[:rows, :columns] = torch.randn(rows, columns, dtype=dtype) / columns**0.5
    return whole[:rows, :columns]


def filters(rows, taps, columns, dtype=torch.float32):
    whole = torch.full((rows + 5, taps, columns + 3), torch.nan, dtype=dtype)
    whole[:rows, :, :columns] = torch.randn(rows, taps, columns, dtype=dtype) / columns**0.5
    return whole[:rows, :, :columns]


def bank(kernel, channels, dtype=torch.float32):
    """The first channels of a tap-major filter bank whose other channels are NaN."""
    whole = torch.full((kernel, kernel, channels + 9), torch.nan, dtype=dtype)
    whole[..., :channels] = torch.randn(kernel, kernel, channels, dtype=dtype)
    return whole[..., :channels]


def close(actual, expected):
    assert actual.is_contiguous()
    tolerance = TOLERANCE[actual.dtype]
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize(
    ("n", "side", "cin", "cout"), [(1, 7, 8, 24), (3, 5, 17, 63), (2, 1, 1, 1)]
)
def test_pointwise(dtype, activation, residual, gated, n, side, cin, cout):
    x = torch.randn(n, side, side, cin, dtype=dtype)
    scale, shift = torch.randn(cout, dtype=dtype), torch.randn(cout, dtype=dtype)
    extra = torch.randn(n, side, side, cout, dtype=dtype) if residual else None
    gate = torch.rand(n, cin, dtype=dtype) if gated else None
    arguments = (x, sliced(cout, cin, dtype), scale, shift, activation, extra, gate)

    close(pointwise(*arguments), pointwise_reference.pointwise(*arguments))


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("shift", [False, True])
def test_products_without_parts_of_the_norm(scale, shift):
    x, weight = torch.randn(2, 3, 3, 8), sliced(16, 8)
    vectors = [torch.randn(16) if there else None for there in (scale, shift)]
    expected = pointwise_reference.pointwise(x, weight, *vectors)

    close(pointwise(x, weight, *vectors), expected)
    close(conv(x, weight[:, None], *vectors), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kernel", [3, 5, 7, 9])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(("n", "side", "channels"), [(1, 8, 16), (2, 5, 24), (1, 1, 7)])
def test_depthwise_and_its_mean(dtype, activation, kernel, stride, n, side, channels):
    x = torch.randn(n, side, side + 1, channels, dtype=dtype)
    scale, shift = torch.randn(channels, dtype=dtype), torch.randn(channels, dtype=dtype)
    arguments = (x, bank(kernel, channels, dtype), scale, shift, stride, activation, True)
    for actual, expected in zip(
        depthwise(*arguments), depthwise_reference.depthwise(*arguments), strict=True
    ):
        close(actual, expected)


def test_a_mean_nobody_asked_for_is_empty():
    x, ones = torch.randn(1, 4, 4, 8), torch.ones(8)
    assert depthwise(x, bank(3, 8), ones, ones)[1].shape == (0,)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("kernel", "stride"), [(1, 2), (3, 1), (3, 2), (7, 2)])
@pytest.mark.parametrize(("n", "side", "cin", "cout"), [(1, 9, 3, 16), (2, 8, 1, 8), (3, 6, 5, 7)])
def test_conv(dtype, activation, kernel, stride, n, side, cin, cout):
    x = torch.randn(n, side, side, cin, dtype=dtype)
    scale, shift = torch.randn(cout, dtype=dtype), torch.randn(cout, dtype=dtype)
    weight = filters(cout, kernel * kernel, cin, dtype)
    arguments = (x, weight, scale, shift, stride, kernel // 2, activation)
    expected = conv_reference.conv(*arguments)
    extra = torch.randn_like(expected)

    close(conv(*arguments), expected)
    close(conv(*arguments, extra), conv_reference.conv(*arguments, extra))


def test_the_reference_of_a_convolution_is_a_convolution():
    """In one case by hand: sums over taps of shifted products."""
    x, weight = torch.randn(2, 6, 5, 3, dtype=torch.float64), filters(4, 9, 3, torch.float64)
    padded = torch.nn.functional.pad(x, (0, 0, 1, 1, 1, 1))
    expected = sum(
        padded[:, ky : ky + 6, kx : kx + 5] @ weight[:, 3 * ky + kx].T
        for ky in range(3)
        for kx in range(3)
    )

    close(conv(x, weight, padding=1), expected)


def test_gates_are_between_zero_and_one_and_those_of_the_plain_module():
    pooled, reduce, expand = torch.randn(3, 24), sliced(8, 24), sliced(24, 8)
    biases = torch.randn(8), torch.randn(24)
    inner = torch.nn.Linear(24, 8), torch.nn.Linear(8, 24)
    with torch.no_grad():
        for layer, weight, bias in zip(inner, (reduce, expand), biases, strict=True):
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
        plain = torch.nn.Sequential(inner[0], torch.nn.ReLU(), inner[1], torch.nn.Hardsigmoid())
        gates = squeeze_excite(pooled, reduce, biases[0], expand, biases[1])
        close(gates, plain(pooled))
    assert 0 <= gates.min() <= gates.max() <= 1


def test_the_fused_ops_are_their_parts_in_turn():
    x, weight = torch.randn(2, 9, 9, 24), sliced(40, 24)
    scale, shift, ones, extra = torch.randn(40), torch.randn(40), torch.ones(24), torch.randn(24)
    middle, _ = depthwise(x, taps := bank(5, 24), ones, extra, 2, "h_swish")

    close(
        depthwise_project(x, taps, ones, extra, 2, "h_swish", weight, scale, shift, "relu"),
        pointwise(middle, weight, scale, shift, "relu"),
    )
    close(head(x, weight, scale, shift), pointwise(x.mean((1, 2)), weight, scale, shift))


def test_an_average_leaves_out_what_is_outside():
    y = pool(torch.ones(1, 3, 3, 2), "average", 3, 2, 1)

    assert torch.equal(y, torch.ones(1, 2, 2, 2))
    with pytest.raises(ValueError, match="max"):
        pool(torch.ones(1, 3, 3, 2), "median", 3, 2)


def test_ops_leave_their_inputs_alone():
    x, extra, gate = torch.randn(2, 6, 6, 8), torch.randn(2, 6, 6, 16), torch.rand(2, 8)
    before, kept = x.clone(), extra.clone()
    ones = torch.ones(16)
    pointwise(x, torch.randn(16, 8), ones, ones, "relu", extra, gate)
    depthwise(x, torch.randn(3, 3, 8), ones[:8], ones[:8], 1, "relu")
    conv(x, torch.randn(16, 9, 8), ones, ones, 1, 1, "relu", extra)

    assert torch.equal(x, before)
    assert torch.equal(extra, kept)


X, ONES = torch.randn(2, 5, 5, 8), torch.ones(8)


@pytest.mark.parametrize(
    ("op", "arguments"),
    [
        (OPS.pointwise, (X, torch.randn(16, 8), None, torch.ones(16), "relu")),
        (OPS.depthwise, (X, torch.randn(3, 3, 8), ONES, ONES, 2, "relu", True)),
        (OPS.conv, (X, torch.randn(16, 9, 8), None, None, 2, 1)),
        (OPS.squeeze_excite, (X[:, 0, 0], torch.randn(4, 8), ONES[:4], torch.randn(8, 4), ONES)),
        (
            OPS.depthwise_project,
            (X, torch.randn(3, 3, 8), ONES, ONES, 1, "relu", torch.randn(16, 8)),
        ),
        (OPS.head, (X, torch.randn(16, 8))),
    ],
    ids=lambda value: str(value) if not isinstance(value, tuple) else "",
)
def test_pytorch_accepts_the_registration(op, arguments):
    report = torch.library.opcheck(op.default, arguments)

    assert set(report.values()) == {"SUCCESS"}


def test_a_compiled_function_may_call_an_op():
    weight = torch.randn(16, 8)
    compiled = torch.compile(
        lambda x: pointwise(x, weight, activation="relu") + 1, fullgraph=True, backend="aot_eager"
    )

    close(compiled(X), pointwise(X, weight, activation="relu") + 1)


@pytest.mark.parametrize(
    "call",
    [
        lambda: pointwise(torch.zeros(1, 2, 2, 4), torch.zeros(8, 5)),
        lambda: pointwise(torch.zeros(1, 2, 2, 4), torch.zeros(8, 4), torch.zeros(7)),
        lambda: pointwise(torch.zeros(1, 2, 2, 4), torch.zeros(8, 4), gate=torch.zeros(1, 3)),
        lambda: pointwise(torch.zeros(1, 2, 2, 4), torch.zeros(8, 4), residual=torch.zeros(1, 8)),
        lambda: depthwise(torch.zeros(1, 2, 2, 4), torch.zeros(3, 3, 5), *[torch.zeros(5)] * 2),
        lambda: depthwise(torch.zeros(1, 2, 2, 4), torch.zeros(2, 2, 4), *[torch.zeros(4)] * 2),
        lambda: conv(torch.zeros(1, 2, 2, 4), torch.zeros(5, 9, 3)),
        lambda: conv(torch.zeros(1, 2, 2, 4), torch.zeros(5, 8, 4)),
        lambda: conv(torch.zeros(1, 2, 2, 4), torch.zeros(5, 9, 4)),
        lambda: squeeze_excite(
            torch.zeros(1, 4), torch.zeros(2, 5), torch.zeros(2), torch.zeros(4, 2), torch.zeros(4)
        ),
        lambda: head(torch.zeros(1, 2, 2, 4), torch.zeros(8, 5)),
        lambda: pointwise(torch.zeros(1, 2, 2, 4), torch.zeros(8, 4), activation="gelu"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(call):
    with pytest.raises(
        ValueError,
        match=r"channels|norm|NHWC|gate|residual|square|taps|kernel|activation|projection",
    ):
        call()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_what_is_not_a_number_stays_so(activation):
    """A poisoned activation must show in the answer, not be clamped away."""
    x, ones = torch.ones(1, 4, 4, 16), torch.ones(16)
    x[0, 0, 0] = torch.nan
    taps = torch.zeros(3, 3, 16)
    taps[1, 1] = 1.0
    y, _ = depthwise(x, taps, ones, ones, 1, activation)
    z = pointwise(x, torch.eye(16), ones, ones, activation)

    assert y[0, 0, 0].isnan().all()
    assert z[0, 0, 0].isnan().all()
    assert y[0, 2:].isfinite().all()
