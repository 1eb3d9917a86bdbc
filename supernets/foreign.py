"""Checkpoints of other projects: read without running their code, and checked whole."""

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from supernets.errors import CheckpointError

# Where training scripts put the weights inside what they save.
_CONTAINERS = ("state_dict", "model", "model_state", "net")


def read_foreign(path: Path) -> dict[str, Tensor]:
    """The state dict in a file of another project: safetensors, or a pickle of tensors only.

    Pickles are read with ``weights_only``, so that no file can run code, in the zip form as in the
    one before PyTorch 1.6, and tensors that were saved on a GPU come to the CPU. A state dict
    inside a training checkpoint (``state_dict``, ``model``...) is found. Raises `CheckpointError`.
    """
    try:
        # timm saves its command line beside the weights; a Namespace can run nothing.
        with torch.serialization.safe_globals([Namespace]):
            content: Any = (
                load_file(path)
                if path.suffix == ".safetensors"
                else torch.load(path, map_location="cpu", weights_only=True)
            )
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error.strerror}") from error
    except SafetensorError as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error}") from error
    except Exception as error:
        # The unpickler meets damage in many ways, and names none of them.
        raise CheckpointError(
            f"{path} is no readable checkpoint: {_why_unreadable(path)}"
        ) from error
    state = content
    if isinstance(content, dict):
        state = next((content[k] for k in _CONTAINERS if isinstance(content.get(k), dict)), content)
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(f"{path} holds no state dict")
    return dict(state)


def _why_unreadable(path: Path) -> str:
    """What is known of a file that the unpickler refuses, without running what is in it."""
    advice = "torch.save(model.state_dict(), FILE) writes what can be read here"
    try:
        kinds = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # not of today's format, or damaged in any way
        return f"it is cut off, or it holds more than tensors; {advice}"
    if not kinds:
        return f"it is damaged; {advice}"
    kinds.sort(key=lambda kind: (kind.startswith("torch."), kind))  # the model's own class first
    more = f" and {len(kinds) - 3} more" if len(kinds) > 3 else ""
    return (
        f"it holds Python objects ({', '.join(kinds[:3])}{more}), as torch.save(model) writes, and "
        f"reading those runs code. Load it where you trust it; {advice}"
    )


def check_state(
    given: Mapping[str, Tensor],
    expected: Mapping[str, tuple[int, ...]],
    message: str,
    ignored: frozenset[str] = frozenset(),
) -> None:
    """Every expected key is there with its exact shape and finite values, and none besides.

    ``ignored`` keys may be there or not. Raises `CheckpointError`, ``message`` and the problems.
    """
    problems = [f"missing: {name}" for name in expected if name not in given]
    problems += [
        f"unexpected: {name}" for name in given if name not in expected and name not in ignored
    ]
    problems += [
        f"{name} has shape {tuple(given[name].shape)}, not {shape}"
        for name, shape in expected.items()
        if name in given and tuple(given[name].shape) != tuple(shape)
    ]
    problems += [
        f"{name} is not finite"
        for name in expected
        if name in given and not given[name].isfinite().all()
    ]
    if problems:
        raise CheckpointError(message, problems)
