"""How depthwise kernels cut an output map into tiles of strips."""

import pytest

from kernels.configs import Config
from kernels.ops.depthwise.strips import cover


def covered(height, width, strips, longest):
    return cover(height, width, Config({"STRIPS": strips, "STRIP": longest}, 4, 1))


@pytest.mark.parametrize("longest", [1, 2, 4, 8])
@pytest.mark.parametrize("strips", [1, 8, 32])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 7), (5, 9), (14, 10), (56, 56)])
def test_tiles_of_the_asked_size_hold_the_whole_map(height, width, strips, longest):
    form = covered(height, width, strips, longest)

    assert form.rows * form.strips == strips
    assert form.length <= longest
    assert form.rows * (form.down - 1) < height <= form.rows * form.down
    across = form.strips * form.length
    assert across * (form.across - 1) < width <= across * form.across


@pytest.mark.parametrize(
    ("width", "length"), [(7, 7), (14, 7), (28, 7), (56, 8), (112, 8), (10, 5), (9, 5), (1, 1)]
)
def test_strips_are_of_equal_length_and_waste_less_than_one_pixel_each(width, length):
    assert covered(8, width, 8, 8).length == length


def test_a_map_that_fits_is_one_tile():
    assert covered(7, 7, 64, 1).tiles == 1
    assert covered(14, 14, 32, 8).tiles == 1
    assert covered(28, 28, 256, 4).tiles == 1


def test_among_equally_many_tiles_the_most_square_one_is_taken():
    form = covered(8, 8, 8, 2)

    assert (form.rows, form.strips * form.length, form.tiles) == (4, 4, 4)
