"""On a GPU every op equals its meaning in float64, on slices of poisoned memory."""

from importlib import import_module

import pytest
import torch

from kernels.auditing.calls import distinct
from kernels.auditing.networks import middle_calls, mobilenetv3
from tests.kernels.gpu.on_gpu import DEVICE, ON_GPU, TOLERANCE, close

pytestmark = ON_GPU

CALLS = distinct(iter([*middle_calls(2), *mobilenetv3(1.2, 7, 6, 2, 1)]))
# Shapes in words, so that a failure says which layer it is.
NAMES = [
    f"{index}-{call.op}-{'x'.join(str(n) for n in next(iter(call.arguments.values())).shape)}"
    for index, call in enumerate(CALLS)
]


def pair(call, dtype):
    """The op's results and its meaning's in float64."""
    arguments = call.make(DEVICE, dtype)
    package = import_module(f"kernels.ops.{call.op}")
    reference = getattr(import_module(f"kernels.ops.{call.op}.reference"), call.op)
    wide = {k: v.double() if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}
    results = getattr(package, call.op)(**arguments), reference(**wide)
    return [one if isinstance(one, tuple) else (one,) for one in results]


@pytest.mark.parametrize("call", CALLS, ids=NAMES)
def test_in_bfloat16(call):
    for actual, expected in zip(*pair(call, torch.bfloat16), strict=True):
        if expected.numel():
            close(actual, expected, TOLERANCE[torch.bfloat16])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=["float16", "float32"])
@pytest.mark.parametrize("call", CALLS[::3], ids=NAMES[::3])
def test_in_other_types(call, dtype):
    for actual, expected in zip(*pair(call, dtype), strict=True):
        if expected.numel():
            close(actual, expected, TOLERANCE[dtype])


@pytest.mark.parametrize("call", CALLS[::5], ids=NAMES[::5])
def test_twice_the_same_call_is_the_same_answer(call):
    first, _ = pair(call, torch.bfloat16)
    second, _ = pair(call, torch.bfloat16)

    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
