"""Turning the bytes of a JPEG, PNG or WebP file into the pixels that a network takes.

Pure but for the array that it fills, and safe to call from several threads: the decoders and the
resizing release the interpreter's lock; what holds it are copies, some 4 ms per megapixel of PNG or
WebP and next to nothing for JPEG.
"""

import math
from io import BytesIO

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from superserve.errors import BadImage, ImageTooLarge
from superserve.image_header import Format, ImageHeader, check_size, read_header
from superserve.messages import Preprocessing

# The JPEG decoder shrinks by a power of two while it decodes, which is far cheaper than resizing.
# It stops at twice the size that is needed, so that the final resize still decides the quality.
_SHRINK_MARGIN = 2.0

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(
    data: bytes, preprocessing: Preprocessing, out: npt.NDArray[np.uint8], *, max_pixels: int
) -> None:
    """Fill ``out``, uint8 [H, W, C], with the image's centre, resized as ``preprocessing`` says.

    Transparency is composited on white, 16 bits become 8, Exif's orientation is applied to JPEG,
    and of an animation the first frame counts. Raises `UnsupportedImage` for another format,
    `ImageTooLarge` above ``max_pixels``, which is judged by the header before anything is decoded,
    and `BadImage` for a file that is broken or cut off.
    """
    header = read_header(data, max_pixels)
    mode = "L" if preprocessing.channels == 1 else "RGB"
    if header.format == "JPEG":
        image = _decode_jpeg(data, header, preprocessing, mode)
    else:
        image = _decode_with_pillow(data, header.format, mode, max_pixels)
    size = (preprocessing.width, preprocessing.height)
    box = _centre(image.size, size, preprocessing.crop)
    pixels = np.asarray(image.resize(size, Image.Resampling.BILINEAR, box))
    np.copyto(out, pixels.reshape(out.shape))
    if preprocessing.ink_on_dark and _border_is_bright(out):
        np.subtract(255, out, out=out)


def _centre(
    image: tuple[int, int], target: tuple[int, int], crop: float
) -> tuple[float, float, float, float]:
    """The largest box of the target's shape, times ``crop``, in the middle: left, top, right,
    bottom.
    """
    scale = crop * min(image[0] / target[0], image[1] / target[1])
    margins = [
        max(full - scale * wanted, 0.0) / 2 for full, wanted in zip(image, target, strict=True)
    ]
    return margins[0], margins[1], image[0] - margins[0], image[1] - margins[1]


def _decode_jpeg(
    data: bytes, header: ImageHeader, preprocessing: Preprocessing, mode: str
) -> Image.Image:
    target = (preprocessing.width, preprocessing.height)
    lies = header.orientation >= 5
    size = (header.height, header.width) if lies else (header.width, header.height)
    left, _, right, _ = _centre(size, target, preprocessing.crop)
    shrink = _SHRINK_MARGIN * target[0] / (right - left)
    try:
        pixels = simplejpeg.decode_jpeg(
            data,
            "GRAY" if mode == "L" else "RGB",
            min_height=math.ceil(header.height * min(shrink, 1.0)),
            min_width=math.ceil(header.width * min(shrink, 1.0)),
            min_factor=2,
        )
    except ValueError as error:
        raise BadImage("the JPEG is broken or cut off; send the whole file") from error
    image = Image.fromarray(pixels[:, :, 0] if mode == "L" else pixels)
    turn = _UPRIGHT.get(header.orientation)
    return image if turn is None else image.transpose(turn)


def _decode_with_pillow(data: bytes, kind: Format, mode: str, max_pixels: int) -> Image.Image:
    try:
        image: Image.Image = Image.open(BytesIO(data), formats=[kind])
        # Later parts of a file may contradict the header that was checked.
        check_size(*image.size, max_pixels)
        image.load()
        return _flatten(image, mode)
    except (BadImage, ImageTooLarge, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLarge("the image has too many pixels; send a smaller one") from error
    except Exception as error:
        # Fed with hostile bytes, the decoders raise whatever they like, and it is the file's fault.
        raise BadImage(f"the {kind} is broken or cut off; send the whole file") from error


def _flatten(image: Image.Image, mode: str) -> Image.Image:
    """As 8 bits of the wanted mode, without transparency."""
    if image.mode.startswith("I"):
        # Pillow clips 16-bit grey to 255 where it should scale.
        high_bytes = np.asarray(image).astype(np.uint16) >> 8
        return Image.fromarray(high_bytes.astype(np.uint8)).convert(mode)
    if not image.has_transparency_data:
        # Converting to the same mode is a copy, which holds the interpreter's lock.
        return image if image.mode == mode else image.convert(mode)
    layer = image.convert("RGBA")
    background = Image.new("RGB", image.size, "white")
    background.paste(layer, mask=layer)
    return background.convert(mode)


def _border_is_bright(pixels: npt.NDArray[np.uint8]) -> bool:
    rows, columns = pixels[[0, -1]], pixels[1:-1, [0, -1]]
    border = np.concatenate([rows.reshape(-1), columns.reshape(-1)])
    return bool(np.median(border) > 127.5)
