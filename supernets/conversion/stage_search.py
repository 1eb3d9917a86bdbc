"""Finds the residual stages of an ordinary convolutional network, and says what is in the way."""

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from supernets.conversion.channel_groups import NotElastic, Stage, read_stage, trace


@dataclass(frozen=True, slots=True)
class Anatomy:
    """A traced network, in which a stage is one call, and its stages in running order."""

    graph: fx.Graph
    stages: tuple[Stage, ...]
    classes: int


def find_stages(
    model: nn.Module, image: tuple[int, int, int], names: Sequence[str] | None = None
) -> Anatomy:
    """Look for stages in a model (in evaluation mode) that is given images of this (C, H, W).

    Without ``names`` every ``nn.Sequential`` of residual blocks is a stage. Raises `NotElastic`
    with what, where, why and what to do.
    """
    _check_modules(model)
    # Norms change no shape, and are slow on the meta device.
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    meta = meta_copy(model, {norm: nn.Identity() for norm in norms})
    inputs, classes = _block_inputs(meta, image)
    found: dict[str, Stage] = {}
    for path, module in model.named_modules():
        inside = any(path.startswith(f"{stage}.") for stage in found)
        if names is None and path and not inside and isinstance(module, nn.Sequential):
            try:
                found[path] = _read(model, meta, path, inputs)
            except NotElastic:
                continue  # not a stage: the stem, a shortcut, a classifier
    for name in names or ():
        found[name] = _read(model, meta, name, inputs)
    if not found:
        raise NotElastic(
            f"{type(model).__name__} has no residual stages: no nn.Sequential in it holds blocks "
            "that, after the first, add their input to their output, as those of ResNets do. Name "
            "what you take for a stage (stages=['layer1']) to be told what does not fit, or write "
            "the network with the operators (supernets.opt_in)"
        )
    graph = trace(model, "", [model.get_submodule(path) for path in found])
    order = [str(node.target) for node in graph.nodes if node.target in found]
    for path in found:
        if order.count(path) != 1:
            raise NotElastic(
                f"the stage {path} runs {order.count(path)} times as a whole; it must run once: "
                f"let the forward pass call {path}, not its blocks one by one"
            )
    _check_all_run(model, graph, found)
    return Anatomy(graph, tuple(found[path] for path in order), classes)


def _read(model: nn.Module, meta: nn.Module, path: str, inputs: dict[str, torch.Size]) -> Stage:
    try:
        stage, twin = model.get_submodule(path), meta.get_submodule(path)
    except AttributeError as error:
        known = ", ".join(n for n, m in model.named_modules() if n and isinstance(m, nn.Sequential))
        raise NotElastic(f"there is no module {path!r}; the nn.Sequentials are {known}") from error
    if not isinstance(stage, nn.Sequential) or not isinstance(twin, nn.Sequential):
        raise NotElastic(f"{path} is a {type(stage).__name__}; a stage is an nn.Sequential")
    return read_stage(path, stage, twin, inputs)


def meta_copy(model: nn.Module, replaced: Mapping[nn.Module, nn.Module] | None = None) -> nn.Module:
    """A copy on the meta device, made without copying a weight, some of its modules replaced."""
    memo: dict[int, object] = {id(old): new for old, new in (replaced or {}).items()}
    for tensor in [*model.parameters(), *model.buffers()]:
        twin = tensor.detach().to("meta")
        memo[id(tensor)] = nn.Parameter(twin) if isinstance(tensor, nn.Parameter) else twin
    return copy.deepcopy(model, memo)


def _block_inputs(
    meta: nn.Module, image: tuple[int, int, int]
) -> tuple[dict[str, torch.Size], int]:
    """The shape that each child of an ``nn.Sequential`` is given, and the number of classes."""
    found: dict[str, torch.Size] = {}

    def note(path: str, args: tuple[Any, ...]) -> None:
        if args and isinstance(args[0], torch.Tensor):
            found[path] = args[0].shape

    handles = [
        child.register_forward_pre_hook(lambda _, args, path=f"{path}.{name}": note(path, args))
        for path, module in meta.named_modules()
        if isinstance(module, nn.Sequential)
        for name, child in module.named_children()
    ]
    dtype = next((p.dtype for p in meta.parameters()), torch.float32)
    try:
        with torch.no_grad():
            logits = meta(torch.zeros(2, *image, device="meta", dtype=dtype))
    except Exception as error:
        # Somebody else's forward pass: whatever it raises, it cannot take such an image.
        raise NotElastic(
            f"{type(meta).__name__} does not run on images of shape {image} without their values: "
            f"{error}. Give image_size (and the preprocessing, if the channels are not those of "
            "the first convolution); the forward pass must not branch on what is in an image"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    if not isinstance(logits, torch.Tensor) or logits.dim() != 2:
        raise NotElastic(f"{type(meta).__name__} does not return logits [N, classes]")
    return found, logits.shape[1]


def _check_modules(model: nn.Module) -> None:
    """Norms whose statistics SubnetNorm can hold, and no layer in two places."""
    seen: dict[int, str] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        kind = type(module)
        is_norm = isinstance(module, nn.modules.batchnorm._NormBase) or (  # noqa: SLF001
            "norm" in kind.__name__.lower() and next(module.children(), None) is None
        )
        if is_norm and kind is not nn.BatchNorm2d:
            raise NotElastic(
                f"{path} is a {kind.__name__}; SubnetNorm takes the place of nn.BatchNorm2d only, "
                "since only its statistics can be kept per subnet and cut to fewer channels. Build "
                "the model with nn.BatchNorm2d, and activations as modules of their own"
            )
        if is_norm and (module.weight is None or module.running_mean is None):
            raise NotElastic(f"{path} has no weights or no running statistics (affine=True, "
                             "track_running_stats=True)")  # fmt: skip
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d) and id(module) in seen:
            raise NotElastic(f"{path} and {seen[id(module)]} are one layer; give each its own")
        seen[id(module)] = path


def _check_all_run(model: nn.Module, graph: fx.Graph, stages: dict[str, Stage]) -> None:
    """Every parameter is in use, and every norm once: nothing is left behind when we take over."""
    calls = [str(n.target) for n in graph.nodes if n.op in {"call_module", "get_attr"}]
    calls = [path for path in calls if path not in stages]
    for stage in stages.values():
        for block in stage.blocks:
            own = [n for n in block.graph.nodes if n.op in {"call_module", "get_attr"}]
            calls += [f"{block.path}.{node.target}" for node in own]
    modules = dict(model.named_modules())
    for path, times in Counter(calls).items():
        if isinstance(modules.get(path), nn.BatchNorm2d) and times > 1:
            raise NotElastic(f"{path} normalises twice; each place needs a norm of its own")
    used = set(calls)
    for name, _ in [*model.named_parameters(), *model.named_buffers()]:
        parts = name.split(".")
        if not any(".".join(parts[: n + 1]) in used for n in range(len(parts))):
            raise NotElastic(
                f"{name} is not used in the forward pass (in evaluation mode); remove its layer"
            )
