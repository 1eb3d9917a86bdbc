"""The embedded data: disjoint splits, seeded distortions, and images as the server gets them."""

import io

import numpy as np
import pytest
from PIL import Image

from supernets.data import digits_data as data


def test_splits_share_no_digit():
    found = [data.split(name)[0] for name in ("train", "select", "report")]
    keys = [{image.tobytes() for image in images} for images in found]

    assert sum(len(images) for images in found) == 1797
    assert not keys[0] & keys[1]
    assert not keys[0] & keys[2]
    assert not keys[1] & keys[2]


def test_evaluation_sets_are_the_same_every_time():
    first, labels = data.evaluation_set("select", 2)
    again, _ = data.evaluation_set("select", 2)

    assert np.array_equal(first, again)
    assert np.array_equal(labels[:300], labels[300:])
    assert not np.array_equal(first[:300], first[300:])


def test_training_batches_do_not_depend_on_where_one_starts():
    whole = list(data.distorted_batches("train", 8, 5, seed=1))
    rest = list(data.distorted_batches("train", 8, 5, seed=1, first_step=3))

    for (a, la), (b, lb) in zip(whole[3:], rest, strict=True):
        assert np.array_equal(a, b)
        assert np.array_equal(la, lb)


def test_without_distortion_a_digit_is_drawn_as_pillow_draws_it():
    """Bilinear magnification by 4 about the centre, in the interior where borders do not matter."""
    digits, _ = data.split("train")
    still = data.Distortion(0.0, (1.0, 1.0), 0.0, (0.0, 0.0))
    drawn = data.distort(digits[:20], np.random.default_rng(0), still)[..., 0].astype(float)
    for ours, digit in zip(drawn, digits, strict=False):
        theirs = Image.fromarray(digit).resize((32, 32), Image.Resampling.BILINEAR)

        assert np.abs(ours - 255.0 * np.asarray(theirs))[2:-2, 2:-2].max() <= 1.0


@pytest.mark.parametrize("angle", [90.0, -90.0])
def test_rotation_turns_about_the_centre(angle):
    """A positive angle turns counter-clockwise, as the eye sees it."""
    digits, _ = data.split("train")
    exact = data.Distortion(0.0, (1.0, 1.0), 0.0, (0.0, 0.0))
    turned = np.ascontiguousarray(np.rot90(digits[:5], k=round(angle / 90), axes=(1, 2)))
    rng = np.random.default_rng(0)

    class Fixed:
        """Draws the same angle for every image, and otherwise what it is asked for."""

        def uniform(self, low, high, size=None):
            return rng.uniform(low, high, size) if low == high else np.full(size, angle)

        def standard_normal(self, shape):
            return rng.standard_normal(shape)

    how = data.Distortion(1.0, (1.0, 1.0), 0.0, (0.0, 0.0))
    ours = data.distort(digits[:5], Fixed(), how)

    assert np.abs(ours.astype(int) - data.distort(turned, rng, exact)).max() <= 1


def test_samples_are_held_out_png_files_with_their_labels():
    files = data.sample_images(5)
    report, labels = data.evaluation_set("report", 1)
    for index, (png, label) in enumerate(files):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(png))), report[index, :, :, 0])
        assert label == labels[index]
