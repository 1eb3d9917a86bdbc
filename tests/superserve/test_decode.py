"""Decoding against Pillow's own decoding and resizing, and against hand-worked colours."""

import io
import random
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from superserve.decode import decode
from superserve.errors import BadImage, ClientError, ImageTooLarge, UnsupportedImage
from superserve.messages import Preprocessing
from tests.superserve.fakes import encoded

LIMIT = 1_000_000


def steps(height=16, width=16, channels=3, **more):
    return Preprocessing(height, width, channels, (0.5,) * channels, (0.5,) * channels, **more)


def decoded(data, preprocessing=None, max_pixels=LIMIT):
    preprocessing = preprocessing or steps()
    out = np.full((preprocessing.height, preprocessing.width, preprocessing.channels), 77, np.uint8)
    decode(data, preprocessing, out, max_pixels=max_pixels)
    return out


def smooth(width, height, seed=0):
    """A colourful image without hard edges, so that two ways to resize it agree closely."""
    noise = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def quadrants(width, height):
    """Red, green, blue, white from left to right and top to bottom: no symmetry hides a turn."""
    image = Image.new("RGB", (width, height), "red")
    image.paste("lime", (width // 2, 0, width, height // 2))
    image.paste("blue", (0, height // 2, width // 2, height))
    image.paste("white", (width // 2, height // 2, width, height))
    return image


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def forged_png(width, height, *later_chunks):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(10_000)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(later_chunks) + pixels + chunk(b"IEND", b"")


def forged_jpeg(width, height):
    data = encoded(Image.new("RGB", (16, 16)), "JPEG")
    frame = data.index(b"\xff\xc0")
    return data[: frame + 5] + struct.pack(">HH", height, width) + data[frame + 9 :]


def forged_webp(kind, content):
    body = b"WEBP" + kind + struct.pack("<I", len(content)) + content
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("PNG", {"interlace": 1})]
)
def test_an_image_of_the_target_size_keeps_every_pixel(kind, options):
    image = smooth(16, 16)
    assert np.array_equal(np.asarray(image), decoded(encoded(image, kind, **options)))


@pytest.mark.parametrize("options", [{"quality": 90}, {"progressive": True}, {"subsampling": 0}])
def test_jpeg_of_the_target_size_decodes_as_pillow_does(options):
    data = encoded(smooth(16, 16), "JPEG", **options)
    expected = np.asarray(Image.open(io.BytesIO(data))).astype(int)
    assert np.abs(expected - decoded(data)).max() <= 2


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("size", [(16, 16), (640, 480), (37, 211), (5, 9), (1, 1), (300, 3)])
def test_resizing_agrees_with_pillows_crop_and_resize(kind, size):
    data = encoded(smooth(*size), kind)
    image = Image.open(io.BytesIO(data)).convert("RGB")
    expected = np.asarray(ImageOps.fit(image, (16, 16), Image.Resampling.BILINEAR)).astype(int)
    error = np.abs(expected - decoded(data))
    assert error.mean() < 2.5


def test_a_large_jpeg_shrunk_while_decoding_looks_like_one_shrunk_afterwards():
    data = encoded(smooth(900, 700), "JPEG", quality=95)
    full = Image.open(io.BytesIO(data))
    expected = np.asarray(ImageOps.fit(full, (32, 32), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(expected - decoded(data, steps(32, 32))).mean() < 1.5


def test_a_wide_target_takes_the_widest_middle():
    """30 x 30 in red, lime and blue from top to bottom: a 3:1 target sees lime alone."""
    image = Image.new("RGB", (30, 30), "red")
    image.paste("lime", (0, 10, 30, 20))
    image.paste("blue", (0, 20, 30, 30))
    out = decoded(encoded(image, "PNG"), steps(height=4, width=12))
    assert tuple(out[1, 5]) == (0, 255, 0)
    assert tuple(out[2, 11]) == (0, 255, 0)


def test_crop_keeps_that_share_of_the_shorter_side():
    """A frame of an eighth on each side is what a crop of three quarters leaves out."""
    image = Image.new("L", (64, 64), 255)
    image.paste(9, (8, 8, 56, 56))
    data = encoded(image, "PNG")
    inner = decoded(data, steps(12, 12, 1, crop=0.75))
    assert np.median(inner) == 9
    assert np.all(inner[1:-1, 1:-1] == 9)
    assert decoded(data, steps(12, 12, 1))[0, 0, 0] == 255


SOURCES = [
    ("black and white", Image.new("1", (20, 20), 1), (255, 255, 255)),
    ("grey", Image.new("L", (20, 20), 80), (80, 80, 80)),
    ("grey, half transparent", Image.new("LA", (20, 20), (0, 128)), (127, 127, 127)),
    ("colour", Image.new("RGB", (20, 20), (200, 10, 60)), (200, 10, 60)),
    ("colour, half transparent", Image.new("RGBA", (20, 20), (255, 0, 0, 128)), (255, 127, 127)),
    ("colour, transparent", Image.new("RGBA", (20, 20), (5, 6, 7, 0)), (255, 255, 255)),
    ("palette", Image.new("RGB", (20, 20), (0, 51, 255)).convert("P"), (0, 51, 255)),
    ("16 bits", Image.fromarray(np.full((20, 20), 0x8040, np.uint16)), (0x80, 0x80, 0x80)),
]


@pytest.mark.parametrize(
    ("image", "expected"), [s[1:] for s in SOURCES], ids=[s[0] for s in SOURCES]
)
def test_every_kind_of_png_becomes_eight_bits_of_colour_on_white(image, expected):
    out = decoded(encoded(image, "PNG"))
    assert np.abs(out.astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("image", "expected"), [s[1:] for s in SOURCES], ids=[s[0] for s in SOURCES]
)
def test_every_kind_of_png_becomes_grey_by_its_brightness(image, expected):
    red, green, blue = expected
    out = decoded(encoded(image, "PNG"), steps(channels=1))
    assert np.abs(out.astype(float) - (0.299 * red + 0.587 * green + 0.114 * blue)).max() <= 1


def test_a_palette_image_with_a_transparent_colour_shows_white_there():
    image = Image.new("P", (20, 20), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    assert tuple(decoded(encoded(image, "PNG", transparency=1))[8, 8]) == (255, 255, 255)
    assert tuple(decoded(encoded(image, "PNG", transparency=0))[8, 8]) == (0, 0, 255)


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_of_every_colour_space_decodes_as_pillow_does(mode, channels):
    data = encoded(smooth(16, 16).convert(mode), "JPEG", quality=95)
    wanted = Image.open(io.BytesIO(data)).convert("L" if channels == 1 else "RGB")
    expected = np.asarray(wanted).reshape(16, 16, channels).astype(int)
    assert np.abs(expected - decoded(data, steps(channels=channels))).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(16, 16), (160, 160), (160, 80)])
def test_exif_orientation_is_applied_to_jpeg(orientation, size):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(quadrants(*size), "JPEG", exif=exif, quality=95, subsampling=0)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    expected = np.asarray(ImageOps.fit(upright, (16, 16), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(expected - decoded(data)).mean() < 4


def with_exif(tiff):
    data = encoded(quadrants(16, 16), "JPEG", quality=95, subsampling=0)
    segment = b"Exif\0\0" + tiff
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + data[2:]


ENTRY = struct.pack(">HHIHH", 0x0112, 3, 1, 3, 0)
UPSIDE_DOWN = b"MM\0\x2a\0\0\0\x08\0\x01" + ENTRY + bytes(4)


def test_exif_in_the_other_byte_order_is_read_too():
    entry = struct.pack("<HHIHH", 0x0112, 3, 1, 3, 0)
    little = b"II\x2a\0\x08\0\0\0\x01\0" + entry + bytes(4)
    upside_down = np.asarray(quadrants(16, 16))[::-1, ::-1].astype(int)
    for tiff in (UPSIDE_DOWN, little):
        assert np.abs(upside_down - decoded(with_exif(tiff))).mean() < 4


@pytest.mark.parametrize(
    "tiff",
    [
        b"",
        b"MM",
        UPSIDE_DOWN[:-10],
        UPSIDE_DOWN.replace(struct.pack(">HH", 3, 0), struct.pack(">HH", 9, 0)),
        b"MM\0\x2a\xff\xff\xff\xff" + UPSIDE_DOWN[8:],
        b"MM\0\x2a\0\0\0\x08\xff\xff" + bytes(100),
    ],
    ids=["empty", "cut", "cut entry", "orientation 9", "far away", "a table of nothing"],
)
def test_exif_that_makes_no_sense_is_passed_over(tiff):
    upright = np.asarray(quadrants(16, 16)).astype(int)
    assert np.abs(upright - decoded(with_exif(tiff))).mean() < 4


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_of_an_animation_the_first_frame_counts(kind):
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert tuple(decoded(data)[8, 8]) == (255, 0, 0)


def test_ink_on_paper_is_inverted_and_ink_on_dark_is_not():
    paper = Image.new("L", (32, 32), 250)
    paper.paste(10, (12, 4, 20, 28))
    dark = ImageOps.invert(paper)
    wanted = steps(8, 8, 1, ink_on_dark=True)
    from_paper, from_dark = (decoded(encoded(i, "PNG"), wanted) for i in (paper, dark))
    assert np.array_equal(from_dark, from_paper)
    assert from_dark[0, 0, 0] < 20
    assert from_dark[4, 4, 0] > 200
    assert decoded(encoded(paper, "PNG"), steps(8, 8, 1))[0, 0, 0] > 200


def test_only_the_given_array_is_written():
    memory = np.full((4, 16, 16, 3), 77, np.uint8)
    decode(encoded(smooth(40, 30), "PNG"), steps(), memory[2], max_pixels=LIMIT)
    assert np.all(memory[[0, 1, 3]] == 77)
    assert not np.all(memory[2] == 77)


@pytest.mark.parametrize(
    "data",
    [
        b"hello",
        b"GIF89a" + bytes(40),
        b"BM" + bytes(60),
        b"II*\0" + bytes(60),
        b"RIFF\x10\0\0\0WAVEfmt " + bytes(20),
        b"\xff\xd8",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    ],
)
def test_other_formats_are_told_by_their_first_bytes(data):
    with pytest.raises(UnsupportedImage, match="JPEG, PNG or WebP"):
        decoded(data)


def test_no_bytes_are_no_image():
    with pytest.raises(BadImage, match="empty"):
        decoded(b"")


BOMBS = {
    "PNG": forged_png(60_000, 60_000),
    "PNG of the largest size": forged_png(2**31 - 1, 2**31 - 1),
    "PNG with a second header": forged_png(
        10, 10, chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    ),
    "PNG just too large for Pillow's liking": forged_png(10_000, 10_000),
    "JPEG": forged_jpeg(60_000, 60_000),
    "WebP, extended": forged_webp(b"VP8X", bytes(4) + b"\xff\xff\xff" * 2),
    "WebP, lossless": forged_webp(b"VP8L", b"\x2f\xff\xff\xff\x0f" + bytes(5)),
    "WebP, lossy": forged_webp(b"VP8 ", bytes(3) + b"\x9d\x01\x2a\xff\x3f\xff\x3f"),
}


@pytest.mark.parametrize("data", BOMBS.values(), ids=BOMBS.keys())
def test_a_bomb_is_refused_by_its_header(data):
    with pytest.raises(ImageTooLarge, match="smaller"):
        decoded(data, max_pixels=24_000_000)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_the_limit_itself_is_allowed(kind):
    data = encoded(smooth(30, 20), kind)
    decoded(data, max_pixels=600)
    with pytest.raises(ImageTooLarge, match="30 x 20"):
        decoded(data, max_pixels=599)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_an_image_without_pixels_is_bad(kind):
    data = forged_png(0, 7) if kind == "PNG" else forged_jpeg(0, 7)
    with pytest.raises(BadImage):
        decoded(data)


def test_a_jpeg_of_endless_scans_is_refused():
    """A few bytes of scan cost a pass over all pixels."""
    data = encoded(Image.new("RGB", (64, 64)), "JPEG", progressive=True)
    decoded(data)
    last_scan = data[data.rindex(b"\xff\xda") : -2]
    with pytest.raises(BadImage, match="scans"):
        decoded(data[:-2] + last_scan * 100 + data[-2:])


def test_a_png_of_endless_chunks_is_refused():
    """Each costs time in Pillow, however empty it is."""
    decoded(forged_png(8, 8, chunk(b"teSt", b"") * 1000))
    with pytest.raises(BadImage, match="chunks"):
        decoded(forged_png(8, 8, chunk(b"teSt", b"") * 20_000))


FILES = {
    "JPEG": encoded(smooth(50, 40), "JPEG"),
    "progressive JPEG": encoded(smooth(50, 40), "JPEG", progressive=True),
    "PNG": encoded(smooth(50, 40), "PNG"),
    "palette PNG": encoded(smooth(50, 40).convert("P"), "PNG"),
    "WebP": encoded(smooth(50, 40), "WEBP"),
    "lossless WebP": encoded(smooth(50, 40), "WEBP", lossless=True),
    "animated WebP": encoded(
        smooth(50, 40), "WEBP", save_all=True, append_images=[smooth(50, 40, 1)]
    ),
}


@pytest.mark.parametrize("data", FILES.values(), ids=FILES.keys())
def test_a_file_cut_off_anywhere_is_bad_or_complete_all_the_same(data):
    """Only bytes after the last pixel may be missing."""
    whole = decoded(data)
    for end in range(12, len(data), max(1, len(data) // 150)):
        try:
            out = decoded(data[:end])
        except BadImage:
            continue
        assert np.array_equal(out, whole), f"cut off after {end} bytes"


@pytest.mark.parametrize("data", FILES.values(), ids=FILES.keys())
def test_whatever_is_changed_in_a_file_only_the_client_is_to_blame(data):
    rng = random.Random(7)
    for _ in range(150):
        damaged = bytearray(data)
        for _ in range(rng.randint(1, 12)):
            damaged[rng.randrange(len(data))] = rng.randrange(256)
        try:
            out = decoded(bytes(damaged))
        except ClientError:
            continue
        assert out.shape == (16, 16, 3)


@pytest.mark.parametrize("magic", [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\xff\0\0\0WEBP"])
def test_noise_behind_a_good_start_is_the_clients_fault(magic):
    rng = random.Random(7)
    for _ in range(100):
        with pytest.raises(ClientError):
            decoded(magic + rng.randbytes(rng.randrange(300)))


def test_the_front_end_never_imports_torch():
    code = (
        "import sys, superserve.server.run, superserve.server.app, superserve.client;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
