"""The ops that a program's steps call: a folder each.

``reference.py`` is the meaning, in plain PyTorch; ``cpu.py`` the fast CPU form; ``kernel.py`` the
Triton form. ``__init__.py`` checks the arguments, registers the op with `torch.library` under
``superserve::`` (so that it can be compiled around and captured), and chooses by device. Everything
is NHWC and contiguous, accumulates in float32 at least, and returns new memory.
"""
