"""A user's own module as a supernet, in a few lines: it writes the forward pass, we do the rest.

The module is an ordinary one, made of the operators LayerSelect, WeightSlice and SubnetNorm (and
whatever else). Its forward pass takes the subnet as an argument, and stores none of it::

    def forward(self, x, subnet, normalise):
        y = self.norm(self.conv(x, subnet["width"][0]), normalise).relu()
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from supernets.norms.statistics import Normalisation
from supernets.operators import SubnetNorm
from supernets.registry import register_supernet
from supernets.space import Dimension, SearchSpace, Setting, Subnet
from supernets.supernet import Preprocessing, Supernet

Module = TypeVar("Module", bound=type[nn.Module])


class ModuleSupernet(Supernet):
    """The supernet of one module, ``module(x, subnet, normalise)`` or ``module(x, subnet)``.

    ``x`` [N, C, H, W] are preprocessed images, the result logits [N, classes]. Norms are numbered
    here: whatever layer ids the module gave them, each has its own afterwards.
    """

    def __init__(
        self,
        module: nn.Module,
        space: SearchSpace,
        preprocessing: Preprocessing,
        labels: Sequence[str],
        *,
        definition: Mapping[str, Any] | None = None,
    ) -> None:
        """``definition`` are the arguments that make ``module`` again; without, no saving."""
        super().__init__(space.family, space, preprocessing, labels)
        self.module = module
        self._definition = definition
        self._normalises = len(inspect.signature(module.forward).parameters) > 2
        norms = [m for m in module.modules() if isinstance(m, SubnetNorm)]
        for layer, norm in enumerate(norms):
            norm.layer = layer
        if norms and not self._normalises:
            raise TypeError(
                f"{type(module).__name__} has a SubnetNorm, so its forward must be "
                "forward(self, x, subnet, normalise)"
            )

    def run(self, x: Tensor, subnet: Subnet, normalise: Normalisation) -> Tensor:
        if self._normalises:
            return self.module(x, subnet, normalise)
        return self.module(x, subnet)

    def extract(self, subnet: Subnet) -> nn.Module:
        from supernets.freezing import freeze

        return freeze(self, subnet)

    def definition(self) -> dict[str, Any]:
        if self._definition is None:
            raise TypeError(f"{self.name} was given no definition, so it cannot be built again")
        return dict(self._definition)


def register_module(
    name: str,
    *,
    preprocessing: Preprocessing,
    labels: Sequence[str],
    space: SearchSpace | None = None,
    weights: Path | None = None,
    **settings: Setting,
) -> Callable[[Module], Module]:
    """Make the decorated class available as ``create_supernet(name, ...)``.

    The class is an ``nn.Module`` as `ModuleSupernet` takes it, and is built with ``num_classes``
    and whatever other keyword arguments `create_supernet` is given. The search space is ``space``,
    or has one value of each of the ``settings``: ``width=(8, 16, 32)`` is ``subnet["width"][0]``.
    ``weights`` is a checkpoint that comes with it.
    """
    if (space is None) == (not settings):
        raise TypeError("give either a space, or settings such as width=(8, 16, 32)")
    chosen = space or SearchSpace(name, [Dimension(k, 1, tuple(v)) for k, v in settings.items()])
    if chosen.family != name:
        raise ValueError(f"the space is of {chosen.family!r}, the module is called {name!r}")

    def register(cls: Module) -> Module:
        def builder(*, num_classes: int = len(labels), **options: Any) -> ModuleSupernet:
            given = {**options, "num_classes": num_classes}
            names = labels if num_classes == len(labels) else [str(i) for i in range(num_classes)]
            return ModuleSupernet(cls(**given), chosen, preprocessing, names, definition=given)

        builder.__name__, builder.__module__ = name, cls.__module__
        builder.__doc__ = cls.__doc__
        register_supernet(weights=weights)(builder)
        return cls

    return register
