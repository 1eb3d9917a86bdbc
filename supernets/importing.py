"""Checkpoints of other projects made into ours: recognised, loaded, checked whole, and written."""

from pathlib import Path
from typing import Any

from torch import Tensor

from supernets.checkpoint import refuse_to_lose, save
from supernets.data.labels import IMAGENET_CLASSES, imagenet_labels, read_labels
from supernets.errors import CheckpointError
from supernets.fingerprint import is_own
from supernets.foreign import read_foreign
from supernets.ofa.ofa_shapes import MOBILENETV3, recognise
from supernets.registry import create_supernet
from supernets.supernet import Supernet

# Per kind of checkpoint the supernet it is for, where there is one, and how that must be built.
KINDS: dict[str, tuple[str | None, dict[str, Any]]] = {
    "ofa": (None, {}),
    "timm": (None, {}),
    "torchvision": (None, {}),
    "snnet": ("stitched_resnet", {"positions": "snnet", "stitch_relu": False}),
    "autoformer": ("elastic_vit", {}),
}
# The published AutoFormer supernets by the width of their embedding.
_AUTOFORMERS = {256: "autoformer_tiny", 448: "autoformer_small", 640: "autoformer_base"}


def import_checkpoint(
    file: str | Path, output: str | Path, kind: str, supernet: str | None = None, **options: Any
) -> Path:
    """Write another project's checkpoint as one of ours, ``output``/NAME.safetensors.

    See `load_checkpoint` for the arguments and for what is raised; nothing is written then.
    """
    return write(load_checkpoint(file, kind, supernet, **options), output)


def load_checkpoint(
    file: str | Path,
    kind: str,
    supernet: str | None = None,
    labels: str | Path | None = None,
    **options: Any,
) -> Supernet:
    """The supernet with the weights of another project's checkpoint, in evaluation mode.

    ``kind`` is one of `KINDS`. For ``ofa`` the family, the width and the number of classes are
    found from the shapes, for ``autoformer`` the model; for ``timm`` and ``torchvision``
    ``supernet`` names a family. ``labels``: see `labels.read_labels`; without them 1000
    classes get ImageNet's names, for which all these were trained. ``options`` build it as in
    `supernets.create_supernet`. Raises `CheckpointError` with the list of what is wrong with the
    file, ``KeyError`` for an unknown supernet, and ``ValueError`` for an unknown kind or options
    that the supernet does not take.
    """
    path = Path(file)
    if kind not in KINDS:
        raise ValueError(f"no checkpoints are of the kind {kind!r}; there are {', '.join(KINDS)}")
    if is_own(path):
        raise CheckpointError(f"{path} is a SuperServe checkpoint already: use it as it is")
    state = read_foreign(path)
    usual, required = KINDS[kind]
    name, options = supernet or usual, {**required, **options}
    if kind == "ofa":
        name, options = _recognised(path, state, name, options)
    elif kind == "autoformer" and "cls_token" in state:
        model = _AUTOFORMERS.get(state["cls_token"].shape[-1])
        options = {**({"model": model} if model else {}), **options}
    elif name == "elastic":
        options["model"] = _model(kind, options.get("model"))
    if name is None:
        raise ValueError(
            f"a checkpoint of {kind} fits several supernets; say which: "
            "--supernet elastic, elastic_vit or stitched_resnet"
        )
    try:
        net = create_supernet(name, pretrained=False, **options)
    except TypeError as error:
        raise ValueError(f"{name} cannot be built so: {error}") from error
    try:
        net.load_foreign(state)
    except CheckpointError as error:
        refused = CheckpointError(f"cannot import {path}: {error}")
        refused.problems = error.problems
        raise refused from error
    if labels is not None:
        net.labels = read_labels(labels, len(net.labels))
    elif len(net.labels) == IMAGENET_CLASSES:
        net.labels = imagenet_labels()
    return net


def write(net: Supernet, output: str | Path) -> Path:
    """Save into the folder ``output``, made where it is missing, under the supernet's name.

    A file that is there is replaced, unless it has statistics of more subnets than ``net``:
    calibrating can take hours. That is a `CheckpointError`.
    """
    path = Path(output) / f"{net.name}.safetensors"
    refuse_to_lose(path, len(net.statistics))
    save(net, path)
    return path


def _model(library: str, model: Any) -> str:
    """The family ``elastic`` names the library as well."""
    if model is None:
        raise ValueError(
            f"the supernet elastic is made of any model: say of which one of {library} the weights "
            "are, by its name there: --option model=resnet50"
        )
    return str(model) if "/" in str(model) else f"{library}/{model}"


def _recognised(
    path: Path, state: dict[str, Tensor], name: str | None, options: dict[str, Any]
) -> tuple[str, dict[str, Any]]:
    """What the shapes say, where the caller says nothing."""
    found = recognise({key: tuple(tensor.shape) for key, tensor in state.items()})
    if found is None:
        raise CheckpointError(
            f"{path} holds no OFA MobileNetV3 or ResNet50: no key is of either",
            [f"unexpected: {key}" for key in state] or ["it is empty"],
        )
    if found.num_classes is not None:
        options = {"num_classes": found.num_classes, **options}
    name = name or found.family
    if name == found.family == MOBILENETV3 and found.width_mult is not None:
        options = {"width_mult": found.width_mult, **options}
    return name, options
