"""Tensors that show what a kernel read or left out: NaN wherever it has no business."""

import torch

TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
DTYPES = list(TOLERANCE)
GAP = 40  # elements


def framed(*shape, dtype=torch.float32):
    """Contiguous normal numbers with NaN in the memory before and behind them."""
    count = torch.Size(shape).numel()
    memory = torch.full((count + 2 * GAP,), torch.nan, dtype=dtype)
    memory[GAP : GAP + count] = torch.randn(count).to(dtype)
    return memory[GAP : GAP + count].view(shape)


def prefix(*shape, more, dtype=torch.float32, scale=1.0):
    """The first ``shape`` of a tensor that is ``more`` larger in each dimension, and there NaN."""
    whole = torch.full([a + b for a, b in zip(shape, more, strict=True)], torch.nan, dtype=dtype)
    part = whole[tuple(slice(size) for size in shape)]
    part.copy_(torch.randn(shape) * scale)
    return part


def unwritten(*shape, dtype=torch.float32):
    return torch.full(shape, torch.nan, dtype=dtype)


def exactly(*tensors):
    """In float64, the numbers that these hold: what the meaning is computed from."""
    return [None if tensor is None else tensor.double() for tensor in tensors]


def close(actual, expected, dtype):
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance, check_dtype=False)
