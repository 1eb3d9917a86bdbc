"""Checkpoints of timm, torchvision and AutoFormer: their key names and their weight layouts."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from supernets.elastic_vit import ElasticViT
from supernets.errors import CheckpointError
from supernets.foreign import check_state

# What older files say -> what today's say. DeiT III's own files, torchvision before 0.13.
_RENAMED = {
    ".gamma_1": ".ls1.gamma",
    ".gamma_2": ".ls2.gamma",
    ".mlp.linear_1.": ".mlp.0.",
    ".mlp.linear_2.": ".mlp.3.",
}
_TOKENS = "embedding.tokens"  # one parameter of ours, a tensor for each token of theirs

Order = Callable[[Tensor, int, int], Tensor]


def _by_kind(rows: Tensor, heads: int, head_dim: int) -> Tensor:
    """Rows ordered [3, heads, head_dim] -> [heads, 3, head_dim, ...]."""
    return rows.unflatten(0, (3, heads, head_dim)).transpose(0, 1)


def _interleaved(rows: Tensor, heads: int, head_dim: int) -> Tensor:
    """Rows ordered [heads, head_dim, 3] -> [heads, 3, head_dim, ...]: theirs is weight[i::3]."""
    return rows.unflatten(0, (heads, head_dim, 3)).transpose(1, 2)


@dataclass(frozen=True, slots=True)
class Names:
    """What one kind of file calls our layers and parameters, and how it orders qkv's rows.

    ``tokens`` are the tokens before the patches, each a tensor [1, 1, dim] of its own there.
    ``inside`` is for the layers of each block, whose own names begin with ``block``.
    """

    tokens: tuple[str, ...]
    outside: Mapping[str, str]
    block: str
    inside: Mapping[str, str]
    order: Order = _by_kind

    def of(self, ours: str) -> str | None:
        """Their name of our parameter; None where files of this kind have no such thing."""
        table, prefix = self.outside, ""
        if found := re.fullmatch(r"stage\.blocks\.(\d+)\.(.+)", ours):
            table, prefix, ours = self.inside, self.block.format(found[1]), found[2]
        if ours in table:
            return prefix + table[ours]
        layer, _, parameter = ours.rpartition(".")
        return f"{prefix}{table[layer]}.{parameter}" if layer in table else None


# VisionTransformer and VisionTransformerDistilled of timm; DeiT's own files say the same.
_TIMM = Names(
    tokens=("cls_token", "dist_token"),
    outside={
        "embedding.position": "pos_embed",
        "embedding.proj": "patch_embed.proj",
        "head.norm": "norm",
        "head.classifier": "head",
        "head.distilled": "head_dist",
    },
    block="blocks.{}.",
    inside={
        "norm1": "norm1",
        "attention.qkv": "attn.qkv",
        "attention.proj": "attn.proj",
        "norm2": "norm2",
        "fc1": "mlp.fc1",
        "fc2": "mlp.fc2",
        "scale1": "ls1.gamma",
        "scale2": "ls2.gamma",
    },
)
_TIMM_POOL_THEN_NORM = replace(_TIMM, outside={**_TIMM.outside, "head.norm": "fc_norm"})
_TORCHVISION = Names(
    tokens=("class_token",),
    outside={
        "embedding.position": "encoder.pos_embedding",
        "embedding.proj": "conv_proj",
        "head.norm": "encoder.ln",
        "head.classifier": "heads.head",
    },
    block="encoder.layers.encoder_layer_{}.",
    inside={
        "norm1": "ln_1",
        "attention.qkv.weight": "self_attention.in_proj_weight",
        "attention.qkv.bias": "self_attention.in_proj_bias",
        "attention.proj": "self_attention.out_proj",
        "norm2": "ln_2",
        "fc1": "mlp.0",
        "fc2": "mlp.3",
    },
)
# Vision_TransformerSuper of microsoft/Cream, as its supernets were trained: --change_qkv.
_AUTOFORMER = Names(
    tokens=("cls_token",),
    outside={
        "embedding.position": "pos_embed",
        "embedding.proj": "patch_embed_super.proj",
        "head.norm": "norm",
        "head.classifier": "head",
    },
    block="blocks.{}.",
    inside={
        "norm1": "attn_layer_norm",
        "attention.qkv": "attn.qkv",
        "attention.proj": "attn.proj",
        "attention.keys.vertical": "attn.rel_pos_embed_k.embeddings_table_v",
        "attention.keys.horizontal": "attn.rel_pos_embed_k.embeddings_table_h",
        "attention.values.vertical": "attn.rel_pos_embed_v.embeddings_table_v",
        "attention.values.horizontal": "attn.rel_pos_embed_v.embeddings_table_h",
        "norm2": "ffn_layer_norm",
        "fc1": "fc1",
        "fc2": "fc2",
    },
    order=_interleaved,
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of their file: its name and shape there, and how it becomes (part of) ours."""

    name: str
    target: Tensor
    shape: tuple[int, ...]
    convert: Callable[[Tensor], Tensor]


