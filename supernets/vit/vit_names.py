"""Checkpoints of timm, torchvision and AutoFormer: their key names and their weight layouts."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from supernets.elastic_vit import ElasticViT
from supernets.errors import CheckpointError
from supernets.foreign import check_state
from supernets.operators import HeadSlice, LinearSlice

# What older files say -> what today's say. DeiT III's own files, torchvision before 0.13.
_RENAMED = {
    ".gamma_1": ".ls1.gamma",
    ".gamma_2": ".ls2.gamma",
    ".mlp.linear_1.": ".mlp.0.",
    ".mlp.linear_2.": ".mlp.3.",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of their file: its name and shape there, and how it becomes (part of) ours."""

    name: str
    target: Tensor
    shape: tuple[int, ...]
    convert: Callable[[Tensor], Tensor]


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
        entries = list(_autoformer(net))
    elif any(name.startswith("encoder.layers.") for name in given):
        entries = list(_torchvision(net))
    else:
        entries = list(_timm(net))
    filled = {entry.target.untyped_storage().data_ptr() for entry in entries}
    empty = [n for n, p in net.named_parameters() if p.untyped_storage().data_ptr() not in filled]
    if empty:
        raise CheckpointError("files of this kind have nothing for these parameters", empty)
    expected = {entry.name: entry.shape for entry in entries}
    check_state(given, expected, "this is not a checkpoint of this vision transformer")
    for entry in entries:
        entry.target.copy_(entry.convert(given[entry.name].detach()))


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


def _timm(net: ElasticViT) -> Iterator[Entry]:
    """VisionTransformer and VisionTransformerDistilled of timm; DeiT's own files say the same."""
    yield from _tokens(net, ("cls_token", "dist_token"))
    yield _same("pos_embed", net.embedding.position)
    yield from _patches(net, "patch_embed.proj")
    for index, block in enumerate(net.blocks()):
        prefix = f"blocks.{index}"
        yield from _pair(f"{prefix}.norm1", block.norm1)
        yield from _qkv(f"{prefix}.attn.qkv.", block.attention.qkv, _by_kind)
        yield from _pair(f"{prefix}.attn.proj", block.attention.proj)
        yield from _pair(f"{prefix}.norm2", block.norm2)
        yield from _pair(f"{prefix}.mlp.fc1", block.fc1)
        yield from _pair(f"{prefix}.mlp.fc2", block.fc2)
        if block.scale1 is not None and block.scale2 is not None:
            yield _same(f"{prefix}.ls1.gamma", block.scale1)
            yield _same(f"{prefix}.ls2.gamma", block.scale2)
    yield from _pair("fc_norm" if net.spec.pool_then_norm else "norm", net.head.norm)
    yield from _pair("head", net.head.classifier)
    if net.head.distilled is not None:
        yield from _pair("head_dist", net.head.distilled)


def _torchvision(net: ElasticViT) -> Iterator[Entry]:
    yield from _tokens(net, ("class_token",))
    yield _same("encoder.pos_embedding", net.embedding.position)
    yield from _patches(net, "conv_proj")
    for index, block in enumerate(net.blocks()):
        prefix = f"encoder.layers.encoder_layer_{index}"
        yield from _pair(f"{prefix}.ln_1", block.norm1)
        yield from _qkv(f"{prefix}.self_attention.in_proj_", block.attention.qkv, _by_kind)
        yield from _pair(f"{prefix}.self_attention.out_proj", block.attention.proj)
        yield from _pair(f"{prefix}.ln_2", block.norm2)
        yield from _pair(f"{prefix}.mlp.0", block.fc1)
        yield from _pair(f"{prefix}.mlp.3", block.fc2)
    yield from _pair("encoder.ln", net.head.norm)
    yield from _pair("heads.head", net.head.classifier)


def _autoformer(net: ElasticViT) -> Iterator[Entry]:
    """Vision_TransformerSuper of microsoft/Cream, as its supernets were trained: --change_qkv."""
    yield from _tokens(net, ("cls_token",))
    yield _same("pos_embed", net.embedding.position)
    yield from _patches(net, "patch_embed_super.proj")
    for index, block in enumerate(net.blocks()):
        prefix = f"blocks.{index}"
        yield from _pair(f"{prefix}.attn_layer_norm", block.norm1)
        yield from _qkv(f"{prefix}.attn.qkv.", block.attention.qkv, _interleaved)
        yield from _pair(f"{prefix}.attn.proj", block.attention.proj)
        for name in ("keys", "values"):
            table = getattr(block.attention, name)
            theirs = f"{prefix}.attn.rel_pos_embed_{name[0]}.embeddings_table"
            if table is not None:
                yield _same(f"{theirs}_v", table.vertical)
                yield _same(f"{theirs}_h", table.horizontal)
        yield from _pair(f"{prefix}.ffn_layer_norm", block.norm2)
        yield from _pair(f"{prefix}.fc1", block.fc1)
        yield from _pair(f"{prefix}.fc2", block.fc2)
    yield from _pair("norm", net.head.norm)
    yield from _pair("head", net.head.classifier)


def _by_kind(rows: Tensor, heads: int, head_dim: int) -> Tensor:
    """Rows ordered [3, heads, head_dim] -> [heads, 3, head_dim, ...]."""
    return rows.unflatten(0, (3, heads, head_dim)).transpose(0, 1)


def _interleaved(rows: Tensor, heads: int, head_dim: int) -> Tensor:
    """Rows ordered [heads, head_dim, 3] -> [heads, 3, head_dim, ...]: theirs is weight[i::3]."""
    return rows.unflatten(0, (heads, head_dim, 3)).transpose(1, 2)


def _qkv(
    prefix: str, ours: HeadSlice, order: Callable[[Tensor, int, int], Tensor]
) -> Iterator[Entry]:
    heads, _, head_dim, width = ours.weight.shape
    rows = 3 * heads * head_dim

    def by_head(tensor: Tensor) -> Tensor:
        return order(tensor, heads, head_dim)

    yield Entry(f"{prefix}weight", ours.weight.detach(), (rows, width), by_head)
    if ours.bias is not None:
        # AutoFormer's bias is ordered like everybody's, though its weight is not.
        convert = _as_is if ours.flat_bias else lambda bias: _by_kind(bias, heads, head_dim)
        yield Entry(f"{prefix}bias", ours.bias.detach(), (rows,), convert)


def _tokens(net: ElasticViT, names: tuple[str, ...]) -> Iterator[Entry]:
    """The tokens before the patches, each a tensor [1, 1, dim] of its own in their files."""
    tokens = net.embedding.tokens
    held = () if tokens is None else tokens.detach().split(1, 1)
    for name, token in zip(names, held, strict=False):
        yield Entry(name, token, tuple(token.shape), _as_is)


def _patches(net: ElasticViT, prefix: str) -> Iterator[Entry]:
    """Their strided convolution; ours is the same matrix."""
    spec, proj = net.spec, net.embedding.proj
    shape = (spec.dim, spec.in_channels, spec.patch, spec.patch)
    yield Entry(f"{prefix}.weight", proj.weight.detach(), shape, lambda kernel: kernel.flatten(1))
    yield _same(f"{prefix}.bias", proj.bias)


def _pair(prefix: str, ours: LinearSlice | nn.LayerNorm) -> Iterator[Entry]:
    yield _same(f"{prefix}.weight", ours.weight)
    yield _same(f"{prefix}.bias", ours.bias)


def _same(name: str, parameter: nn.Parameter) -> Entry:
    return Entry(name, parameter.detach(), tuple(parameter.shape), _as_is)


def _as_is(tensor: Tensor) -> Tensor:
    return tensor
