"""Labelled images for calibration, evaluation and training, with the pixels the server makes.

A source is a folder with one folder per class, a torch data set of (PIL image or tensor, int),
``package.module:function`` that returns one, or ``digits``, the embedded data. Orders, subsets,
splits and augmentation are seeded: the same arguments give the same batches in every process.
"""

import hashlib
import json
import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from supernets.data.image_sources import (
    Augmentation,
    DigitsSource,
    FolderSource,
    ImageSource,
    TorchSource,
    imported,
)
from supernets.data.pixels import Pixels, normalise
from supernets.errors import DataError
from supernets.learning.training import Batches
from supernets.supernet import Preprocessing

Part = Literal["train", "select", "report"]
PARTS: tuple[Part, ...] = ("train", "select", "report")
Indices = npt.NDArray[np.int64]

FINGERPRINTED = 16  # labels that are read to tell data sets apart
_NO_AUGMENTATION = Augmentation()  # of no effect without a random generator
_DECODERS = max(1, min(8, os.cpu_count() or 1))
_AHEAD = 4 * _DECODERS  # images decoded before somebody asks for them


@dataclass(frozen=True, slots=True)
class Piece:
    """One share of a data set that was cut in three."""

    part: Part
    shares: tuple[float, float, float]  # of train, select, report; any sum
    seed: int = 0


