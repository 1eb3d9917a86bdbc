"""What an encoded image says of itself: its format, its size, which way is up. Nothing is decoded.

The checks that keep a hostile file from costing memory or time stand here, before any decoder runs.
"""

import struct
from dataclasses import dataclass
from typing import Literal

import simplejpeg

from superserve.errors import BadImage, ImageTooLarge, UnsupportedImage

Format = Literal["JPEG", "PNG", "WEBP"]

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_JPEG_MAGIC = b"\xff\xd8\xff"

# A progressive JPEG has about ten scans, and each costs a pass over the whole image however few
# bytes it takes: without a limit, 16 MiB of empty scans keep a decoder busy for an hour.
_MAX_SCANS = 64
_START_OF_SCAN = b"\xff\xda"

# An encoder splits pixels into chunks of some kilobytes; a million empty ones take Pillow seconds.
_MAX_CHUNKS = 10_000

# Exif comes among the first segments; a file of a million empty ones is not walked to its end.
_MAX_SEGMENTS = 32
_ORIENTATION_TAG = 0x0112
_EXIF_SHORT = 3

_VP8_START_CODE = b"\x9d\x01\x2a"
_VP8L_SIGNATURE = 0x2F


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """``orientation`` is Exif's 1 to 8; ``height`` and ``width`` are those before it is applied."""

    format: Format
    height: int
    width: int
    orientation: int = 1


def read_header(data: bytes, max_pixels: int) -> ImageHeader:
    """What kind of image this is, judged by its first bytes and never by what the client called it.

    Raises `UnsupportedImage`, `BadImage` or `ImageTooLarge`.
    """
    if not data:
        raise BadImage("there is no image: the body is empty; send the file's bytes")
    if data.startswith(_JPEG_MAGIC):
        header = _jpeg(data)
    elif data.startswith(_PNG_MAGIC):
        header = _png(data)
    elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        header = _webp(data)
    else:
        raise UnsupportedImage(
            "this is not an image that can be read here: send the bytes of a JPEG, PNG or WebP file"
        )
    check_size(header.width, header.height, max_pixels)
    return header


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raises `ImageTooLarge` above ``max_pixels`` and `BadImage` for an image without pixels."""
    if width < 1 or height < 1:
        raise BadImage(f"the image claims {width} x {height} pixels; send an image that has some")
    if width * height > max_pixels:
        raise ImageTooLarge(
            f"{width} x {height} pixels are above the limit of {max_pixels}; send a smaller image"
        )


def _jpeg(data: bytes) -> ImageHeader:
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError as error:
        raise BadImage("the JPEG's header is broken or cut off; send the whole file") from error
    if data.count(_START_OF_SCAN) > _MAX_SCANS:
        raise BadImage(
            f"the JPEG has more than {_MAX_SCANS} scans; save it as a baseline JPEG and send that"
        )
    return ImageHeader("JPEG", height, width, _jpeg_orientation(data))


def _jpeg_orientation(data: bytes) -> int:
    """Walk the segments before the pixels to Exif's; 1 (upright) where none is found or sane."""
    position = 2
    for _ in range(_MAX_SEGMENTS):
        if position + 4 > len(data) or data[position] != 0xFF or data[position + 1] == 0xDA:
            return 1
        marker = data[position + 1]
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == 0xE1 and data[position + 4 : position + 10] == b"Exif\0\0":
            return _exif_orientation(data[position + 10 : position + 2 + length])
        position += 2 + length
    return 1


def _exif_orientation(tiff: bytes) -> int:
    order: Literal["little", "big"] = "little" if tiff.startswith(b"II") else "big"
    table = int.from_bytes(tiff[4:8], order)
    for entry in range(int.from_bytes(tiff[table : table + 2], order)):
        start = table + 2 + 12 * entry
        if start + 12 > len(tiff):
            break
        tag = int.from_bytes(tiff[start : start + 2], order)
        kind = int.from_bytes(tiff[start + 2 : start + 4], order)
        if tag == _ORIENTATION_TAG and kind == _EXIF_SHORT:
            value = int.from_bytes(tiff[start + 8 : start + 10], order)
            return value if 1 <= value <= 8 else 1
    return 1


def _png(data: bytes) -> ImageHeader:
    if len(data) < 24 or data[12:16] != b"IHDR":
        raise BadImage("the PNG's header is broken or cut off; send the whole file")
    width, height = struct.unpack_from(">II", data, 16)
    position = len(_PNG_MAGIC)
    for _ in range(_MAX_CHUNKS):
        position += 12 + int.from_bytes(data[position : position + 4], "big")
        if position >= len(data):
            break
    else:
        raise BadImage(f"the PNG has more than {_MAX_CHUNKS} chunks; save it anew and send that")
    return ImageHeader("PNG", height, width)


def _webp(data: bytes) -> ImageHeader:
    """The canvas size from the first chunk: https://developers.google.com/speed/webp/docs/riff_container."""
    kind, content = data[12:16], data[20:30]
    if len(content) == 10:
        if kind == b"VP8X":
            width = int.from_bytes(content[4:7], "little") + 1
            height = int.from_bytes(content[7:10], "little") + 1
            return ImageHeader("WEBP", height, width)
        if kind == b"VP8L" and content[0] == _VP8L_SIGNATURE:
            bits = int.from_bytes(content[1:5], "little")
            return ImageHeader("WEBP", (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1)
        if kind == b"VP8 " and content[3:6] == _VP8_START_CODE:
            width, height = struct.unpack_from("<HH", content, 6)
            return ImageHeader("WEBP", height & 0x3FFF, width & 0x3FFF)
    raise BadImage("the WebP's header is broken or cut off; send the whole file")
