"""A compiled CPU plan computes what the steps mean, reads no neighbour and writes no further."""

import threading

import pytest
import torch

from kernels import native
from kernels.execute import execute
from kernels.native.plan import NativePlan
from kernels.native.steps import NotCompiled
from kernels.program import Activate, Add, Affine, GlobalAverage, Multiply, Pool, Program
from tests.kernels.programs import Builder, in_float64

pytestmark = pytest.mark.skipif(not native.variant(), reason="there was no C++ compiler")

ACTIVATIONS = ["identity", "relu", "h_swish", "h_sigmoid"]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def agree(program: Program, x: torch.Tensor) -> None:
    expected = execute(in_float64(program), x.double(), "plain").flatten(1)
    actual = NativePlan(program, tuple(x.shape[1:]), len(x))(x.contiguous())

    assert actual.shape == expected.shape
    assert float((actual - expected).norm() / expected.norm()) < 2e-6


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize(
    ("n", "side", "cin", "cout"), [(1, 7, 8, 24), (3, 5, 17, 63), (2, 1, 33, 130), (1, 1, 40, 64)]
)
def test_pointwise(activation, residual, n, side, cin, cout):
    b = Builder()
    first = b.pointwise(0, cin, cout)
    second = b.pointwise(first, cout, cout, activation, residual=first if residual else None)
    agree(b.program(second), torch.randn(n, side, side, cin))


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("shift", [False, True])
def test_a_product_without_parts_of_its_norm(scale, shift):
    b = Builder()
    affine = Affine(b.vector(21) if scale else None, b.vector(21) if shift else None)
    agree(b.program(b.pointwise(0, 9, 21, "relu", affine=affine)), torch.randn(2, 4, 3, 9))


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("n", "height", "width", "cin", "cout"),
    [(1, 9, 9, 3, 16), (2, 8, 11, 1, 8), (3, 6, 5, 12, 40), (1, 3, 2, 64, 17)],
)
def test_conv(kernel, stride, n, height, width, cin, cout):
    b = Builder()
    first = b.conv(0, cin, cout, kernel, stride)
    second = b.conv(first, cout, cout, 3, 1, residual=first)
    agree(b.program(second), torch.randn(n, height, width, cin))


@pytest.mark.parametrize("few", [1, 3])
def test_an_unsliced_stem_takes_its_pixels_side_by_side(few):
    b = Builder()
    weight = torch.randn(24, few, 3, 3)
    b.weight = lambda *_: native_weight(weight)
    agree(b.program(b.conv(0, few, 24, 3, 2, "h_swish")), torch.randn(2, 13, 10, few))


def native_weight(weight):
    from kernels.weights import lay_out, prefix

    return prefix(lay_out(weight, "panels").contiguous(), *weight.shape[:2], "panels")


@pytest.mark.parametrize("activation", ["identity", "relu", "h_swish"])
@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("n", "height", "width", "channels"), [(1, 8, 8, 16), (2, 23, 9, 33), (1, 2, 3, 5)]
)
def test_depthwise_and_its_mean(activation, kernel, stride, n, height, width, channels):
    x = torch.randn(n, height, width, channels)
    for wanted in (0, 1):
        b = Builder()
        both = b.depthwise(0, channels, kernel, stride, activation, pool=True)
        agree(b.program(both[wanted]), x)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize(
    ("height", "width", "cin", "middle", "stride"),
    [(7, 7, 24, 72, 1), (14, 14, 8, 40, 2), (19, 16, 5, 23, 1), (31, 3, 16, 16, 2)],
)
def test_an_expansion_inside_a_depthwise_convolution(
    activation, kernel, height, width, cin, middle, stride
):
    b = Builder()
    wide = b.pointwise(0, cin, middle, activation)
    agree(
        b.program(b.depthwise(wide, middle, kernel, stride)[0]), torch.randn(2, height, width, cin)
    )


def inverted_residual(b: Builder, *, pool: bool) -> Program:
    wide = b.pointwise(0, 24, 72, "h_swish")
    y, pooled = b.depthwise(wide, 72, 5, 1, pool=pool)
    gate = b.gates(pooled, 72, 24) if pooled is not None else None
    narrow = b.pointwise(y, 72, 24, residual=0, gate=gate)
    mean = b.add(GlobalAverage(narrow, b.new()))
    return b.program(b.pointwise(mean, 24, 10))


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("batch", [1, 5])
def test_an_inverted_residual_block(batch, pool):
    agree(inverted_residual(Builder(), pool=pool), torch.randn(batch, 12, 12, 24))


