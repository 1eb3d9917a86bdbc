"""Names of classes: from a file, or ImageNet's."""

import json
from pathlib import Path

from supernets.errors import CheckpointError

IMAGENET = "imagenet"
IMAGENET_CLASSES = 1000


def imagenet_labels() -> tuple[str, ...]:
    """The 1000 names of ImageNet-1k in the usual order, as torchvision has them."""
    from torchvision.models import (  # type: ignore[import-untyped]
        ResNet18_Weights,
    )

    return tuple(ResNet18_Weights.DEFAULT.meta["categories"])


def read_labels(source: str | Path, count: int) -> tuple[str, ...]:
    """``count`` names: ``imagenet``, or a file with one to a line or a JSON list.

    Raises `CheckpointError` for a file that is not there, or has another number of names.
    """
    if str(source) == IMAGENET:
        names = imagenet_labels()
    else:
        try:
            text = Path(source).read_text()
            found = json.loads(text) if text.lstrip().startswith("[") else text.splitlines()
        except (OSError, ValueError) as error:
            raise CheckpointError(f"cannot read the labels in {source}: {error}") from error
        names = tuple(name for name in (str(each).strip() for each in found) if name)
    if len(names) != count:
        raise CheckpointError(f"{source} names {len(names)} classes; the checkpoint has {count}")
    return names
