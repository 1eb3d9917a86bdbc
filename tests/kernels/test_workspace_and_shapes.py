"""Values alive together never share memory, and shapes are those that PyTorch finds."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kernels.execute import execute, run_step
from kernels.native.workspace import ALIGNMENT, Life, places
from kernels.program import GlobalAverage, Pool, writes
from kernels.shapes import value_shapes, windows
from tests.kernels.programs import Builder

LIVES = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 10), st.integers(1, 300)), max_size=25
).map(
    lambda rows: [
        Life(value, first, first + length, floats, False)
        for value, (first, length, floats) in enumerate(rows)
    ]
)


@given(LIVES)
def test_what_is_alive_together_lies_apart(lives):
    offsets, total = places(lives)
    for life in lives:
        assert offsets[life.value] % ALIGNMENT == 0
        assert 0 <= offsets[life.value] <= total - life.floats
        for other in lives:
            if other.value < life.value and not (
                other.last < life.first or life.last < other.first
            ):
                ends = [offsets[one.value] + one.floats for one in (life, other)]
                assert offsets[life.value] >= ends[1] or offsets[other.value] >= ends[0]


def test_values_of_a_chain_take_turns_in_two_places():
    chain = [Life(value, value, value + 1, 64, False) for value in range(20)]

    assert places(chain)[1] == 128


@given(
    st.integers(1, 40),
    st.integers(1, 7),
    st.integers(1, 4),
    st.integers(0, 3),
    st.booleans(),
)
def test_windows_are_counted_as_pytorch_counts_them(length, window, stride, padding, ceil):
    if padding > window // 2 or length + 2 * padding < window:
        return
    x = torch.zeros(1, 1, length)
    expected = torch.max_pool1d(x, window, stride, padding, 1, ceil).shape[2]

    assert windows(length, window, stride, padding, ceil) == expected


@pytest.mark.parametrize("layout", ["rows", "panels"])
@pytest.mark.parametrize(("height", "width"), [(17, 12), (8, 8)])
def test_shapes_are_those_of_the_values(layout, height, width):
    b = Builder(layout)
    x = b.conv(0, 3, 16, 7, 2)
    x = b.add(Pool(x, b.new(), "max", 3, 2, 1))
    wide = b.pointwise(x, 16, 40, "relu")
    y, pooled = b.depthwise(wide, 40, 5, 2, pool=True)
    y = b.pointwise(y, 40, 24, gate=b.gates(pooled, 40, 8))
    program = b.program(b.add(GlobalAverage(y, b.new())))
    images = torch.randn(2, height, width, 3)
    shapes = value_shapes(program, (height, width, 3))

    values = {0: images}
    for step in program.steps:
        values.update(zip(writes(step), run_step(step, values, "plain"), strict=True))
    for value, tensor in values.items():
        height_, width_, channels = shapes[value]
        expected = (height_, width_, channels) if tensor.dim() == 4 else (channels,)
        assert tuple(tensor.shape[1:]) == expected
    assert set(shapes) == set(values)


def test_every_step_is_announced_before_it_runs():
    b = Builder("rows")
    program = b.program(b.pointwise(b.pointwise(0, 8, 8), 8, 8))
    seen = []
    execute(program, torch.randn(1, 2, 2, 8), before=lambda *step: seen.append(step))

    assert seen == list(enumerate(program.steps))
