"""Ordinary vision transformers, as timm and torchvision build them, made elastic."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from supernets.elastic_vit import ElasticViT
from supernets.supernet import Preprocessing
from supernets.vit.vit_definition import ViTDefinition
from supernets.vit.vit_names import load_vit

ELASTIC = frozenset({"depths", "head_counts", "mlp_ratios", "depth_rule"})


def convert(model: nn.Module, **options: Any) -> ElasticViT:
    """What `supernets.elastic_vit.from_vit` says.

    After the weights are copied, the largest subnet and ``model`` are compared on noise: whatever
    a later release of those libraries does differently is then an error, and no wrong answer.
    """
    unknown = sorted(set(options) - ELASTIC)
    if unknown:
        raise TypeError(f"no options of from_vit: {', '.join(unknown)}; {sorted(ELASTIC)} are")
    timm: Any = import_module("timm.models.vision_transformer")
    deit: Any = import_module("timm.models.deit")
    torchvision: Any = import_module("torchvision.models.vision_transformer")
    # Subclasses change the forward pass, so the exact classes are asked for.
    if type(model) in {timm.VisionTransformer, deit.VisionTransformerDistilled}:
        fields, step = _timm(model, timm), _timm_preprocessing(model)
    elif type(model) is torchvision.VisionTransformer:
        fields = _torchvision(model)
        step = Preprocessing.imagenet(fields["image_size"])
    else:
        raise ValueError(
            f"{type(model).__name__} is no VisionTransformer of timm or torchvision, and no other "
            "transformer is supported"
        )
    spec = ViTDefinition(**fields, **options)
    if spec.depths[-1] < spec.depth or spec.head_counts[-1] < spec.heads or (
        spec.mlp_ratios[-1] < spec.mlp_ratio
    ):  # fmt: skip
        raise ValueError("the largest option of each setting must be the whole model")
    net = ElasticViT(spec, preprocessing=step).eval()
    load_vit(net, {name: tensor.cpu().float() for name, tensor in model.state_dict().items()})
    _compare(net, model)
    net.sort_by_importance()
    return net


def _refuse(present: Mapping[str, bool]) -> None:
    """``ValueError`` naming every unsupported feature that is present."""
    found = [name for name, there in present.items() if there]
    if found:
        raise ValueError(f"this vision transformer cannot be made elastic: {', '.join(found)}")


def _timm(model: Any, timm: Any) -> dict[str, Any]:
    """The definition of a timm model, read from its parts; ``timm`` is the module of its class."""
    embed, blocks = model.patch_embed, list(model.blocks)
    final = [norm for norm in (model.norm, model.fc_norm) if not _absent(norm)]
    averaged = model.global_pool == "avg"
    _refuse(
        {
            "register tokens": bool(model.num_reg_tokens),
            "a norm before the blocks": not _absent(model.norm_pre),
            "no position embedding": model.pos_embed is None,
            "pooling by attention": model.attn_pool is not None,
            f"pooling {model.global_pool!r}": model.global_pool not in {"token", "avg"},
            "averaging over the class token": model.pool_include_prefix and averaged,
            "no classifier": not isinstance(model.head, nn.Linear),
            "no last norm, or two": len(final) != 1,
            "an unusual patch embedding": type(embed) is not timm.PatchEmbed
            or not _absent(embed.norm)
            or embed.proj.bias is None
            or len(set(embed.img_size)) + len(set(embed.patch_size)) != 2,
        }
        | {f"blocks of type {type(b).__name__}": type(b) is not timm.Block for b in blocks}
    )
    attentions, mlps = [b.attn for b in blocks], [b.mlp for b in blocks]
    _refuse(
        {f"attention of type {type(a).__name__}": type(a) is not timm.Attention for a in attentions}
        | {f"an MLP of type {type(m).__name__}": type(m) is not timm.Mlp for m in mlps}
    )
    first = blocks[0]
    scaled = isinstance(first.ls1, timm.LayerScale)
    sizes = {(b.attn.num_heads, b.mlp.fc1.out_features) for b in blocks}
    linear = [layer for b in blocks for layer in (b.attn.proj, b.mlp.fc1, b.mlp.fc2)]
    _refuse(
        {
            "norms of queries and keys": any(
                not _absent(norm) for a in attentions for norm in (a.q_norm, a.k_norm)
            ),
            "norms inside attention or MLP": any(
                not _absent(getattr(part, "norm", None)) for part in (*attentions, *mlps)
            ),
            "gated attention": any(getattr(a, "gate", None) is not None for a in attentions),
            "layer scale in some places only": any(
                isinstance(part, timm.LayerScale) is not scaled
                for b in blocks
                for part in (b.ls1, b.ls2)
            ),
            "blocks of different sizes": len(sizes) != 1,
            "linear layers without bias": any(layer.bias is None for layer in linear),
        }
        | {f"the activation {m.act}": not _is_gelu(m.act) for m in mlps}
        | _norms([*final, *(norm for b in blocks for norm in (b.norm1, b.norm2))])
    )
    return {
        "num_classes": model.head.out_features,
        "in_channels": embed.proj.in_channels,
        "image_size": embed.img_size[0],
        "patch": embed.patch_size[0],
        "dim": model.embed_dim,
        "depth": len(blocks),
        "heads": first.attn.num_heads,
        "mlp_ratio": first.mlp.fc1.out_features / model.embed_dim,
        "qkv_bias": first.attn.qkv.bias is not None,
        "class_token": model.cls_token is not None,
        "distilled": hasattr(model, "dist_token"),
        "pool": model.global_pool,
        "pool_then_norm": not _absent(model.fc_norm),
        "embed_prefix": not model.no_embed_class,
        "layer_scale": scaled,
        "eps": final[0].eps,
    }


def _torchvision(model: Any) -> dict[str, Any]:
    blocks = list(model.encoder.layers)
    _refuse(
        {
            "a convolutional stem": not isinstance(model.conv_proj, nn.Conv2d),
            "a layer before the classifier": model.representation_size is not None,
        }
        | _norms([model.encoder.ln, *(norm for b in blocks for norm in (b.ln_1, b.ln_2))])
    )
    return {
        "num_classes": model.heads.head.out_features,
        "image_size": model.image_size,
        "patch": model.patch_size,
        "dim": model.hidden_dim,
        "depth": len(blocks),
        "heads": blocks[0].num_heads,
        "mlp_ratio": model.mlp_dim / model.hidden_dim,
        "eps": blocks[0].ln_1.eps,
    }


def _timm_preprocessing(model: Any) -> Preprocessing:
    """What the model's own configuration says it was trained for."""
    size, channels = model.patch_embed.img_size[0], model.patch_embed.proj.in_channels
    config = getattr(model, "pretrained_cfg", None) or {}
    mean, std = tuple(config.get("mean", ())), tuple(config.get("std", ()))
    if not len(mean) == len(std) == channels:
        mean, std = (0.5,) * channels, (0.5,) * channels
    return Preprocessing(size, size, channels, mean, std, crop=config.get("crop_pct", 1.0))


