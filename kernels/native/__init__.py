"""The compiled CPU ops (float32, NHWC, one thread), if they could be built at installation.

`cpu.cpp` needs nothing but a C++ compiler. Where there was none, `variant` is empty, and the ops
run on PyTorch's own: same results, slower.
"""

import ctypes
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch
from torch import Tensor

from kernels.activation import Activation

ACTIVATIONS: dict[Activation, int] = {"identity": 0, "relu": 1, "h_swish": 2}
KERNELS = (3, 5, 7)  # those that the depthwise op is compiled for
STRIDES = (1, 2)

_POINTER, _LONG = ctypes.c_void_p, ctypes.c_long
_SIGNATURES = {
    "affine": [_POINTER] * 4 + [_LONG] * 3,
    "depthwise": [_POINTER] * 3 + [_LONG, _POINTER, _LONG] + [_POINTER] * 4 + [_LONG] * 7,
    "squeeze_excite": [_POINTER] * 3 + [_LONG] + [_POINTER] * 2 + [_LONG, _POINTER] + [_LONG] * 4,
}


def _load() -> ctypes.CDLL | None:
    for suffix in EXTENSION_SUFFIXES:
        path = Path(__file__).parent / f"_cpu{suffix}"
        if path.exists():
            library = ctypes.CDLL(str(path))
            library.superserve_variant.restype = ctypes.c_char_p
            for name, arguments in _SIGNATURES.items():
                function = getattr(library, f"superserve_{name}")
                function.argtypes, function.restype = arguments, None
            return library
    return None


_library = _load()


def variant() -> str:
    """The instruction set in use: avx512, avx2 or baseline; empty where nothing was built."""
    return "" if _library is None else str(_library.superserve_variant().decode())


def usable(*tensors: Tensor | None) -> bool:
    """Whether the compiled ops can take these: float32 on a CPU, the last dimension contiguous."""
    return _library is not None and all(
        t is None or (t.dtype is torch.float32 and t.stride(-1) == 1 and t.device.type == "cpu")
        for t in tensors
    )


def _at(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def affine(
    y: Tensor,
    scale: Tensor,
    shift: Tensor,
    activation: Activation,
    residual: Tensor | None = None,
) -> None:
    """Compute y = act(scale · y + shift + residual), in place, over contiguous ``y`` [..., C]."""
    assert _library is not None
    channels = y.shape[-1]
    _library.superserve_affine(
        y.data_ptr(), scale.data_ptr(), shift.data_ptr(), _at(residual),
        y.numel() // channels if channels else 0, channels, ACTIVATIONS[activation],
    )  # fmt: skip


def depthwise(
    x: Tensor,
    filters: Tensor,
    scale: Tensor,
    shift: Tensor,
    stride: int,
    activation: Activation,
    before: tuple[Tensor, Tensor, Activation] | None,
    pooled: Tensor | None,
) -> Tensor:
    """See `kernels.ops.depthwise`."""
    assert _library is not None
    batch, height, width, channels = x.shape
    kernel = filters.shape[0]
    out = [(side + kernel // 2 * 2 - kernel) // stride + 1 for side in (height, width)]
    y = torch.empty((batch, *out, channels))
    before_scale, before_shift, before_activation = before or (None, None, "identity")
    _library.superserve_depthwise(
        x.data_ptr(), _at(before_scale), _at(before_shift), ACTIVATIONS[before_activation],
        filters.data_ptr(), filters.stride(1), scale.data_ptr(), shift.data_ptr(), y.data_ptr(),
        _at(pooled), batch, height, width, channels, kernel, stride, ACTIVATIONS[activation],
    )  # fmt: skip
    return y


def squeeze_excite(
    x: Tensor,
    pooled: Tensor,
    reduce_weight: Tensor,
    reduce_bias: Tensor,
    expand_weight: Tensor,
    expand_bias: Tensor,
) -> Tensor:
    """See `kernels.ops.squeeze_excite`; ``pooled`` [N, C] is the mean of ``x`` over pixels."""
    assert _library is not None
    batch, height, width, channels = x.shape
    _library.superserve_squeeze_excite(
        x.data_ptr(), pooled.data_ptr(), reduce_weight.data_ptr(), reduce_weight.stride(0),
        reduce_bias.data_ptr(), expand_weight.data_ptr(), expand_weight.stride(0),
        expand_bias.data_ptr(), batch, height * width, channels, reduce_weight.shape[0],
    )  # fmt: skip
    return x
