"""Builds the CPU ops; everything else stands in pyproject.toml."""

from pathlib import Path

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "kernels.native._cpu",
            ["kernels/native/cpu.cpp"],
            depends=[str(path) for path in Path("kernels/native").glob("*.inl")],
            language="c++",
            # What they compute stays IEEE; only what is never looked at is given up: errno,
            # floating-point traps, the sign of zero.
            extra_compile_args=["-O3", "-std=c++17", "-fno-math-errno", "-fno-trapping-math",
                                "-fno-signed-zeros"],
            optional=True,  # without a compiler the ops fall back on PyTorch's
        )
    ]
)  # fmt: skip
