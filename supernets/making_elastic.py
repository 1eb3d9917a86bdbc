"""`make_elastic`: an ordinary residual network or vision transformer becomes a supernet."""

import copy
from collections.abc import Mapping, Sequence
from math import gcd, lcm
from typing import Any

from torch import nn

from supernets.conversion.channel_groups import Block, NotElastic, Stage
from supernets.conversion.channel_order import sort_channels
from supernets.conversion.elastic_resnet import ElasticResNet
from supernets.conversion.elastic_space import ElasticSpace, StageChoices, Units
from supernets.conversion.model_names import build, is_vision_transformer, name_of
from supernets.conversion.stage_search import find_stages
from supernets.elastic import make_divisible
from supernets.options import checked
from supernets.registry import register_supernet
from supernets.supernet import Preprocessing, Supernet

WIDTHS = (0.5, 0.65, 0.8, 1.0)

Depths = Sequence[int] | Sequence[Sequence[int]]


def make_elastic(
    model: nn.Module,
    *,
    name: str = "elastic",
    stages: Sequence[str] | None = None,
    depths: Depths | None = None,
    widths: Sequence[float] = WIDTHS,
    divisor: int = 8,
    image_size: int | None = None,
    preprocessing: Preprocessing | None = None,
    labels: Sequence[str] | None = None,
    sorting: bool = True,
    definition: Mapping[str, Any] | None = None,
    **options: Any,
) -> Supernet:
    """Insert LayerSelect, WeightSlice and SubnetNorm into a copy of ``model``.

    This is the automatic operator insertion of SuperServe (NSDI'25, appendix A.1, Algorithm 1).
    The model is a residual convolutional network with batch normalisation: a ResNet, Wide ResNet or
    ResNeXt of torchvision or timm, or one of your own whose stages are ``nn.Sequential`` modules of
    blocks that add their input to their output. Its blocks after a stage's first can be skipped,
    and the channels inside every block narrowed. With all of them it computes what ``model`` does
    in evaluation mode.

    Args:
        model: left as it is. A Vision Transformer of torchvision or timm goes to
            `supernets.elastic_vit.from_vit`, with ``depths`` and ``options``.
        name: what the supernet is called; to save it, the name it is registered under.
        stages: the paths of the stages in ``model``, where not every ``nn.Sequential`` of residual
            blocks is meant (``["layer3", "layer4"]``).
        depths: how many blocks a stage may run, for all stages alike or for each; all of its
            blocks are always among them. From half of them where this is not given.
        widths: which shares of a block's inner channels may run; 1 is always among them.
        divisor: channels are rounded to its multiples (and to whole groups).
        image_size: side of the images, in pixels; the model's own (timm), or 224.
        preprocessing: of the images, where it is not that of ImageNet or of the timm model.
        labels: of the classes; their numbers where this is not given.
        sorting: put the channels inside each block in order of importance first, so that narrow
            subnets keep the important ones. Without it the weights stay where they are.
        definition: the arguments with which the function registered under ``name`` builds this
            again. Not needed for models of torchvision and timm under the name ``elastic``.
        options: of `supernets.elastic_vit.from_vit`, for Vision Transformers alone.

    Raises:
        NotElastic: a ``ValueError`` that says what does not fit, where, why, and what to do.
    """
    if is_vision_transformer(model):
        from supernets.elastic_vit import from_vit

        of_stages = (stages, image_size, preprocessing, definition)
        if any(given is not None for given in of_stages) or name != "elastic":
            raise TypeError("of a Vision Transformer only depths, labels and options can be chosen")
        net = from_vit(model, **options, **({} if depths is None else {"depths": tuple(depths)}))
        if labels is not None:
            net.labels = _labels(labels, len(net.labels))
        return net
    if options:
        raise TypeError(f"make_elastic has no options {', '.join(sorted(options))}")
    plain = copy.deepcopy(model).cpu().eval()
    step = preprocessing or _preprocessing(plain, image_size)
    anatomy = find_stages(plain, (step.channels, step.height, step.width), stages)
    choices = _choices(plain, anatomy.stages, depths, widths, divisor)

    def define(skeleton: nn.Module) -> dict[str, Any]:
        if definition is not None:
            return dict(definition)
        found = name_of(skeleton, anatomy.classes) if name == "elastic" else None
        if found is None:
            raise TypeError(
                f"nothing is known that would build this {type(skeleton).__name__} again: register "
                "a function that calls make_elastic (@register_supernet), and give make_elastic "
                "its name=... and its arguments definition={...}"
            )
        return {
            "model": found,
            "num_classes": anatomy.classes,
            "stages": None if stages is None else list(stages),
            "depths": [list(stage.depths) for stage in choices],
            "widths": sorted({*widths, 1.0}),
            "divisor": divisor,
            "image_size": step.height,
            "sorting": sorting,
        }

    if sorting:
        sort_channels(plain, anatomy.stages)
    return ElasticResNet(
        plain,
        anatomy,
        ElasticSpace(name, choices, [*widths, 1.0]),
        name=name,
        preprocessing=step,
        labels=_labels(labels, anatomy.classes),
        sorting=sorting,
        define=define,
    ).eval()


