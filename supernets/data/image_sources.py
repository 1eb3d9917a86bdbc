"""Where labelled images come from: a folder per class, a torch data set, the embedded digits."""

import importlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image
from torch import Tensor

from supernets.data import digits_data
from supernets.data.pixels import Crop, Pixels, centre, decode, from_image, random_crop
from supernets.errors import DataError
from supernets.supernet import Preprocessing

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff"})
DIGIT_COPIES = 16  # fixed distortions of each digit, as in the embedded supernet's accuracy card


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How training images vary; the defaults are those of ImageNet training in torchvision.

    ``area`` is the share of the image that is kept and ``ratio`` how far that is stretched;
    ``flip`` is the probability of a mirror image, 0 for what has a left and a right.
    """

    area: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5


class ImageSource(Protocol):
    """Images by index, each with the index of its class."""

    name: str
    classes: tuple[str, ...]  # empty where the source does not say
    independent: int  # the items are that many images, repeated whole one after the other
    threads: bool  # whether `load` may run in several threads

    def __len__(self) -> int: ...

    def load(
        self, index: int, random: np.random.Generator | None, how: Augmentation
    ) -> tuple[Pixels, int]:
        """Pixels uint8 [H, W, C], varied if there is a ``random``; raises `DataError`."""
        ...

    def identity(self, index: int) -> str:
        """What tells this image from others of the source, in every process."""
        ...


class FolderSource:
    """One folder per class, as torchvision's ``ImageFolder`` has it; classes by name."""

    threads = True

    def __init__(self, root: Path, step: Preprocessing, *, labelled: bool = True) -> None:
        """Without ``labelled`` images may also lie in ``root`` itself."""
        self.root, self._step = root, step
        self.name = "/".join(root.resolve().parts[-2:])
        try:
            entries = sorted(root.iterdir())
        except OSError as error:
            raise DataError(f"cannot read the folder {error.filename}: {error.strerror}") from error
        folders = [entry for entry in entries if _visible(entry.name) and entry.is_dir()]
        self._files = [(f, i) for i, folder in enumerate(folders) for f in _images(folder)]
        if not labelled:
            self._files += [(entry, 0) for entry in entries if _is_image(entry.name)]
        if not self._files:
            raise DataError(
                f"{root} holds no images; one folder per class is expected, with "
                f"{', '.join(sorted(SUFFIXES))} files in it"
            )
        filled = {index for _, index in self._files}
        empty = [str(folder) for i, folder in enumerate(folders) if i not in filled]
        if empty and labelled:
            raise DataError(f"there is no image in the class folder {empty[0]}")
        self.classes = tuple(folder.name for folder in folders)
        self.independent = len(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def load(
        self, index: int, random: np.random.Generator | None, how: Augmentation
    ) -> tuple[Pixels, int]:
        file, label = self._files[index]
        try:
            pixels = decode(file.read_bytes(), self._step, _crop(self._step, random, how))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise DataError(f"cannot read the image {file}: {error}") from error
        return _flipped(pixels, random, how), label

    def identity(self, index: int) -> str:
        file = self._files[index][0]
        found = file.stat()
        return f"{file.relative_to(self.root).as_posix()} {found.st_size} {found.st_mtime_ns}"


class TorchSource:
    """A map-style torch data set of (PIL image or tensor, class index).

    Tensors are [C, H, W] or [H, W], uint8 or floats in 0..1 as ``ToTensor`` makes them; resizing
    and normalising happen here, so the data set must not have done the latter.
    """

    threads = False  # somebody else's code may keep state

    def __init__(self, dataset: Any, name: str, step: Preprocessing) -> None:
        if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
            raise DataError(f"{name} is no map-style data set: it needs __len__ and __getitem__")
        self._dataset, self.name, self._step = dataset, name, step
        self.classes = tuple(str(name) for name in getattr(dataset, "classes", ()))
        self.independent = len(dataset)
        if not self.independent:
            raise DataError(f"{name} is empty")

    def __len__(self) -> int:
        return self.independent

    def load(
        self, index: int, random: np.random.Generator | None, how: Augmentation
    ) -> tuple[Pixels, int]:
        try:
            item, label = self._dataset[index]
            picture = item if isinstance(item, Image.Image) else _picture(item)
            pixels = from_image(picture, self._step, _crop(self._step, random, how))
            return _flipped(pixels, random, how), int(label)
        except Exception as error:
            # Somebody else's code: whatever it raises, people need to know for which item.
            raise DataError(f"cannot use item {index} of {self.name}: {error}") from error

    def identity(self, index: int) -> str:
        return str(index)


class DigitsSource:
    """A split of the embedded data; augmentation is a fresh distortion of the same digit."""

    threads = False
    classes = tuple(str(digit) for digit in range(10))

    def __init__(self, split: str, step: Preprocessing) -> None:
        if split not in digits_data.SPLITS:
            raise DataError(f"the digits have no split {split!r}: {', '.join(digits_data.SPLITS)}")
        if (step.height, step.width, step.channels) != (digits_data.SIZE, digits_data.SIZE, 1):
            raise DataError(
                "the digits are grey images of 32 x 32; this supernet takes "
                f"{step.channels} channels of {step.height} x {step.width}"
            )
        self.name = f"{digits_data.SOURCE}; {split} split"
        self._digits, labels = digits_data.split(split)
        self._images, self._labels = digits_data.evaluation_set(split, DIGIT_COPIES)
        self.independent = len(labels)

    def __len__(self) -> int:
        return len(self._labels)

    def load(
        self, index: int, random: np.random.Generator | None, how: Augmentation
    ) -> tuple[Pixels, int]:
        del how  # digits vary by the distortion that their supernet is about
        label = int(self._labels[index])
        if random is None:
            return self._images[index], label
        digit = self._digits[index % self.independent][None]
        return digits_data.distort(digit, random, digits_data.DISTORTION)[0], label

    def identity(self, index: int) -> str:
        return str(index)


def imported(text: str) -> Any:
    """The data set that ``package.module:function`` returns; raises `DataError`."""
    module, _, name = text.partition(":")
    try:
        return getattr(importlib.import_module(module), name)()
    except Exception as error:
        # Somebody else's code: whatever it raises, it is what was named that is to blame.
        raise DataError(f"cannot get the data set {text}: {error!r}") from error


def _images(folder: Path) -> Iterator[Path]:
    for here, _, names in sorted(os.walk(folder, followlinks=True)):
        yield from (Path(here, name) for name in sorted(names) if _is_image(name))


def _is_image(name: str) -> bool:
    return _visible(name) and Path(name).suffix.lower() in SUFFIXES


def _visible(name: str) -> bool:
    """Other programs leave hidden files and folders between people's images."""
    return not name.startswith(".")


def _crop(step: Preprocessing, random: np.random.Generator | None, how: Augmentation) -> Crop:
    return centre(step) if random is None else random_crop(step, random, how.area, how.ratio)


def _flipped(pixels: Pixels, random: np.random.Generator | None, how: Augmentation) -> Pixels:
    flip = random is not None and random.random() < how.flip
    return np.ascontiguousarray(pixels[:, ::-1]) if flip else pixels


def _picture(item: object) -> Image.Image:
    if not isinstance(item, Tensor):
        raise TypeError(f"an image must be a PIL image or a tensor, not {type(item).__name__}")
    values = item.detach().cpu().numpy()
    if values.dtype != np.uint8:
        if not ((values >= 0) & (values <= 1)).all():
            raise ValueError(
                "a float image must lie in 0..1, not normalised: that is done here, as the server "
                "does it"
            )
        values = np.round(values * 255).astype(np.uint8)
    if values.ndim == 3:
        values = values.transpose(1, 2, 0)
        values = values[:, :, 0] if values.shape[2] == 1 else values
    if values.ndim == 2 or (values.ndim == 3 and values.shape[2] == 3):
        return Image.fromarray(np.ascontiguousarray(values))
    raise ValueError(f"an image must be [C, H, W] with 1 or 3 channels, not {tuple(item.shape)}")
