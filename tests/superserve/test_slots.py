"""Slots: the admission tokens, and the memory that front end and worker share."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from superserve.slots import SlotMemory, Slots, anonymous_file

SHAPE = (2, 3, 3)


def test_every_slot_is_given_out_once_and_then_none():
    slots = Slots(5, 10)
    assert {slots.reserve() for _ in range(5)} == set(range(5))
    assert slots.reserve() is None
    assert slots.taken == 5


def test_a_slot_that_is_freed_can_be_reserved_again():
    slots = Slots(1, 10)
    slot = slots.reserve()
    slots.release(slot)
    assert slots.reserve() == slot


def test_freeing_a_slot_twice_is_an_error_and_changes_nothing():
    slots = Slots(2, 10)
    slot = slots.reserve()
    slots.release(slot)
    with pytest.raises(ValueError, match=f"slot {slot} is freed twice"):
        slots.release(slot)
    assert slots.taken == 0
    assert len({slots.reserve(), slots.reserve()}) == 2


@given(st.lists(st.booleans(), max_size=60))
def test_no_slot_has_two_owners(takes):
    """True takes a slot, False frees the one held longest."""
    slots = Slots(4, 1)
    held: list[int] = []
    for take in takes:
        if take:
            slot = slots.reserve()
            assert (slot is None) == (len(held) == 4)
            if slot is not None:
                assert slot not in held
                held.append(slot)
        elif held:
            slots.release(held.pop(0))
        assert slots.taken == len(held)


def test_images_keep_to_their_own_slot():
    """Each slot holds its own value after all were written, so none overlaps another."""
    slots = Slots(7, 18)
    for slot in range(7):
        slots.pixels(slot, SHAPE)[:] = slot + 1
    for slot in range(7):
        assert (slots.pixels(slot, SHAPE) == slot + 1).all()


def test_every_slot_begins_on_a_cache_line_of_its_own():
    slots = Slots(5, 18)
    addresses = [slots.pixels(slot, SHAPE).ctypes.data for slot in range(5)]
    assert [address % 64 for address in addresses] == [0] * 5
    assert len(set(addresses)) == 5


def test_gather_copies_the_images_in_the_order_asked_for():
    slots = Slots(4, 18)
    for slot in range(4):
        slots.pixels(slot, SHAPE)[:] = slot
    batch = slots.gather([2, 0, 2], SHAPE)
    slots.pixels(2, SHAPE)[:] = 99
    expected = np.stack([np.full(SHAPE, value, np.uint8) for value in (2, 0, 2)])
    np.testing.assert_array_equal(batch, expected, strict=True)


def test_an_image_smaller_than_the_slot_fits_and_a_larger_one_is_an_error():
    slots = Slots(1, 18)
    assert slots.pixels(0, (1, 2, 3)).shape == (1, 2, 3)
    with pytest.raises(ValueError, match=r"\(3, 3, 3\) does not fit 18 bytes"):
        slots.pixels(0, (3, 3, 3))


def test_who_maps_the_file_sees_what_the_front_end_wrote():
    fd = anonymous_file()
    try:
        slots = Slots(3, 18, fd)
        slots.pixels(1, SHAPE)[:] = np.arange(18).reshape(SHAPE)
        worker = SlotMemory(3, 18, fd)
    finally:
        os.close(fd)
    np.testing.assert_array_equal(worker.gather([1], SHAPE)[0].ravel(), np.arange(18))


def test_the_shared_file_has_no_name():
    fd = anonymous_file()
    try:
        assert os.fstat(fd).st_nlink == 0
    finally:
        os.close(fd)


def test_slots_that_hold_nothing_are_refused():
    with pytest.raises(ValueError, match="hold nothing"):
        Slots(0, 10)
    with pytest.raises(ValueError, match="hold nothing"):
        Slots(10, 0)


def test_the_representation_tells_how_many_are_taken():
    slots = Slots(3, 10)
    slots.reserve()
    assert repr(slots) == "<Slots 1 of 3 taken, 10 bytes each>"
