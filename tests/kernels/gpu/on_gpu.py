"""What the tests on a GPU share."""

import pytest
import torch

DEVICE = "cuda"
TOLERANCE = {torch.bfloat16: 2e-2, torch.float16: 3e-3, torch.float32: 2e-5}


def _lack():
    if not torch.cuda.is_available():
        return "there is no GPU here that PyTorch can use"
    if torch.cuda.get_device_capability() < (8, 0):
        return "the GPU is older than compute capability 8.0"
    return ""


ON_GPU = [pytest.mark.gpu, pytest.mark.skipif(bool(_lack()), reason=_lack() or "there is a GPU")]


def close(actual, expected, tolerance):
    """Within ``tolerance`` of the largest expected number, and finite."""
    expected = expected.detach()
    assert actual.shape == expected.shape
    error = (actual.double() - expected).abs().max() / expected.abs().max().clamp(min=1e-6)
    assert float(error) <= tolerance
