"""Labelled images for a load: a folder of images for each class, as training data has them."""

from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np

from loadtest.client import Payload
from superserve.errors import ConfigError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})  # what a server decodes


def read_images(
    folder: Path, labels: Sequence[str], count: int, seed: int = 0
) -> tuple[Payload, ...]:
    """``count`` random images of ``folder``, or all if there are fewer, in random order.

    ``labels`` are the model's. Folders are matched to them by name, else by number, else by
    position where there are as many. Images beside the folders have no label. Raises `ConfigError`.
    """
    if not folder.is_dir():
        raise ConfigError(f"--images: there is no folder {folder}")
    files = sorted(
        file
        for file in (*folder.glob("*"), *folder.glob("*/*"))
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
    )
    if not files:
        raise ConfigError(f"--images: {folder} holds no {', '.join(sorted(SUFFIXES))} files")
    classes = sorted({file.parent.name for file in files if file.parent != folder})
    index = class_indices(classes, labels)
    chosen = np.random.default_rng(seed).permutation(len(files))[:count]
    return tuple(
        Payload(file.read_bytes(), None if file.parent == folder else index[file.parent.name])
        for file in (files[i] for i in chosen)
    )


def class_indices(classes: Sequence[str], labels: Sequence[str]) -> dict[str, int]:
    """Which of the model's ``labels`` each folder stands for; raises `ConfigError` if unclear."""
    if set(classes) <= set(labels):
        return {name: labels.index(name) for name in classes}
    if all(name.isdecimal() and int(name) < len(labels) for name in classes):
        return {name: int(name) for name in classes}
    if len(classes) == len(labels):
        return {name: position for position, name in enumerate(sorted(classes))}
    strange = [name for name in classes if name not in labels]
    raise ConfigError(
        f"--images: the folders {', '.join(strange[:5])} are no labels of the model "
        f"({', '.join(labels[:5])}, ...), no numbers of them, and not as many as its {len(labels)}"
    )


def write_images(folder: Path, images: Iterable[tuple[bytes, int]]) -> None:
    """Image files with the index of their label, in the form that `read_images` takes."""
    for number, (body, label) in enumerate(images):
        place = folder / str(label)
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:06}{_suffix(body)}").write_bytes(body)


def blank_image(height: int, width: int) -> Payload:
    """A grey one, of no class: enough where only times matter."""
    from PIL import Image

    buffer = BytesIO()
    Image.new("L", (width, height), 128).save(buffer, "PNG")
    return Payload(buffer.getvalue())


def blank_pixels(height: int, width: int, channels: int) -> Payload:
    """The same as the network takes it: nothing has to be decoded."""
    return Payload(bytes([128]) * (height * width * channels))


def _suffix(body: bytes) -> str:
    if body.startswith(b"\xff\xd8"):
        return ".jpg"
    return ".webp" if body[8:12] == b"WEBP" else ".png"
