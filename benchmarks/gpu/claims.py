"""What a document may say of GPU figures, checked: ``<!-- gpu: FILE -->`` ... ``<!-- /gpu -->``.

A figure stands between such marks, FILE is the evidence under benchmarks/results, and it is of the
kernels as they are now: a change of a kernel makes every figure stale until it is measured again.
Pure but for reading the evidence.
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.gpu.documents import read

_BLOCK = re.compile(r"<!--\s*gpu:\s*(?P<file>\S+)\s*-->(?P<text>.*?)<!--\s*/gpu\s*-->", re.DOTALL)
_MARK = re.compile(r"<!--\s*/?gpu\b.*?-->", re.DOTALL)
_NUMBER = re.compile(r"(?<![\w.])\d+(?:,\d{3})*(?:\.\d+)?(?![\w]*\d)")
# A time, a rate or a ratio, as a claim would have it.
_FIGURE = re.compile(
    r"\d\s*(?:(?:µs|us|ms|times (?:as|faster))\b|×|x faster|[TG]B/s|TFLOP|images/s)", re.IGNORECASE
)


def problems(text: str, folder: Path, kernels: str) -> Iterator[str]:
    """What is wrong with the figures of a text, given the current hash of the kernels."""
    blocks = list(_BLOCK.finditer(text))
    if len(_MARK.findall(text)) != 2 * len(blocks):
        yield "a mark has no counterpart: <!-- gpu: FILE --> ... <!-- /gpu -->"
    for block in blocks:
        yield from _problems_of_block(block["file"], block["text"], folder, kernels)


def unmarked(text: str) -> Iterator[str]:
    """Figures that stand outside the marks, with what is around them."""
    for figure in _FIGURE.finditer(_BLOCK.sub("", text)):
        around = _BLOCK.sub("", text)[max(0, figure.start() - 30) : figure.end() + 10]
        yield f"a figure without evidence: ...{' '.join(around.split())}..."


def _problems_of_block(file: str, text: str, folder: Path, kernels: str) -> Iterator[str]:
    document = read(folder / file)
    if document is None:
        yield f"{file}: there is no such evidence in {folder.name}"
        return
    if not str(document["how"]).startswith("measured on "):
        yield f"{file}: it is no measurement ({document['how']})"
    if document["kernel_hash"] != kernels:
        yield (
            f"{file}: stale, it was measured with the kernels {document['kernel_hash']}, and they "
            f"are {kernels} now; measure again (make gpu-check) or take the figures out"
        )
    known = list(_numbers(document))
    for number in _NUMBER.finditer(text):
        if not _is_among(number[0], known):
            yield f"{file}: {number[0]} is not in it"


def _is_among(written: str, known: list[float]) -> bool:
    """Whether some number is this one when it is rounded as it is written, alone or in millis."""
    value = float(written.replace(",", ""))
    decimals = len(written.partition(".")[2])
    close = 0.5000001 * 10.0**-decimals
    return any(abs(k * scale - value) <= close for k in known for scale in (1, 1e-3, 1e-6, 100))


def _numbers(part: Any) -> Iterator[float]:
    """All figures of a document; not the single samples, among which anything is found."""
    if isinstance(part, bool):
        return
    if isinstance(part, int | float):
        if math.isfinite(part):
            yield float(part)
    elif isinstance(part, dict):
        for key, value in part.items():
            if key != "samples_us":
                yield from _numbers(value)
    elif isinstance(part, list):
        for item in part:
            yield from _numbers(item)
    elif isinstance(part, str):
        for found in re.findall(r"\d+(?:\.\d+)?", part):
            yield float(found)