class LabelledImages:
    """Images of one source, in a fixed order, as a supernet with this preprocessing takes them."""

    def __init__(
        self,
        source: ImageSource,
        preprocessing: Preprocessing,
        labels: Sequence[str] | None = None,
        indices: Indices | None = None,
        note: str = "",
    ) -> None:
        """``labels`` are the supernet's; without them classes count as the source counts them.

        Raises `DataError` where the classes are not those of the labels.
        """
        self._source, self._preprocessing, self._note = source, preprocessing, note
        self._labels = None if labels is None else tuple(labels)
        self._to_label = class_map(source.classes, labels, source.name) if labels else None
        self._indices: Indices = np.arange(len(source)) if indices is None else indices

    @property
    def name(self) -> str:
        """What these images are, for an accuracy card."""
        return f"{self._source.name}{self._note}"

    @property
    def classes(self) -> tuple[str, ...]:
        """In the order of the batches' labels; empty where nobody says."""
        return self._labels if self._labels is not None else self._source.classes

    def __len__(self) -> int:
        return len(self._indices)

    @property
    def clusters(self) -> Indices | None:
        """Which independent image each one is a copy of; nothing where all are independent."""
        if self._source.independent == len(self._source):
            return None
        return self._indices % self._source.independent

    def subset(self, size: int, seed: int = 0) -> Self:
        """``size`` random images of these, or all if there are fewer; in the same order."""
        if size >= len(self):
            return self
        chosen = np.random.default_rng(seed).permutation(len(self))[:size]
        return self._with(np.sort(chosen), f", {size} of {len(self)}, seed {seed}")

    def piece(self, piece: Piece) -> Self:
        """One of three disjoint parts; raises `DataError` where it would be empty.

        Copies of one image stay together.
        """
        clusters = self.clusters
        keys = np.arange(len(self)) if clusters is None else clusters
        distinct = np.unique(keys)
        order = np.random.default_rng(piece.seed).permutation(distinct)
        bounds = np.cumsum([0.0, *piece.shares]) / sum(piece.shares) * len(order)
        start, end = np.round(bounds).astype(int)[PARTS.index(piece.part) :][:2]
        if start == end:
            raise DataError(f"the {piece.part} part of {self.name} is empty; give it a share")
        shares = ":".join(f"{share:g}" for share in piece.shares)
        note = f", {piece.part} part of {shares}, seed {piece.seed}"
        return self._with(np.flatnonzero(np.isin(keys, order[start:end])), note)

    def batches(self, size: int) -> "LabelledBatches":
        """All images once, in order; may be iterated again and again. Nothing is kept."""

        def start() -> Iterator[tuple[Tensor, Tensor]]:
            places = ((place, None) for place in range(len(self)))
            return self._batched(places, size, _NO_AUGMENTATION)

        return LabelledBatches(start, math.ceil(len(self) / size))

    def training_batches(
        self, size: int, seed: int = 0, augmentation: Augmentation | None = None
    ) -> Batches:
        """Endless shuffled batches for `supernets.train`, which begin with the step asked for.

        Every image comes once before any comes again. Without ``augmentation`` images are as they
        are in evaluation.
        """

        def places(first: int) -> Iterator[tuple[int, np.random.Generator | None]]:
            epoch, order = -1, self._indices
            for place in count(first * size):
                if place // len(self) != epoch:
                    epoch = place // len(self)
                    order = np.random.default_rng([seed, 0, epoch]).permutation(len(self))
                random = np.random.default_rng([seed, 1, place]) if augmentation else None
                yield int(order[place % len(self)]), random

        def batches(first: int) -> Iterator[tuple[Tensor, Tensor]]:
            return self._batched(places(first), size, augmentation or _NO_AUGMENTATION)

        return batches

    def fingerprint(self) -> str:
        """Changes with the images, their order and the preprocessing; 16 hexadecimal digits.

        Told from names, sizes, times and some labels, not from all the content.
        """
        some = np.linspace(0, len(self) - 1, num=min(len(self), FINGERPRINTED)).astype(int)
        document = {
            "name": self.name,
            "preprocessing": self._preprocessing.to_json(),
            "labels": self._labels,
            "images": [self._source.identity(int(index)) for index in self._indices],
            "some": [
                self._source.load(int(self._indices[i]), None, _NO_AUGMENTATION)[1] for i in some
            ],
        }
        return hashlib.sha256(json.dumps(document).encode()).hexdigest()[:16]

    def _with(self, chosen: Indices, note: str) -> Self:
        indices = self._indices[chosen]
        return type(self)(
            self._source, self._preprocessing, self._labels, indices, self._note + note
        )

    def _batched(
        self,
        places: Iterator[tuple[int, np.random.Generator | None]],
        size: int,
        how: Augmentation,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        pixels, labels = [], []
        for image, label in self._loaded(places, how):
            pixels.append(image)
            labels.append(self._label(label))
            if len(labels) == size:
                yield normalise(np.stack(pixels), self._preprocessing), torch.tensor(labels)
                pixels, labels = [], []
        if labels:
            yield normalise(np.stack(pixels), self._preprocessing), torch.tensor(labels)

    def _loaded(
        self, places: Iterator[tuple[int, np.random.Generator | None]], how: Augmentation
    ) -> Iterator[tuple[Pixels, int]]:
        """In order; decoded ahead in threads where the source allows that."""
        if not self._source.threads:
            for place, random in places:
                yield self._source.load(int(self._indices[place]), random, how)
            return
        waiting: deque[Future[tuple[Pixels, int]]] = deque()
        pool = ThreadPoolExecutor(_DECODERS, thread_name_prefix="decode")
        try:
            for place, random in places:
                index = int(self._indices[place])
                waiting.append(pool.submit(self._source.load, index, random, how))
                if len(waiting) > _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _label(self, label: int) -> int:
        if self._to_label is not None:
            if not 0 <= label < len(self._to_label):
                raise DataError(
                    f"{self.name} has an image of class {label}; this supernet has the classes 0 "
                    f"to {len(self._to_label) - 1}"
                )
            return self._to_label[label]
        return label


@dataclass(frozen=True, slots=True)
class LabelledBatches:
    """Batches (images float32 [N, C, H, W], labels int64 [N]), as often as they are iterated."""

    start: Callable[[], Iterator[tuple[Tensor, Tensor]]]
    number: int

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.start()

    def __len__(self) -> int:
        return self.number


def open_images(
    source: str | Path | Any,
    preprocessing: Preprocessing,
    labels: Sequence[str] | None = None,
    piece: Piece | None = None,
    *,
    labelled: bool = True,
) -> LabelledImages:
    """The images that ``source`` names; see the module for what that may be.

    ``labels`` are those of a supernet that knows these classes; without them the source's order
    counts. Calibration looks at no label: with ``labelled`` false a folder needs no folders per
    class. ``piece`` cuts the data in three. The splits of ``digits`` are ``digits:train``,
    ``digits:select`` and ``digits:report``. Raises `DataError`.
    """
    if not isinstance(source, str | Path):
        opened: ImageSource = TorchSource(source, type(source).__name__, preprocessing)
    elif Path(source).is_dir():
        opened = FolderSource(Path(source), preprocessing, labelled=labelled)
    elif str(source).startswith("digits:"):
        opened = DigitsSource(str(source).removeprefix("digits:"), preprocessing)
    elif ":" in str(source):
        opened = TorchSource(imported(str(source)), str(source), preprocessing)
    else:
        raise DataError(
            f"there is no folder {source}; data is a folder with one folder per class, "
            "package.module:function, or digits:train, digits:select, digits:report"
        )
    strangers = labels is not None and not set(labels) & set(opened.classes)
    note = ", classes matched by position" if strangers and opened.classes else ""
    images = LabelledImages(opened, preprocessing, labels, note=note)
    return images if piece is None else images.piece(piece)


def class_map(classes: Sequence[str], labels: Sequence[str], name: str) -> tuple[int, ...]:
    """Class index of a source -> index of the supernet's label.

    By name where the names are the same, in whatever order; by position where none is the same (the
    folders of ImageNet are named by number, its labels in words). Raises `DataError` otherwise.
    """
    ours, theirs = set(labels), set(classes)
    if classes and len(classes) != len(labels):
        raise DataError(
            f"{name} has {len(classes)} classes ({', '.join(list(classes)[:5])}, ...); "
            f"this supernet has {len(labels)} ({', '.join(list(labels)[:5])}, ...)"
        )
    if not classes or not ours & theirs:
        return tuple(range(len(labels)))
    strange = sorted(theirs - ours)
    if strange:
        raise DataError(
            f"{name} has classes that are no labels of this supernet: {', '.join(strange[:10])}; "
            f"those labels have no class there: {', '.join(sorted(ours - theirs)[:10])}"
        )
    places = {label: place for place, label in reversed(list(enumerate(labels)))}
    return tuple(places[label] for label in classes)
