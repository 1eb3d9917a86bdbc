"""Scikit-learn's handwritten digits, distorted: the data of the embedded supernet. No torch.

1797 images of 8x8 pixels, optdigits (UCI), CC BY 4.0. Three disjoint splits by a fixed permutation:
``train``; ``select`` to calibrate and choose subnets; ``report`` for every accuracy published.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from math import ceil
from typing import Literal

import numpy as np
import numpy.typing as npt

Split = Literal["train", "select", "report"]
Images = npt.NDArray[np.uint8]  # [N, 32, 32, 1]
Labels = npt.NDArray[np.int64]  # [N]

SIZE = 32
SPLITS: dict[Split, slice] = {
    "train": slice(0, 1097),
    "select": slice(1097, 1397),
    "report": slice(1397, 1797),
}
SOURCE = "scikit-learn digits (optdigits, UCI), distorted"


@dataclass(frozen=True, slots=True)
class Distortion:
    """Ranges of the random distortion, each drawn uniformly per image.

    ``shift`` is a share of the image's side; ``noise`` the range of the standard deviation of
    Gaussian noise, in units of full scale.
    """

    rotation_degrees: float
    scale: tuple[float, float]
    shift: float
    noise: tuple[float, float]


# Hard enough that a larger network pays.
DISTORTION = Distortion(rotation_degrees=30.0, scale=(0.6, 1.1), shift=0.15, noise=(0.0, 0.5))
CLEAN = Distortion(rotation_degrees=0.0, scale=(0.9, 0.9), shift=0.0, noise=(0.0, 0.0))


@cache
def _digits() -> tuple[npt.NDArray[np.float32], Labels]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.target))
    images = (bunch.images[order] / 16.0).astype(np.float32)
    return images, bunch.target[order].astype(np.int64)


def split(name: Split) -> tuple[npt.NDArray[np.float32], Labels]:
    """The undistorted 8x8 digits of a split, in 0..1, and their labels."""
    images, labels = _digits()
    return images[SPLITS[name]], labels[SPLITS[name]]


def distort(digits: npt.NDArray[np.float32], rng: np.random.Generator, how: Distortion) -> Images:
    """Each 8x8 digit [N, 8, 8] rotated, scaled, shifted, drawn at 32x32, with noise.

    One bilinear interpolation from 8x8 to the final grid; outside the digit is background. The
    result is rounded to bytes, so that training, evaluation and serving see the same pixels.
    """
    n, side, _ = digits.shape
    angle = np.deg2rad(rng.uniform(-how.rotation_degrees, how.rotation_degrees, n))
    scale = rng.uniform(how.scale[0], how.scale[1], n)
    shift = rng.uniform(-how.shift, how.shift, (2, n))
    # Output pixel centres in -0.5..0.5, moved back to where they came from in the digit.
    centre = (np.arange(SIZE, dtype=np.float32) + 0.5) / SIZE - 0.5
    y, x = np.meshgrid(centre, centre, indexing="ij")
    y, x = y[None] - shift[0][:, None, None], x[None] - shift[1][:, None, None]
    cos, sin = (np.cos(angle) / scale)[:, None, None], (np.sin(angle) / scale)[:, None, None]
    rows = (cos * y + sin * x + 0.5) * side - 0.5
    columns = (cos * x - sin * y + 0.5) * side - 0.5
    drawn = _bilinear(digits, rows, columns)
    deviation = rng.uniform(how.noise[0], how.noise[1], (n, 1, 1))
    noisy = drawn + deviation * rng.standard_normal(drawn.shape)
    return np.round(np.clip(noisy, 0.0, 1.0) * 255.0).astype(np.uint8)[..., None]


def _bilinear(
    images: npt.NDArray[np.float32],
    rows: npt.NDArray[np.floating],
    columns: npt.NDArray[np.floating],
) -> npt.NDArray[np.floating]:
    """Sample [N, h, w] at fractional positions [N, H, W]; zero outside."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    limit = padded.shape[1] - 1.001
    r, c = np.clip(rows + 1, 0, limit), np.clip(columns + 1, 0, limit)
    r0, c0 = r.astype(np.intp), c.astype(np.intp)
    fr, fc = r - r0, c - c0
    n = np.arange(len(images))[:, None, None]
    top = padded[n, r0, c0] * (1 - fc) + padded[n, r0, c0 + 1] * fc
    bottom = padded[n, r0 + 1, c0] * (1 - fc) + padded[n, r0 + 1, c0 + 1] * fc
    return top * (1 - fr) + bottom * fr


def evaluation_set(name: Split, copies: int, how: Distortion = DISTORTION) -> tuple[Images, Labels]:
    """``copies`` fixed distortions of each digit of a split, copy by copy; the same every time."""
    digits, labels = split(name)
    rng = np.random.default_rng([sum(name.encode()), copies])
    images = np.concatenate([distort(digits, rng, how) for _ in range(copies)])
    return images, np.tile(labels, copies)


def distorted_batches(
    name: Split,
    batch: int,
    steps: int,
    seed: int,
    first_step: int = 0,
    how: Distortion = DISTORTION,
) -> Iterator[tuple[Images, Labels]]:
    """Batches with fresh distortions; step i is the same whether training resumed or not."""
    digits, labels = split(name)
    for step in range(first_step, steps):
        rng = np.random.default_rng([seed, step])
        chosen = rng.choice(len(labels), batch, replace=False)
        yield distort(digits[chosen], rng, how), labels[chosen]


def as_png(image: npt.NDArray[np.uint8]) -> bytes:
    """One image [32, 32, 1] as a PNG file."""
    from PIL import Image

    buffer = BytesIO()
    Image.fromarray(image[..., 0]).save(buffer, "PNG")
    return buffer.getvalue()


def sample_images(count: int, *, clean: bool = False) -> list[tuple[bytes, int]]:
    """PNG files of held-out digits (the report split) with their labels, for loads and examples.

    All differ, in their distortion where not in the digit; clean ones repeat after 400.
    """
    digits = len(split("report")[1])
    copies = 1 if clean else max(ceil(count / digits), 1)
    images, labels = evaluation_set("report", copies, CLEAN if clean else DISTORTION)
    return [(as_png(images[i % len(images)]), int(labels[i % len(labels)])) for i in range(count)]
