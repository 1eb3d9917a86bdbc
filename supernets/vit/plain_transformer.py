"""The extracted form of a vision transformer: ordinary modules of fixed width, own weights."""

import copy

import torch
from torch import Tensor, nn

from supernets.operators import HeadSlice, LinearSlice
from supernets.vit.transformer import (
    Attention,
    Embedding,
    Head,
    LayerNormSlice,
    TransformerBlock,
    add_tokens,
    attend,
    pool,
)


class PlainEmbedding(nn.Module):
    """A strided convolution, the tokens before the patches, and positions."""

    def __init__(self, source: Embedding, width: int) -> None:
        super().__init__()
        channels = source.proj.weight.shape[1] // source.side**2
        dtype = source.proj.weight.dtype
        self.proj = nn.Conv2d(channels, width, source.side, source.side, dtype=dtype)
        self.tokens = None if source.tokens is None else _copied(source.tokens, width)
        self.position = _copied(source.position, width)
        self.covers_prefix = source.covers_prefix
        with torch.no_grad():
            self.proj.weight.copy_(source.proj.weight[:width].view_as(self.proj.weight))
            _copy(self.proj.bias, source.proj.bias[:width])

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, tokens, width]."""
        y = self.proj(x).flatten(2).transpose(1, 2)
        return add_tokens(y, self.tokens, self.position, covers_prefix=self.covers_prefix)


class PlainAttention(nn.Module):
    """Self-attention with the usual weight layout: queries, then keys, then values."""

    def __init__(self, source: Attention, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = plain_qkv(source.qkv, width, heads)
        self.proj = plain_linear(source.proj, heads * source.head_dim, width)
        self.keys, self.values = copy.deepcopy(source.keys), copy.deepcopy(source.values)

    def forward(self, x: Tensor) -> Tensor:
        """[N, tokens, width] -> the same shape."""
        split = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = split.unbind(0)
        return self.proj(attend(q, k, v, self.keys, self.values))


class PlainBlock(nn.Module):
    """A pre-norm block of fixed size."""

    def __init__(self, source: TransformerBlock, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = plain_layer_norm(source.norm1, width)
        self.attention = PlainAttention(source.attention, width, heads)
        self.norm2 = plain_layer_norm(source.norm2, width)
        self.mlp = nn.Sequential(
            plain_linear(source.fc1, width, hidden),
            nn.GELU(),
            plain_linear(source.fc2, hidden, width),
        )
        self.scale1 = None if source.scale1 is None else _copied(source.scale1, width)
        self.scale2 = None if source.scale2 is None else _copied(source.scale2, width)

    def forward(self, x: Tensor) -> Tensor:
        """[N, tokens, width] -> the same shape."""
        y = self.attention(self.norm1(x))
        x = x + (y if self.scale1 is None else self.scale1 * y)
        y = self.mlp(self.norm2(x))
        return x + (y if self.scale2 is None else self.scale2 * y)


class PlainHead(nn.Module):
    """The last LayerNorm, pooling and the classifier."""

    def __init__(self, source: Head, width: int) -> None:
        super().__init__()
        self.pool, self.pool_then_norm = source.pool, source.pool_then_norm
        self.prefix = source.prefix
        classes = source.classifier.weight.shape[0]
        self.norm = plain_layer_norm(source.norm, width)
        self.classifier = plain_linear(source.classifier, width, classes)
        self.distilled = (
            None if source.distilled is None else plain_linear(source.distilled, width, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, tokens, width] -> logits [N, classes]."""
        pooled = pool(x, self.norm, self.pool, self.prefix, norm_last=self.pool_then_norm)
        if self.distilled is None:
            return self.classifier(pooled[:, 0])
        return (self.classifier(pooled[:, 0]) + self.distilled(pooled[:, 1])) / 2


def plain_linear(source: LinearSlice, in_features: int, out_features: int) -> nn.Linear:
    """An `nn.Linear` that holds its own copy of the active weight."""
    linear = nn.Linear(in_features, out_features, dtype=source.weight.dtype)
    with torch.no_grad():
        linear.weight.copy_(source.slice(in_features, out_features))
        linear.bias.copy_(source.bias[:out_features])
    return linear


def plain_qkv(source: HeadSlice, in_features: int, heads: int) -> nn.Linear:
    """An `nn.Linear` to [3, heads, head_dim] that holds its own copy of the active weight."""
    bias = source.slice_bias(heads)
    out = 3 * heads * source.head_dim
    linear = nn.Linear(in_features, out, bias=bias is not None, dtype=source.weight.dtype)
    with torch.no_grad():
        linear.weight.copy_(source.slice(in_features, heads).transpose(0, 1).flatten(0, 2))
        if bias is not None:
            linear.bias.copy_(bias.transpose(0, 1).flatten())
    return linear


def plain_layer_norm(source: LayerNormSlice, width: int) -> nn.LayerNorm:
    """An `nn.LayerNorm` over the active features."""
    norm = nn.LayerNorm(width, source.eps, dtype=source.weight.dtype)
    with torch.no_grad():
        norm.weight.copy_(source.weight[:width])
        norm.bias.copy_(source.bias[:width])
    return norm


def _copied(source: nn.Parameter, width: int) -> nn.Parameter:
    return nn.Parameter(source.detach()[..., :width].clone())


def _copy(target: Tensor | None, source: Tensor) -> None:
    if target is not None:
        target.copy_(source)