def test_a_large_batch_taken_in_parts_gives_the_same(monkeypatch):
    """Parts end in the middle of the batch, and in the middle of the network."""
    x = torch.randn(7, 20, 20, 24)
    b = Builder()
    y = b.conv(0, 24, 24, 3, 1)
    z = b.conv(y, 24, 24, 3, 2, residual=None)
    small = b.conv(z, 24, 48, 3, 2)
    program = b.program(b.add(GlobalAverage(small, b.new())))
    at_once = NativePlan(program, (20, 20, 24), 7)(x)
    monkeypatch.setattr("kernels.native.steps.WORKING_SET", 3 * 4 * 20 * 20 * 24)
    plan = NativePlan(program, (20, 20, 24), 7)

    assert {segment[2] for segment in plan.segments} == {3, 7}
    assert torch.equal(plan(x), at_once)
    agree(program, x)


@pytest.mark.parametrize("kind", ["max", "average"])
@pytest.mark.parametrize(
    ("window", "stride", "padding", "ceil"), [(3, 2, 1, False), (2, 2, 0, True), (3, 3, 1, True)]
)
def test_pooling(kind, window, stride, padding, ceil):
    program = Program((Pool(0, 1, kind, window, stride, padding, ceil),), 1)
    agree(program, torch.randn(2, 11, 8, 21))


def test_what_stays_unfused():
    b = Builder()
    x = b.conv(0, 8, 20, 3, 1)
    gate = b.add(GlobalAverage(x, b.new()))
    y = b.add(Multiply(x, gate, b.new()))
    y = b.add(Activate(y, b.new(), b.affine(20), "h_swish"))
    agree(b.program(b.add(Add(x, y, b.new(), "relu"))), torch.randn(2, 6, 6, 8))


def test_a_gate_does_not_change_what_another_step_reads():
    b = Builder()
    x = b.conv(0, 8, 24, 3, 1)
    gate = b.add(GlobalAverage(x, b.new()))
    y = b.pointwise(x, 24, 24, gate=gate)
    agree(b.program(b.add(Add(x, y, b.new()))), torch.randn(2, 6, 6, 8))


def test_the_input_is_left_alone():
    x = torch.randn(2, 12, 12, 24)
    before = x.clone()
    NativePlan(inverted_residual(Builder(), pool=True), (12, 12, 24), 2)(x)

    assert torch.equal(x, before)


def test_two_threads_do_not_share_a_workspace():
    plan = NativePlan(inverted_residual(Builder(), pool=True), (12, 12, 24), 3)
    images = [torch.randn(3, 12, 12, 24) for _ in range(8)]
    expected = [plan(x) for x in images]
    found: list[torch.Tensor | None] = [None] * 8

    def work(first):
        for _ in range(20):
            for i in range(first, 8, 2):
                found[i] = plan(images[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_every_step_can_be_timed():
    program = inverted_residual(Builder(), pool=True)
    plan = NativePlan(program, (12, 12, 24), 2)
    seconds = torch.zeros(len(plan.steps), dtype=torch.float64)
    plan(torch.randn(2, 12, 12, 24), seconds)

    assert (seconds > 0).all()


@pytest.mark.parametrize("activation", ["identity", "relu", "h_swish", "h_sigmoid"])
def test_what_is_not_a_number_stays_so(activation):
    """A poisoned activation must show in the answer, not be clamped away."""
    b = Builder()
    program = b.program(b.pointwise(0, 8, 20, activation))
    x = torch.ones(1, 4, 4, 8)
    x[0, 0, 0, 3] = torch.nan
    y = NativePlan(program, (4, 4, 8), 1)(x).view(1, 4, 4, 20)

    assert y[0, 0, 0].isnan().all()
    assert y[0, 1:].isfinite().all()


@pytest.mark.parametrize(("layout", "dtype"), [("rows", torch.float32), ("panels", torch.float64)])
def test_what_is_not_compiled_says_so(layout, dtype):
    b = Builder(layout, dtype)
    with pytest.raises(NotCompiled, match=r"weights|norm"):
        NativePlan(b.program(b.pointwise(0, 8, 8)), (4, 4, 8), 1)
