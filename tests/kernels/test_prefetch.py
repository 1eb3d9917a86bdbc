"""What is brought into L2: whole lines of the ranges, and nothing outside the buffer."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.auditing.compiling import compile_variant, variant
from kernels.prefetch import LINE, PIECE, UNIT, Fetch, pieces
from kernels.ranges import merged

NBYTES = 3 * PIECE + 5 * UNIT
BASE = 1 << 20
PAIRS = st.lists(
    st.tuples(st.integers(-PIECE, NBYTES + PIECE), st.integers(-PIECE, NBYTES + PIECE)), max_size=6
)


@settings(deadline=None)
@given(PAIRS)
def test_pieces_are_the_lines_of_the_ranges_inside_the_buffer_each_once(pairs):
    ranges = merged(np.array(pairs, np.int64).reshape(-1, 2) + BASE)
    wanted = np.zeros(NBYTES, bool)
    for start, end in ranges - BASE:
        wanted[max(start // LINE * LINE, 0) : max(-(-end // LINE) * LINE, 0)] = True
    brought = np.zeros(NBYTES, int)
    for start, count in pieces(ranges, BASE, NBYTES):
        assert 0 < count * UNIT <= PIECE
        brought[start * UNIT : (start + count) * UNIT] += 1

    assert np.array_equal(brought, wanted.astype(int))


def test_a_buffer_of_odd_size_is_an_error():
    with pytest.raises(ValueError, match="16 byte"):
        pieces(merged([(0, 5)]), 0, 30)


def fetch(nbytes=10_000):
    buffer = torch.zeros(64 * 1024, dtype=torch.uint8)
    return Fetch.of(merged([(buffer.data_ptr(), buffer.data_ptr() + nbytes)]), buffer)


def test_nothing_to_bring_is_no_launch():
    assert fetch(0).launches(touch=True) == ()


@pytest.mark.parametrize("capability", [80, 90])
def test_touching_reads_128_bits_at_a_time_and_asking_reads_nothing_of_the_buffer(capability):
    touching, asking = (
        compile_variant(variant(fetch().launches(touch=touch)[0], capability))[0]
        for touch in (True, False)
    )

    # Of both, two loads are of the table of pieces.
    assert touching.loads == {32: 1, 64: 1, 128: PIECE // 16 // (4 * 32)}
    assert asking.loads == {32: 1, 64: 1}
    assert asking.stores == {}
    assert not touching.spills
    assert not asking.spills