@register_supernet()
def elastic(
    *, model: str = "torchvision/resnet50", num_classes: int = 1000, **options: Any
) -> Supernet:
    """A model of torchvision or timm, by name, made elastic; ``options`` are `make_elastic`'s.

    Its weights are random, and it has no statistics, until a checkpoint is loaded: one of ours, or
    the library's own weight file of that model.
    """
    plain = build(model, num_classes)
    if is_vision_transformer(plain):
        raise NotElastic(f"{model} is a Vision Transformer; create_supernet('elastic_vit') has it")
    net = make_elastic(plain, **checked(make_elastic, options))
    assert isinstance(net, ElasticResNet)
    net.forget_statistics()
    return net


def _labels(labels: Sequence[str] | None, classes: int) -> tuple[str, ...]:
    if labels is None:
        return tuple(str(i) for i in range(classes))
    if len(labels) != classes:
        raise ValueError(f"there are {len(labels)} labels for {classes} classes")
    return tuple(labels)


def _choices(
    model: nn.Module,
    stages: Sequence[Stage],
    depths: Depths | None,
    widths: Sequence[float],
    divisor: int,
) -> list[StageChoices]:
    if any(not 0 < width <= 1 for width in widths):
        raise ValueError(f"widths are shares, above 0 and up to 1: {list(widths)}")
    ratios = sorted({*widths, 1.0})
    choices = []
    for index, stage in enumerate(stages):
        blocks = tuple(
            {ratio: _active_units(model, block, ratio, divisor) for ratio in ratios}
            for block in stage.blocks
        )
        choices.append(StageChoices(_depths(depths, index, stages), blocks))
    if all(len(stage.depths) == 1 and not any(stage.blocks[0].values()) for stage in choices):
        raise NotElastic(f"{type(model).__name__} has nothing that could be skipped or narrowed")
    return choices


def _depths(depths: Depths | None, index: int, stages: Sequence[Stage]) -> tuple[int, ...]:
    """What the stage at ``index`` may run: blocks, ascending, all of them last."""
    path, blocks = stages[index].path, len(stages[index].blocks)
    if depths is None:
        return tuple(range((blocks + 1) // 2, blocks + 1))
    own: list[int] = []
    if all(isinstance(depth, int) for depth in depths):
        own = [depth for depth in depths if isinstance(depth, int) and depth <= blocks]
    elif len(depths) != len(stages):
        raise ValueError(f"there are depths for {len(depths)} stages, and {len(stages)} stages")
    else:
        given = depths[index]
        assert not isinstance(given, int)
        own = list(given)
    if any(not 1 <= depth <= blocks for depth in own):
        raise ValueError(f"{path} can run 1 to {blocks} blocks, not {own}")
    return tuple(sorted({*own, blocks}))


def _active_units(model: nn.Module, block: Block, ratio: float, divisor: int) -> Units:
    """Of each channel group: a share of its units, as many channels as a multiple of ``divisor``.

    Rounded as in the Once-for-All code (`make_divisible`), and never more than there are.
    """
    active = []
    for group in block.groups:
        sizes = [
            model.get_submodule(f"{block.path}.{path}").out_channels // group.units  # type: ignore[operator]
            for path in group.writers
        ]
        step = lcm(*(divisor // gcd(divisor, size) for size in sizes))
        rounded = make_divisible(group.units * ratio, step)
        active.append(group.units if ratio == 1 else min(group.units, rounded))
    return tuple(active)


def _preprocessing(model: nn.Module, image_size: int | None) -> Preprocessing:
    """That of ImageNet, or what a timm model says of itself."""
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    channels = 3 if first is None else first.in_channels
    said = getattr(model, "pretrained_cfg", None) or {}
    if len(said.get("mean", ())) == len(said.get("std", ())) == channels:
        _, height, width = said["input_size"]
        return Preprocessing(
            image_size or height,
            image_size or width,
            channels,
            tuple(said["mean"]),
            tuple(said["std"]),
            said.get("crop_pct", 0.875),
        )
    return Preprocessing.usual(image_size or 224, channels)
