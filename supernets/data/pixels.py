"""Images as a supernet's input: the very pixels that the server makes of the same file.

The front end of the server decodes without importing anything of ours that knows torch, so the
steps stand here a second time; tests keep the two equal to the bit.
"""

import math
from collections.abc import Callable
from io import BytesIO

import numpy as np
import numpy.typing as npt
import simplejpeg
import torch
from PIL import Image
from torch import Tensor

from supernets.supernet import Preprocessing

Pixels = npt.NDArray[np.uint8]  # [H, W, C]
Box = tuple[float, float, float, float]  # left, top, right, bottom
Crop = Callable[[tuple[int, int]], Box]  # of an image of this width and height

_JPEG_MAGIC = b"\xff\xd8\xff"
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def centre(step: Preprocessing) -> Crop:
    """The largest box of the input's shape, times ``step.crop``, in the middle."""

    def crop(size: tuple[int, int]) -> Box:
        target = (step.width, step.height)
        scale = step.crop * min(size[0] / target[0], size[1] / target[1])
        x, y = (max(n - scale * t, 0.0) / 2 for n, t in zip(size, target, strict=True))
        return x, y, size[0] - x, size[1] - y

    return crop


def random_crop(
    step: Preprocessing,
    random: np.random.Generator,
    area: tuple[float, float],
    ratio: tuple[float, float],
) -> Crop:
    """A random part of the image, stretched to the input's shape.

    ``area`` is the range of the image's share, ``ratio`` that of the stretch, drawn uniformly and
    log-uniformly (Szegedy et al., "Going deeper with convolutions", CVPR 2015, section 6). Ten
    draws that do not fit inside the image fall back to its middle, as in torchvision.
    """
    shares = random.uniform(*area, 10)
    ratios = np.exp(random.uniform(math.log(ratio[0]), math.log(ratio[1]), 10))
    right, down = random.uniform(size=2)

    def crop(size: tuple[int, int]) -> Box:
        for share, stretch in zip(shares.tolist(), ratios.tolist(), strict=True):
            aspect = stretch * step.width / step.height
            width = math.sqrt(share * size[0] * size[1] * aspect)
            height = width / aspect
            if width <= size[0] and height <= size[1]:
                x, y = right * (size[0] - width), down * (size[1] - height)
                return x, y, x + width, y + height
        return centre(step)(size)

    return crop


def decode(data: bytes, step: Preprocessing, crop: Crop) -> Pixels:
    """The pixels of a JPEG, PNG or WebP file, or of any other that Pillow reads.

    As the server does: JPEGs are shrunk while they are decoded and turned as Exif says, and
    transparency is laid on white. Raises ``ValueError`` or ``OSError`` for what cannot be read.
    """
    if data.startswith(_JPEG_MAGIC):
        image = _decode_jpeg(data, step, crop)
    else:
        with Image.open(BytesIO(data)) as opened:
            opened.load()
            image = opened
    return from_image(image, step, crop)


def from_image(image: Image.Image, step: Preprocessing, crop: Crop) -> Pixels:
    """The cropped and resized pixels of an image; strokes made bright where the net wants that."""
    flat = _flatten(image, _mode(step))
    size = (step.width, step.height)
    resized = flat.resize(size, Image.Resampling.BILINEAR, crop(flat.size))
    pixels = np.array(resized).reshape(step.height, step.width, step.channels)
    return 255 - pixels if step.ink_on_dark and _border_is_bright(pixels) else pixels


def normalise(pixels: npt.NDArray[np.uint8], step: Preprocessing) -> Tensor:
    """``(pixels / 255 - mean) / std``: uint8 [N, H, W, C] -> float32 [N, C, H, W].

    The order of the arithmetic is that of the server's workers, so that no bit differs.
    """
    mean, std = np.array(step.mean), np.array(step.std)
    scale = (1.0 / (255.0 * std)).astype(np.float32)
    shift = (-mean / std).astype(np.float32)
    return torch.from_numpy(pixels * scale + shift).permute(0, 3, 1, 2)


def _mode(step: Preprocessing) -> str:
    return "L" if step.channels == 1 else "RGB"


def _decode_jpeg(data: bytes, step: Preprocessing, crop: Crop) -> Image.Image:
    with Image.open(BytesIO(data)) as header:
        (width, height), kind = header.size, header.mode
        orientation = header.getexif().get(_ORIENTATION_TAG, 1)
        if kind == "CMYK":  # the decoder below refuses it; data sets have a few
            header.load()
            return header.convert("RGB")
    left, _, right, _ = crop((height, width) if orientation >= 5 else (width, height))
    shrink = min(2.0 * step.width / (right - left), 1.0)  # twice the size that is needed
    grey = _mode(step) == "L"
    pixels = simplejpeg.decode_jpeg(
        data,
        "GRAY" if grey else "RGB",
        min_height=math.ceil(height * shrink),
        min_width=math.ceil(width * shrink),
        min_factor=2,
    )
    image = Image.fromarray(pixels[:, :, 0] if grey else pixels)
    turn = _UPRIGHT.get(orientation)
    return image if turn is None else image.transpose(turn)


def _flatten(image: Image.Image, mode: str) -> Image.Image:
    """As 8 bits of the wanted mode, without transparency."""
    if image.mode.startswith("I"):
        # Pillow clips 16-bit grey to 255 where it should scale.
        high_bytes = np.asarray(image).astype(np.uint16) >> 8
        return Image.fromarray(high_bytes.astype(np.uint8)).convert(mode)
    if not image.has_transparency_data:
        return image.convert(mode)
    layer = image.convert("RGBA")
    background = Image.new("RGB", image.size, "white")
    background.paste(layer, mask=layer)
    return background.convert(mode)


def _border_is_bright(pixels: Pixels) -> bool:
    rows, columns = pixels[[0, -1]], pixels[1:-1, [0, -1]]
    return bool(np.median(np.concatenate([rows.reshape(-1), columns.reshape(-1)])) > 127.5)