def _absent(part: object) -> bool:
    return part is None or isinstance(part, nn.Identity)


def _is_gelu(part: object) -> bool:
    """The exact one; both libraries write it as torch's, timm also as a wrapper of its own."""
    exact = getattr(part, "approximate", "none") == "none"
    return exact and (isinstance(part, nn.GELU) or type(part).__name__ == "GELU")


def _norms(norms: Sequence[Any]) -> dict[str, bool]:
    """What is unsupported about these norms."""
    return {f"the norm {type(n).__name__}": not isinstance(n, nn.LayerNorm) for n in norms} | {
        "norms with different epsilons": len({getattr(n, "eps", None) for n in norms}) != 1,
        "norms without scale and shift": any(getattr(n, "bias", None) is None for n in norms),
    }


@torch.no_grad()
def _compare(net: ElasticViT, model: nn.Module) -> None:
    """``ValueError`` where the two disagree: something in ``model`` went unnoticed."""
    step = net.preprocessing
    shape = (2, step.channels, step.height, step.width)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    held = next(model.parameters())
    training = model.training
    theirs: Tensor = model.eval()(x.to(held)).cpu().float()
    model.train(training)
    ours = net(x, net.space.largest)
    allowed = 1e-3 if held.dtype == torch.float32 else 5e-2
    if (ours - theirs).norm() > allowed * theirs.norm() + 1e-6:
        raise ValueError(
            "the elastic form and this vision transformer disagree: it has a part that "
            "from_vit does not know"
        )
