"""The compiled CPU plans (float32, NHWC, one thread), if they could be built at installation.

`cpu.cpp` needs nothing but a C++ compiler. Where there was none, `variant` is empty, and programs
run op by op on PyTorch: same results, slower.
"""

import ctypes
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path


def _load() -> ctypes.CDLL | None:
    for suffix in EXTENSION_SUFFIXES:
        path = Path(__file__).parent / f"_cpu{suffix}"
        if path.exists():
            library = ctypes.CDLL(str(path))
            if not hasattr(library, "superserve_run"):
                raise ImportError(f"{path} was built from other sources; install the package again")
            library.superserve_variant.restype = ctypes.c_char_p
            library.superserve_run.argtypes = [ctypes.c_void_p] * 4 + [
                ctypes.c_long,
                ctypes.c_void_p,
            ]
            library.superserve_run.restype = None
            return library
    return None


library = _load()


def variant() -> str:
    """The instruction set in use: avx512, avx2 or baseline; empty where nothing was built."""
    return "" if library is None else str(library.superserve_variant().decode())
