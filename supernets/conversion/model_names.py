"""Models of torchvision and timm by name: building them without weights, and recognising them."""

import difflib
import re
from importlib import import_module

import torch
from torch import nn

LIBRARIES = ("torchvision", "timm")


def build(name: str, num_classes: int) -> nn.Module:
    """The model called ``torchvision/NAME`` or ``timm/NAME``, with random weights.

    Raises ``ValueError`` for a name that does not exist, with those that are like it.
    """
    library, _, architecture = name.partition("/")
    if library == "timm":
        timm = import_module("timm")
        if timm.is_model(architecture):
            return timm.create_model(architecture, pretrained=False, num_classes=num_classes)
        known = timm.list_models()
    elif library == "torchvision":
        models = import_module("torchvision.models")
        known = models.list_models(module=models)
        if architecture in known:
            return models.get_model(architecture, weights=None, num_classes=num_classes)
    else:
        raise ValueError(f"{name!r} names no model: write torchvision/resnet50 or timm/resnet26d")
    like = ", ".join(difflib.get_close_matches(architecture, known, 5)) or ", ".join(known[:5])
    raise ValueError(f"{library} has no model {architecture!r}; there are {like}...")


def name_of(model: nn.Module, num_classes: int) -> str | None:
    """The name under which `build` makes a model with the same modules, or None.

    The momentum of norms may differ: it is nothing that evaluation or calibration uses.
    """
    library = type(model).__module__.partition(".")[0]
    if library == "timm":
        known = [str((getattr(model, "pretrained_cfg", None) or {}).get("architecture", ""))]
    elif library == "torchvision":
        models = import_module("torchvision.models")
        known = [
            name
            for name in models.list_models(module=models)
            if models.get_model_builder(name).__module__ == type(model).__module__
        ]
    else:
        return None
    text = _modules(model)
    for architecture in known:
        with torch.device("meta"):
            try:
                twin = build(f"{library}/{architecture}", num_classes)
            except ValueError:
                continue
        if _modules(twin) == text:
            return f"{library}/{architecture}"
    return None


def _modules(model: nn.Module) -> str:
    return re.sub(r"momentum=[^,)]*", "", repr(model))


def is_vision_transformer(model: nn.Module) -> bool:
    """Whether it is a Vision Transformer (or DeiT) of torchvision or timm."""
    return any(
        kind.__name__ == "VisionTransformer" and kind.__module__.partition(".")[0] in LIBRARIES
        for kind in type(model).__mro__
    )
