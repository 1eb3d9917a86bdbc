"""Depthwise convolution of horizontal strips of output pixels, all in registers.

A thread holds eight channels of one strip. Each input pixel that it reads feeds every tap of the
strip that wants it, and each filter tap every pixel of the strip: seven outputs of a 7x7 filter
take 140 loads of eight channels, where a load for each tap and pixel would be 686.
"""

# mypy: disable-error-code="assignment"
# Inside a kernel a tuple grows as it is unrolled; to mypy that is a change of its type.

from dataclasses import dataclass

import triton
import triton.language as tl

from kernels.configs import Config


@dataclass(frozen=True, slots=True)
class Strips:
    """How tiles of ``rows`` x ``strips`` strips, of ``length`` pixels each, cover an output map."""

    length: int
    strips: int
    rows: int
    across: int
    down: int

    @property
    def tiles(self) -> int:
        return self.across * self.down

    @property
    def constants(self) -> dict[str, int]:
        return {"ROWS": self.rows, "STRIPS": self.strips, "STRIP": self.length}


def cover(height: int, width: int, config: Config, more: int = 1) -> Strips:
    """Strips of ``STRIP`` pixels at most, but of equal length: 14 pixels are two of 7.

    A tile holds ``STRIPS`` of them, ``more`` times as many where a program has that few channels,
    in the form that makes the fewest tiles, and among those the most square one.
    """
    longest, strips = config.tiles["STRIP"], config.tiles["STRIPS"] * more
    length = -(-width // -(-width // longest))
    forms = []
    for beside in (2**power for power in range(strips.bit_length())):
        rows = strips // beside
        across, down = -(-width // (beside * length)), -(-height // rows)
        forms.append(Strips(length, beside, rows, across, down))
    return min(forms, key=lambda form: (form.tiles, form.rows + form.strips * form.length))


@triton.jit
def place(
    tile: tl.tensor, across: tl.tensor, ROWS: tl.constexpr, STRIPS: tl.constexpr,
    STRIP: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """The output row and the first output column of each of the tile's P strips: [P], [P]."""
    strip = tl.arange(0, ROWS * STRIPS)
    row = (tile // across) * ROWS + strip // STRIPS
    column = ((tile % across) * STRIPS + strip % STRIPS) * STRIP
    return row, column


@triton.jit
def convolve(
    image: tl.tensor,
    filters: tl.tensor,
    row: tl.tensor,
    column: tl.tensor,
    channel: tl.tensor,
    live: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    channels: tl.tensor,
    filter_row: tl.tensor,
    filter_tap: tl.tensor,
    K: tl.constexpr,
    STRIDE: tl.constexpr,
    STRIP: tl.constexpr,
    UNROLL: tl.constexpr,
) -> tl.tensor:
    """STRIP tiles [P, BC] in float32: the output pixels ``column`` + t of ``row``, both [P].

    ``image`` points at the first pixel of an input map; ``channel`` is [1, BC], ``live`` which of
    them there are; ``filter_row`` and ``filter_tap`` are the strides of ``filters`` [K, K, C].
    """
    # One pointer a thread, though all of a column are equal: the taps then arrive in the layout in
    # which they are used, and the loads of a warp still touch each address once.
    taps = filters + (channel + tl.zeros_like(row)[:, None])
    sums = ()
    for _ in tl.static_range(STRIP):
        sums += (tl.zeros(taps.shape, tl.float32),)
    top, left = row * STRIDE - K // 2, column * STRIDE - K // 2
    for i in tl.range(0, K, loop_unroll_factor=UNROLL):
        inside = (top + i >= 0) & (top + i < height)
        pixel = image + (((top + i) * width + left) * channels)[:, None] + channel
        factors = ()
        for j in tl.static_range(K):
            tap = tl.load(taps + i * filter_row + j * filter_tap, mask=live, other=0.0)
            factors += (tap.to(tl.float32),)
        for u in tl.static_range((STRIP - 1) * STRIDE + K):
            mask = (inside & (left + u >= 0) & (left + u < width))[:, None] & live
            value = tl.load(pixel + u * channels, mask=mask, other=0.0).to(tl.float32)
            added = ()
            for t in tl.static_range(STRIP):
                if u >= t * STRIDE and u < t * STRIDE + K:
                    added += (tl.fma(value, factors[u - t * STRIDE], sums[t]),)
                else:
                    added += (sums[t],)
            sums = added
    return sums
