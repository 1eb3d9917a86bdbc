"""Brings ranges of one buffer into L2, by a kernel that reads them or asks for them.

Reading ("touch") returns when the bytes are there; asking ("prefetch") issues PTX
``prefetch.global.L2::evict_last``, a hint that occupies a processor for a moment only. Neither
changes anything, so they may run beside kernels that read the same bytes.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.launch import Launch
from kernels.ranges import Ranges, widened

UNIT = 16  # bytes: one 128-bit load, in which pieces are counted
LINE = 128  # bytes: what L2 brings in for one request
PIECE = 4096  # bytes that one program brings in, at most


@triton.jit
def bring(
    words: tl.tensor,
    starts: tl.tensor,
    counts: tl.tensor,
    digests: tl.tensor,
    PIECE_WORDS: tl.constexpr,
    LINE_WORDS: tl.constexpr,
    TOUCH: tl.constexpr,
) -> None:
    """Piece i: ``counts[i]`` units of 16 bytes from unit ``starts[i]`` of ``words`` (int32) on.

    A touched piece leaves the exclusive or of its words behind, so that the loads are needed.
    """
    piece = tl.program_id(0)
    first = words + tl.load(starts + piece) * 4
    size = tl.load(counts + piece) * 4
    if TOUCH:
        word = tl.arange(0, PIECE_WORDS)
        read = tl.load(first + word, mask=word < size, other=0)
        tl.store(digests + piece, tl.xor_sum(read, 0))
    else:
        word = tl.minimum(tl.arange(0, PIECE_WORDS // LINE_WORDS) * LINE_WORDS, size - 1)
        tl.inline_asm_elementwise(
            "prefetch.global.L2::evict_last [$1]; mov.u32 $0, 0;",
            "=r,l",
            [(first + word).to(tl.int64)],
            dtype=tl.int32,
            is_pure=False,
            pack=1,
        )


def pieces(ranges: Ranges, base: int, nbytes: int) -> npt.NDArray[np.int64]:
    """[n, 2] of (start, count) in units, whole lines of the buffer of ``nbytes`` at ``base``.

    What lies outside the buffer is left out. ``ValueError`` for a buffer that is no whole number of
    units.
    """
    if nbytes % UNIT:
        raise ValueError(f"a buffer of {nbytes} bytes is not a whole number of {UNIT} byte units")
    within = np.clip(widened(ranges - base, LINE), 0, nbytes)
    counts = -(-(within[:, 1] - within[:, 0]) // PIECE)
    number = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)
    starts = np.repeat(within[:, 0], counts) + PIECE * number
    ends = np.minimum(starts + PIECE, np.repeat(within[:, 1], counts))
    return np.stack([starts, ends - starts], axis=1) // UNIT


@dataclass(frozen=True, slots=True)
class Fetch:
    """Pieces of one buffer, as a kernel wants them, and room for what it says of them."""

    buffer: Tensor
    starts: Tensor  # [n], int64
    counts: Tensor  # [n], int32
    digests: Tensor  # [n], int32

    @classmethod
    def of(cls, ranges: Ranges, buffer: Tensor) -> "Fetch":
        """The ranges' lines in ``buffer``, which is contiguous."""
        table = pieces(ranges, buffer.data_ptr(), buffer.nbytes)
        starts = torch.tensor(table[:, 0], device=buffer.device)
        counts = torch.tensor(table[:, 1], dtype=torch.int32, device=buffer.device)
        return cls(buffer, starts, counts, torch.empty_like(counts))

    def launches(self, *, touch: bool) -> tuple[Launch, ...]:
        """Read the pieces, or ask for them; nothing where there are none."""
        if len(self.starts) == 0:
            return ()
        return (
            Launch(
                kernel=bring,
                grid=(len(self.starts),),
                arguments={
                    "words": self.buffer.view(torch.int32),
                    "starts": self.starts,
                    "counts": self.counts,
                    "digests": self.digests,
                },
                constants={"PIECE_WORDS": PIECE // 4, "LINE_WORDS": LINE // 4, "TOUCH": touch},
                options={"num_warps": 4 if touch else 1, "num_stages": 1, "enable_fp_fusion": True},
            ),
        )

    def run(self, *, touch: bool) -> None:
        """On the current stream."""
        for launch in self.launches(touch=touch):
            launch.run()
