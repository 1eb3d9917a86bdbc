"""Runs the launches of a product's kernel into poisoned memory, and compares with its meaning."""

import torch

from kernels.configs import Config
from tests.kernels.interpreted.poison import GAP, close, exactly

WHOLE = Config({"BM": 256, "BN": 256, "BK": 256, "SPLIT_K": 1}, 16, 1)
"""One program, and one step."""
TILED = Config({"BM": 32, "BN": 16, "BK": 32, "SPLIT_K": 1}, 4, 1)
"""Several programs in every dimension, and several steps."""
SPLIT = Config({"BM": 64, "BN": 64, "BK": 32, "SPLIT_K": 4}, 4, 1)


def landing(*shape, dtype):
    """Memory of sevens, and NaN of ``shape`` in the middle of it that a kernel is to write."""
    count = torch.Size(shape).numel()
    memory = torch.full((count + 2 * GAP,), 7.0, dtype=dtype)
    return memory, memory[GAP : GAP + count].view(shape).fill_(torch.nan)


def run(launches, memory):
    """Run them, and see that they wrote nothing around their result."""
    for launch in launches:
        launch.run()
    assert (memory[:GAP] == 7).all()
    assert (memory[-GAP:] == 7).all()


def check(launches, meaning, arguments, shape, **named):
    """``launches(*arguments, out=, **named)`` writes what ``meaning(*arguments)`` is in float64.

    Returns the launches.
    """
    dtype = arguments[0].dtype
    memory, out = landing(*shape, dtype=dtype)
    made = launches(*arguments, out=out, **named)
    run(made, memory)
    exact = [a if isinstance(a, str | int) else exactly(a)[0] for a in arguments]
    close(out, meaning(*exact), dtype)
    return made
