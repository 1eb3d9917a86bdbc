"""Touching reads every byte of its pieces once: their exclusive or is left behind."""

import numpy as np
import torch

from kernels.prefetch import UNIT, Fetch
from kernels.ranges import merged


def test_a_touch_reads_all_of_its_pieces_and_changes_nothing():
    buffer = torch.randint(256, (20_000 // UNIT * UNIT,), dtype=torch.uint8)
    kept, base = buffer.clone(), buffer.data_ptr()
    ranges = merged([(base, base + 5), (base + 900, base + 9000), (base + 19_900, base + 30_000)])
    fetch = Fetch.of(ranges, buffer)
    fetch.run(touch=True)
    words = buffer.numpy().view(np.int32)
    expected = [
        np.bitwise_xor.reduce(words[4 * start : 4 * (start + count)])
        for start, count in zip(fetch.starts.tolist(), fetch.counts.tolist(), strict=True)
    ]

    assert len(expected) > 3
    assert fetch.digests.tolist() == expected
    assert torch.equal(buffer, kept)