@torch.no_grad()
def load_vit(net: ElasticViT, state_dict: dict[str, Tensor]) -> None:
    """Copy in the weights of a timm, torchvision or AutoFormer vision transformer.

    Which of them it is, is told by the names. Nothing is sorted: see
    `ElasticViT.sort_by_importance`. Raises `CheckpointError` listing what is missing, unexpected or
    of the wrong shape; the net is then unchanged.
    """
    given = _modern(state_dict)
    if any(".attn_layer_norm." in name for name in given):
        if not net.spec.flat_qkv_bias:
            raise CheckpointError(
                "this is an AutoFormer supernet, which slices its qkv bias in its own way; "
                "create_supernet('elastic_vit', model='autoformer_tiny', checkpoint=...) reads it"
            )
        names = _AUTOFORMER
    elif any(name.startswith("encoder.layers.") for name in given):
        names = _TORCHVISION
    else:
        names = _TIMM_POOL_THEN_NORM if net.spec.pool_then_norm else _TIMM
    entries = _entries(net, names)
    expected = {entry.name: entry.shape for entry in entries}
    check_state(given, expected, "this is not a checkpoint of this vision transformer")
    for entry in entries:
        entry.target.copy_(entry.convert(given[entry.name]))


def _modern(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    modern: dict[str, Tensor] = {}
    for name, tensor in state_dict.items():
        new = name
        for old, today in _RENAMED.items():
            new = new.replace(old, today)
        if new in modern:
            raise CheckpointError("a key stands twice, under its old and its new name", [name])
        modern[new] = tensor
    return modern


def _entries(net: ElasticViT, names: Names) -> list[Entry]:
    """All of ours, one by one; `CheckpointError` for what has no name in their files."""
    entries, nameless = [], []
    for ours, parameter in net.named_parameters():
        theirs = names.of(ours)
        if ours == _TOKENS:
            tokens = parameter.detach().split(1, 1)
            for name, token in zip(names.tokens, tokens, strict=False):
                entries.append(Entry(name, token, tuple(token.shape), _as_is))
        elif theirs is None:
            nameless.append(ours)
        else:
            entries.append(_entry(net, names.order, ours, theirs, parameter.detach()))
    if nameless:
        raise CheckpointError("files of this kind have nothing for these parameters", nameless)
    return entries


def _entry(net: ElasticViT, order: Order, ours: str, theirs: str, target: Tensor) -> Entry:
    shape, spec = tuple(target.shape), net.spec
    if ours == "embedding.proj.weight":
        # Their strided convolution; ours is the same matrix.
        shape = (spec.dim, spec.in_channels, spec.patch, spec.patch)
        return Entry(theirs, target, shape, lambda kernel: kernel.flatten(1))
    if ".qkv." in ours and len(shape) > 1:  # a flat bias is theirs as it is
        heads, _, head_dim, *width = shape
        # AutoFormer's bias is ordered like everybody's, though its weight is not.
        ordered = order if width else _by_kind
        rows = (3 * heads * head_dim, *width)
        return Entry(theirs, target, rows, lambda given: ordered(given, heads, head_dim))
    return Entry(theirs, target, shape, _as_is)


def _as_is(tensor: Tensor) -> Tensor:
    return tensor
