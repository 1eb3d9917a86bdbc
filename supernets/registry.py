"""Supernets by name: ours, a user's own, and those of installed packages."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar

from supernets.options import checked
from supernets.supernet import Supernet

ENTRY_POINT_GROUP = "superserve.supernets"
Builder = Callable[..., Supernet]
F = TypeVar("F", bound=Builder)

_BUILTIN = (
    "digits",
    "elastic_vit",
    "making_elastic",
    "ofa_mobilenetv3",
    "ofa_resnet50",
    "stitched_resnet",
)


@dataclass(frozen=True, slots=True)
class Registration:
    """A constructor, and the checkpoint that comes with it, if any."""

    builder: Builder
    weights: Path | None = None


_REGISTRY: dict[str, Registration] = {}


def register_supernet(*, weights: Path | None = None) -> Callable[[F], F]:
    """Make a constructor function available by its own name; a name taken is a ``KeyError``.

    The function takes keyword arguments only, ``num_classes`` among them, all with defaults.
    ``weights`` is a checkpoint that `create_supernet` loads when it is given none.
    """

    def register(builder: F) -> F:
        name = builder.__name__
        taken = _REGISTRY.get(name)
        if taken is not None and taken.builder.__module__ != builder.__module__:
            raise KeyError(
                f"a supernet named {name!r} is registered already, by {taken.builder.__module__}"
            )
        _REGISTRY[name] = Registration(builder, weights)
        return builder

    return register


def list_supernets() -> list[str]:
    """All names, sorted; loads the entry points of installed packages."""
    _load_builtin()
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        if entry.name not in _REGISTRY:
            entry.load()
    return sorted(_REGISTRY)


def create_supernet(
    name: str,
    checkpoint: str | Path | None = None,
    num_classes: int | None = None,
    *,
    pretrained: bool = True,
    **options: Any,
) -> Supernet:
    """Build a supernet and load its weights.

    ``checkpoint`` is a file of `supernets.checkpoint.save` (the architecture then comes from the
    file) or a foreign ``.pt``/``.pth`` file that the family reads. Without it the weights are those
    that the supernet ships, and random where it ships none or ``pretrained`` is false. Raises
    ``KeyError`` for an unknown name, listing those that exist, `CheckpointError` for a wrong file,
    or one that does not fit the ``options``, ``TypeError`` for an option that there is not, and
    ``ValueError`` for a bad value of one. The net is in evaluation mode.
    """
    from supernets.checkpoint import load_into, read_definition

    if num_classes is not None:
        options["num_classes"] = num_classes
    registration = _registration(name)
    if checkpoint is None and pretrained:
        checkpoint = registration.weights
    path = None if checkpoint is None else Path(checkpoint)
    given = {**(read_definition(path, name) if path else {}), **options}
    net = registration.builder(**checked(registration.builder, given))
    if net.name != name:
        raise ValueError(f"the supernet registered as {name!r} calls itself {net.name!r}")
    if path is not None:
        load_into(net, path)
    return net.eval()


def default_checkpoint(name: str) -> Path | None:
    """The checkpoint that comes with a supernet, if one does; ``KeyError`` for an unknown name."""
    return _registration(name).weights


def _registration(name: str) -> Registration:
    _load_builtin()
    if name not in _REGISTRY:
        known = list_supernets()  # also loads the entry points
        if name not in _REGISTRY:
            raise KeyError(f"no supernet is named {name!r}; there are {', '.join(known)}")
    return _REGISTRY[name]


def _load_builtin() -> None:
    for module in _BUILTIN:
        import_module(f"supernets.{module}")  # importing registers
