"""A task on which a larger network pays: to read two handwritten digits in one noisy image.

Real digits (scikit-learn's optdigits, in the three disjoint splits of `digits_data`),
each rotated, scaled and shifted, two in an image, partly over each other, under Gaussian noise. The
class is the number from 00 to 99 that they form.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from supernets.data.digits_data import SIZE, Distortion, Split, distort, split
from supernets.evaluation import Hits
from supernets.supernet import Preprocessing

SIDE = 48
CLASSES = 100
SHAPE = Distortion(rotation_degrees=30.0, scale=(0.5, 0.9), shift=0.1, noise=(0.0, 0.0))
NOISE = (0.0, 0.4)  # standard deviation, of full scale, drawn per image
PREPROCESSING = Preprocessing(SIDE, SIDE, 1, mean=(0.3,), std=(0.3,))
_PLACES = np.array([10, 1])
SOURCE = "pairs of scikit-learn digits (optdigits, UCI), distorted, in one 48x48 image with noise"


@dataclass(frozen=True, slots=True)
class LabelledSet:
    """Images [N, 1, 48, 48], numbers [N], and which two digits of the split each shows, [N, 2]."""

    images: Tensor
    labels: Tensor
    digits: npt.NDArray[np.intp]

    def batches(self, size: int = 100) -> list[tuple[Tensor, Tensor]]:
        return list(zip(self.images.split(size), self.labels.split(size), strict=True))


def draw(
    digits: npt.NDArray[np.float32], pairs: npt.NDArray[np.intp], rng: np.random.Generator
) -> Tensor:
    """Preprocessed images [N, 1, 48, 48] of the pairs [N, 2], the first digit on the left."""
    canvas = np.zeros((len(pairs), SIDE, SIDE), dtype=np.float32)
    room = SIDE - SIZE
    for place in range(2):
        drawn = distort(digits[pairs[:, place]], rng, SHAPE)[..., 0] / np.float32(255.0)
        top = rng.integers(0, room + 1, len(pairs))
        left = (
            rng.integers(0, 3, len(pairs)) if place == 0 else room - rng.integers(0, 3, len(pairs))
        )
        for image, patch, y, x in zip(canvas, drawn, top, left, strict=True):
            region = image[y : y + SIZE, x : x + SIZE]
            np.maximum(region, patch, out=region)
    deviation = rng.uniform(*NOISE, (len(pairs), 1, 1)).astype(np.float32)
    noisy = canvas + deviation * rng.standard_normal(canvas.shape, dtype=np.float32)
    pixels = np.round(np.clip(noisy, 0.0, 1.0) * 255.0) / 255.0
    standardised = (pixels - PREPROCESSING.mean[0]) / PREPROCESSING.std[0]
    return torch.from_numpy(standardised.astype(np.float32))[:, None]


def training_batches(size: int, seed: int, first: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches of the training split; step i is the same wherever one starts."""
    digits, labels = split("train")
    step = first
    while True:
        rng = np.random.default_rng([seed, step])
        pairs = rng.integers(0, len(labels), (size, 2))
        yield draw(digits, pairs, rng), torch.from_numpy(labels[pairs] @ _PLACES)
        step += 1


def held_out(name: Split, copies: int) -> LabelledSet:
    """A fixed set: ``copies`` times, all digits of the split paired at random."""
    digits, labels = split(name)
    rng = np.random.default_rng([sum(name.encode()), copies, SIDE])
    order = np.concatenate([rng.permutation(len(labels)) for _ in range(2 * copies)])
    pairs = order.reshape(copies * len(labels), 2)
    return LabelledSet(draw(digits, pairs, rng), torch.from_numpy(labels[pairs] @ _PLACES), pairs)


def dyadic_error(values: npt.NDArray[np.float64], digits: npt.NDArray[np.intp]) -> float:
    """Standard error of the mean of ``values`` [N], where images share digits, [N, 2].

    Images that share a digit are not independent: their products count, too (the dyadic
    cluster-robust variance of Aronow, Samii and Assenova, Political Analysis 2015). It is never
    less than for independent images.
    """
    residuals = values - values.mean()
    same = digits[:, 0] == digits[:, 1]  # such an image belongs to one digit, not two
    weights = np.stack([residuals, np.where(same, 0.0, residuals)], axis=1)
    by_digit = np.bincount(digits.ravel(), weights.ravel())
    alone = np.sum(residuals**2)
    shared = np.sum(by_digit**2) - np.sum(residuals[~same] ** 2)
    return float(np.sqrt(max(alone, shared)) / len(values))


def paired_error(a: Hits, b: Hits, digits: npt.NDArray[np.intp]) -> float:
    """Standard error of the difference of two networks' accuracies on the same images."""
    return dyadic_error(a.astype(np.float64) - b.astype(np.float64), digits)
