"""Byte ranges against sets of bytes."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.program import Affine, GlobalAverage, Pointwise, Program
from kernels.ranges import (
    NONE,
    added,
    difference,
    merged,
    program_ranges,
    size,
    tensor_ranges,
    union,
    widened,
)
from kernels.weights import Weight

PAIRS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=12)


def listed(ranges):
    return {byte for start, end in ranges for byte in range(start, end)}


def canonical(ranges):
    """Ascending, not empty, not touching: so equal sets are equal arrays."""
    flat = ranges.ravel()
    return bool((flat[1:] > flat[:-1]).all())


@settings(deadline=None)
@given(PAIRS)
def test_merging_keeps_the_same_bytes(pairs):
    ranges = merged(pairs)

    assert listed(ranges) == listed(pairs)
    assert canonical(ranges)
    assert size(ranges) == len(listed(pairs))


@settings(deadline=None)
@given(PAIRS, PAIRS)
def test_union_and_difference_are_those_of_sets(one, other):
    a, b = merged(one), merged(other)

    assert listed(union([a, b])) == listed(a) | listed(b)
    assert listed(difference(a, b)) == listed(a) - listed(b)
    assert canonical(union([a, b]))
    assert canonical(difference(a, b))


@settings(deadline=None)
@given(PAIRS, st.sampled_from([1, 2, 8]))
def test_widening_takes_whole_lines(pairs, line):
    ranges = widened(merged(pairs), line)

    assert listed(ranges) == {
        byte // line * line + i for byte in listed(pairs) for i in range(line)
    }
    assert canonical(ranges)


@settings(deadline=None)
@given(st.data())
def test_a_tensors_ranges_are_the_addresses_of_its_elements(data):
    dimensions = data.draw(st.integers(0, 3))
    shape = data.draw(st.lists(st.integers(0, 4), min_size=dimensions, max_size=dimensions))
    strides = data.draw(st.lists(st.integers(0, 9), min_size=dimensions, max_size=dimensions))
    tensor = torch.zeros(100, dtype=torch.int16).as_strided(shape, strides, 3)
    expected = set()
    for index in np.ndindex(*shape):
        first = tensor.data_ptr() + 2 * sum(i * s for i, s in zip(index, strides, strict=True))
        expected |= {first, first + 1}

    assert listed(tensor_ranges(tensor)) == expected


def program(matrix, rows, columns, shift):
    weight = Weight(matrix[:rows, :, :columns], rows)
    return Program((Pointwise(0, 1, weight, Affine(None, shift)),), 1)


@settings(deadline=None)
@given(*[st.integers(1, 6)] * 4)
def test_a_switch_adds_what_the_new_program_reads_and_the_old_one_did_not(r1, c1, r2, c2):
    matrix, norms = torch.zeros(6, 1, 6), torch.zeros(2, 6)
    old = program(matrix, r1, c1, norms[0, :r1])
    new = program(matrix, r2, c2, norms[1, :r2])

    assert listed(added(old, new)) == listed(program_ranges(new)) - listed(program_ranges(old))
    assert listed(added(None, new)) == listed(program_ranges(new))
    assert size(program_ranges(new)) == 4 * (r2 * c2 + r2)
    assert size(added(new, new)) == 0


def test_a_program_without_weights_reads_nothing():
    assert program_ranges(Program((GlobalAverage(0, 1),), 1)).shape == NONE.shape
