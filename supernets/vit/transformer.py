"""Elastic transformer parts made of SubNetAct operators: embedding, attention, MLP, block, head.

There is no SubnetNorm: a LayerNorm normalises each token by that token's own mean and variance, so
a subnet has no statistics to keep. Where the embedding is elastic it is taken over the active
prefix. In shapes, N is images, T tokens, W the active embedding width, h the active heads.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supernets.operators import HeadSlice, LinearSlice
from supernets.vit.vit_definition import ViTDefinition


class LayerNormSlice(nn.LayerNorm):
    """Layer normalisation over however many features arrive."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - as torch names it
        """``input`` [..., W] -> the same; W <= the number of features."""
        width = input.shape[-1]
        return F.layer_norm(input, (width,), self.weight[:width], self.bias[:width], self.eps)


def patches(x: Tensor, side: int) -> Tensor:
    """[N, C, H, W] -> [N, patches by rows, C · side²], each patch flattened as [C, side, side]."""
    n, channels, height, width = x.shape
    x = x.reshape(n, channels, height // side, side, width // side, side)
    return x.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


class Embedding(nn.Module):
    """Patches, tokens before them, and positions, in the first W embedding dimensions."""

    def __init__(self, spec: ViTDefinition) -> None:
        super().__init__()
        self.side, self.covers_prefix = spec.patch, spec.embed_prefix
        # A product with flattened patches: quicker than the strided convolution, and it leaves the
        # tokens in memory as the blocks read them.
        self.proj = LinearSlice(spec.in_channels * spec.patch**2, spec.dim)
        self.position = nn.Parameter(torch.empty(1, spec.positions, spec.dim))
        self.tokens = nn.Parameter(torch.empty(1, spec.prefix, spec.dim)) if spec.prefix else None
        nn.init.trunc_normal_(self.position, std=0.02)
        if self.tokens is not None:
            nn.init.trunc_normal_(self.tokens, std=0.02)

    def forward(self, x: Tensor, width: int) -> Tensor:
        """``x`` [N, C, H, W] -> [N, T, width]."""
        y = self.proj(patches(x, self.side), width)
        return add_tokens(y, self.tokens, self.position, covers_prefix=self.covers_prefix)


def add_tokens(
    y: Tensor, tokens: Tensor | None, position: Tensor, *, covers_prefix: bool
) -> Tensor:
    """Patch tokens [N, P, W] -> all tokens [N, T, W], positions added."""
    width = y.shape[-1]
    if not covers_prefix:
        y = y + position[..., :width]
    if tokens is not None:
        y = torch.cat([tokens[..., :width].expand(y.shape[0], -1, -1), y], 1)
    return y + position[..., :width] if covers_prefix else y


class RelativePosition(nn.Module):
    """AutoFormer's two-dimensional relative positions for keys, or for values (ICCV 2021).

    A pair of patches is related by the sum of one vector for its vertical and one for its
    horizontal offset, each clipped to ``±limit``; row 0 of both tables is for every pair with the
    class token. The sum over a whole row of patches shares one vertical vector, so that the G²·G²
    vectors of a G x G grid need never be made: two products with G·G vectors do.
    """

    offsets: Tensor

    def __init__(self, grid: int, head_dim: int, limit: int) -> None:
        super().__init__()
        self.grid = grid
        self.vertical = nn.Parameter(torch.empty(2 * limit + 2, head_dim))
        self.horizontal = nn.Parameter(torch.empty(2 * limit + 2, head_dim))
        nn.init.trunc_normal_(self.vertical, std=0.02)
        nn.init.trunc_normal_(self.horizontal, std=0.02)
        place = torch.arange(grid)
        distance = (place[None, :] - place[:, None]).clamp(-limit, limit)  # [from, to]
        self.register_buffer("offsets", distance + limit + 1, persistent=False)

    def vectors(self) -> tuple[Tensor, Tensor, Tensor]:
        """For the class token [D]; vertical and horizontal [G from, G to, D]."""
        class_token = self.vertical[0] + self.horizontal[0]
        return class_token, self.vertical[self.offsets], self.horizontal[self.offsets]

    def scores(self, q: Tensor) -> Tensor:
        """Each query times the vector of each pair: [N, h, T, D] -> [N, h, T, T]."""
        class_token, vertical, horizontal = self.vectors()
        g = self.grid
        grid = q[:, :, 1:].unflatten(2, (g, g))
        rows = torch.einsum("nhrcd,rsd->nhrcs", grid, vertical)
        columns = torch.einsum("nhrcd,csd->nhrcs", grid, horizontal)
        pairs = (rows[..., None] + columns[..., None, :]).flatten(4).flatten(2, 3)
        to_class = (q @ class_token)[..., None]  # [N, h, T, 1]
        from_class = to_class[:, :, :1].expand(-1, -1, -1, g * g)
        return torch.cat([to_class, torch.cat([from_class, pairs], 2)], 3)

    def mix(self, attention: Tensor) -> Tensor:
        """The pairs' vectors, weighted: [N, h, T, T] whose rows sum to 1 -> [N, h, T, D]."""
        class_token, vertical, horizontal = self.vectors()
        g = self.grid
        grid = attention[:, :, 1:, 1:].unflatten(3, (g, g)).unflatten(2, (g, g))
        mixed = torch.einsum("nhrcs,rsd->nhrcd", grid.sum(5), vertical)
        mixed = mixed + torch.einsum("nhrcs,csd->nhrcd", grid.sum(4), horizontal)
        mixed = mixed.flatten(2, 3) + attention[:, :, 1:, :1] * class_token
        whole = class_token.expand(*mixed.shape[:2], 1, -1)  # the class token's row sums to 1
        return torch.cat([whole, mixed], 2)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keys: RelativePosition | None = None,
    values: RelativePosition | None = None,
) -> Tensor:
    """Multi-head attention with relative positions, if any: [N, h, T, D] -> [N, T, h · D]."""
    if keys is None or values is None:
        y = F.scaled_dot_product_attention(q, k, v)
    else:
        scores = (q @ k.transpose(2, 3) + keys.scores(q)) * q.shape[-1] ** -0.5
        attention = scores.softmax(-1)
        y = attention @ v + values.mix(attention)
    return y.transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """Self-attention of the first heads."""

    def __init__(self, spec: ViTDefinition) -> None:
        super().__init__()
        dim, head_dim, limit = spec.dim, spec.head_dim, spec.max_relative_position
        self.head_dim = head_dim
        self.qkv = HeadSlice(
            dim, spec.heads, head_dim, bias=spec.qkv_bias, flat_bias=spec.flat_qkv_bias
        )
        self.proj = LinearSlice(spec.heads * head_dim, dim)
        self.keys = RelativePosition(spec.grid, head_dim, limit) if limit else None
        self.values = RelativePosition(spec.grid, head_dim, limit) if limit else None

    def forward(self, x: Tensor, heads: int) -> Tensor:
        """``x`` [N, T, W] -> the same shape."""
        q, k, v = self.qkv(x, heads)
        return self.proj(attend(q, k, v, self.keys, self.values), x.shape[-1])


class TransformerBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); each sum's second part scaled, if asked."""

    def __init__(self, spec: ViTDefinition) -> None:
        super().__init__()
        dim, hidden = spec.dim, spec.hidden(spec.dim, spec.mlp_ratio)
        self.norm1, self.norm2 = LayerNormSlice(dim, spec.eps), LayerNormSlice(dim, spec.eps)
        self.attention = Attention(spec)
        self.fc1, self.fc2 = LinearSlice(dim, hidden), LinearSlice(hidden, dim)
        # Every block starts as the identity: a deep subnet then trains like a shallow one.
        nn.init.zeros_(self.attention.proj.weight)
        nn.init.zeros_(self.fc2.weight)
        scaled = spec.layer_scale
        self.scale1 = nn.Parameter(torch.ones(dim)) if scaled else None
        self.scale2 = nn.Parameter(torch.ones(dim)) if scaled else None

    def forward(self, x: Tensor, heads: int, hidden: int) -> Tensor:
        """``x`` [N, T, W] -> the same, with this many heads and MLP neurons."""
        width = x.shape[-1]
        y = self.attention(self.norm1(x), heads)
        x = x + (y if self.scale1 is None else y * self.scale1[:width])
        y = self.fc2(F.gelu(self.fc1(self.norm2(x), hidden)), width)
        return x + (y if self.scale2 is None else y * self.scale2[:width])


class Head(nn.Module):
    """The last LayerNorm, pooling and the classifier; a distilled net averages two of those."""

    def __init__(self, spec: ViTDefinition) -> None:
        super().__init__()
        self.pool, self.pool_then_norm, self.prefix = spec.pool, spec.pool_then_norm, spec.prefix
        self.norm = LayerNormSlice(spec.dim, spec.eps)
        self.classifier = LinearSlice(spec.dim, spec.num_classes)
        self.distilled = LinearSlice(spec.dim, spec.num_classes) if spec.distilled else None

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [N, T, W] -> logits [N, classes]."""
        classes = self.classifier.bias.shape[0]
        pooled = pool(x, self.norm, self.pool, self.prefix, norm_last=self.pool_then_norm)
        logits = self.classifier(pooled[:, 0], classes)
        if self.distilled is not None:
            logits = (logits + self.distilled(pooled[:, 1], classes)) / 2
        return logits


def pool(x: Tensor, norm: nn.Module, kind: str, prefix: int, *, norm_last: bool) -> Tensor:
    """[N, T, W] -> [N, tokens that the classifiers read, W], normalised."""
    if kind == "token":
        return norm(x[:, :prefix])  # the others need no norm: nothing reads them
    if norm_last:
        return norm(x[:, prefix:].mean(1, keepdim=True))
    return norm(x[:, prefix:]).mean(1, keepdim=True)
