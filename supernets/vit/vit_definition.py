"""Which elastic vision transformers there are: one member's numbers, its search space, presets."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil
from typing import Any, Self

from supernets.operators import every_other
from supernets.options import check_positive, checked
from supernets.space import Dimension, SearchSpace, Setting, Subnet, Value
from supernets.supernet import Preprocessing

FAMILY = "elastic_vit"
SHARES = (0.25, 0.5, 0.75, 1.0)  # DynaBERT's width multipliers, of heads and of MLP neurons
DEPTH_SHARES = (0.5, 0.75, 1.0)  # and its depth multipliers


@dataclass(frozen=True, slots=True)
class ViTDefinition:
    """One member of the family: a pre-norm vision transformer (Dosovitskiy et al., ICLR 2021).

    ``dim``, ``depth``, ``heads`` and ``mlp_ratio`` say what is stored; ``depths``, ``head_counts``,
    ``mlp_ratios`` and ``widths`` what a subnet may choose. Left empty, these are DynaBERT's shares
    of the whole (the embedding is then not elastic). Raises ``ValueError`` for what does not fit.
    """

    num_classes: int = 1000
    in_channels: int = 3
    image_size: int = 224
    patch: int = 16
    dim: int = 192
    depth: int = 12
    heads: int = 3
    mlp_ratio: float = 4.0
    depths: tuple[int, ...] = ()
    head_counts: tuple[int, ...] = ()
    mlp_ratios: tuple[float, ...] = ()
    widths: tuple[int, ...] = ()
    depth_rule: str = "every_other"  # or "prefix": which layers a depth keeps
    qkv_bias: bool = True
    class_token: bool = True
    distilled: bool = False  # DeiT's second token and head; their logits are averaged
    pool: str = "token"  # or "avg": the mean of the patch tokens
    pool_then_norm: bool = False  # timm's fc_norm: the last LayerNorm comes after pooling
    embed_prefix: bool = True  # the position embedding covers the class token too (not in DeiT III)
    layer_scale: bool = False
    flat_qkv_bias: bool = False  # see `supernets.operators.HeadSlice`: AutoFormer's slicing
    max_relative_position: int = 0  # AutoFormer's relative positions, clipped there; 0 for none
    eps: float = 1e-6

    def __post_init__(self) -> None:
        check_positive(self, "max_relative_position")
        derived: dict[str, tuple[Value, ...]] = {
            "depths": tuple(sorted({max(1, round(s * self.depth)) for s in DEPTH_SHARES})),
            "head_counts": tuple(sorted({ceil(s * self.heads) for s in SHARES})),
            "mlp_ratios": tuple(s * self.mlp_ratio for s in SHARES),
            "widths": (self.dim,),
        }
        limits = {
            "depths": self.depth,
            "head_counts": self.heads,
            "mlp_ratios": self.mlp_ratio,
            "widths": self.dim,
        }
        for name, options in derived.items():
            given = getattr(self, name) or options
            object.__setattr__(self, name, given)
            if not all(a < b for a, b in pairwise(given)) or given[-1] > limits[name]:
                raise ValueError(f"{name} must ascend, to at most {limits[name]}: {given}")
        if self.image_size % self.patch:
            raise ValueError(f"patches of {self.patch} do not tile an image of {self.image_size}")
        if self.dim % self.heads:
            raise ValueError(f"{self.heads} heads do not divide the width {self.dim}")
        if self.depth_rule not in {"every_other", "prefix"}:
            raise ValueError(f"depth_rule is every_other or prefix, not {self.depth_rule!r}")
        if self.pool not in {"token", "avg"}:
            raise ValueError(f"pool is token or avg, not {self.pool!r}")
        if not self.class_token and (self.distilled or self.pool == "token"):
            raise ValueError("pooling a token, or distilling, needs the class token")
        if self.distilled and self.pool != "token":
            raise ValueError("a distilled net reads its two tokens: pool must be token")
        if self.max_relative_position and self.prefix != 1:
            raise ValueError("relative positions need exactly one token before the patches")

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """Raises ``TypeError`` for a field that does not exist, ``ValueError`` for a bad value."""
        return cls(**checked(cls, document))

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch

    @property
    def prefix(self) -> int:
        """Tokens before the patches: the class token, then the distillation token."""
        return int(self.class_token) + int(self.distilled)

    @property
    def positions(self) -> int:
        """Tokens that have a position embedding."""
        return self.grid**2 + (self.prefix if self.embed_prefix else 0)

    def hidden(self, width: int, ratio: float) -> int:
        """MLP neurons at this embedding width: ⌊width · ratio⌋, as timm and AutoFormer round."""
        return int(width * ratio + 1e-6)  # not one less where the ratio is no binary fraction

    def kept(self, depth: int) -> tuple[int, ...]:
        """Which layers run at this depth."""
        spread = self.depth_rule == "every_other"
        return every_other(depth, self.depth) if spread else tuple(range(depth))

    def space(self) -> "ViTSpace":
        return ViTSpace(self)

    def settings(self, subnet: Subnet) -> tuple[int, tuple[tuple[int, int], ...]]:
        """The embedding width, and per layer, kept or not, its heads and MLP neurons."""
        width = int(subnet["w"][0])
        return width, tuple(
            (int(heads), self.hidden(width, ratio))
            for heads, ratio in zip(subnet["h"], subnet["m"], strict=True)
        )


class ViTSpace(SearchSpace):
    """Depth ``d``, heads ``h`` and MLP ratio ``m`` per layer, embedding width ``w``.

    Which layers run is a function of the depth; the settings of the others are reset.
    """

    def __init__(self, spec: ViTDefinition) -> None:
        self._spec = spec
        dimensions = [
            Dimension("h", spec.depth, spec.head_counts),
            Dimension("m", spec.depth, spec.mlp_ratios),
            Dimension("d", 1, spec.depths),
            Dimension("w", 1, spec.widths),
        ]
        super().__init__(FAMILY, dimensions)

    def subnet(self, **config: Value | Sequence[Value]) -> Subnet:
        """As in every space; a setting with one option may be left out."""
        only = {d.name: d.options[0] for d in self.dimensions if len(d.options) == 1}
        return super().subnet(**{**only, **config})

    def canonical(self, settings: dict[str, Setting]) -> dict[str, Setting]:
        kept = self._spec.kept(int(settings["d"][0]))
        return {
            d.name: tuple(
                value if layer in kept else d.options[0]
                for layer, value in enumerate(settings[d.name])
            )
            if d.name in {"h", "m"}
            else settings[d.name]
            for d in self.dimensions
        }

    def describe(self, settings: dict[str, Setting]) -> str:
        """Only what runs: one value where a setting is the same in all kept layers."""
        kept = self._spec.kept(int(settings["d"][0]))
        words = [f"d={settings['d'][0]}"]
        for name in ("h", "m"):
            values = [f"{settings[name][layer]:g}" for layer in kept]
            words.append(f"{name}={values[0] if len(set(values)) == 1 else ','.join(values)}")
        if len(self._spec.widths) > 1:
            words.append(f"w={settings['w'][0]}")
        return " ".join(words)

    @property
    def size(self) -> int:
        """How many subnets there are; exact, without enumerating them."""
        per_layer = len(self._spec.head_counts) * len(self._spec.mlp_ratios)
        return len(self._spec.widths) * sum(per_layer**depth for depth in self._spec.depths)


_SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"dim": 192, "heads": 3},
    "small": {"dim": 384, "heads": 6},
    "base": {"dim": 768, "heads": 12},
    "large": {"dim": 1024, "heads": 16, "depth": 24},
}
_AUTOFORMER: dict[str, Any] = {
    "depth_rule": "prefix",
    "pool": "avg",
    "flat_qkv_bias": True,
    "max_relative_position": 14,
    "eps": 1e-5,
}
_DEIT3 = {"embed_prefix": False, "layer_scale": True}
# Mean and standard deviation of timm's ViTs of Steiner et al. ("AugReg"): [-1, 1]; all others have
# ImageNet's. timm crops 0.9 of the shorter side, torchvision and AutoFormer 0.875.
_SYMMETRIC = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

PRESETS: dict[str, dict[str, Any]] = {
    **{f"vit_{s}_patch16_224": _SIZES[s] for s in _SIZES},
    **{f"vit_{s}_patch32_224": {**_SIZES[s], "patch": 32} for s in ("small", "base")},
    **{f"deit_{s}_patch16_224": _SIZES[s] for s in ("tiny", "small", "base")},
    **{
        f"deit_{s}_distilled_patch16_224": {**_SIZES[s], "distilled": True}
        for s in ("tiny", "small", "base")
    },
    **{f"deit3_{s}_patch16_224": {**_SIZES[s], **_DEIT3} for s in ("small", "base", "large")},
    "vit_b_16": _SIZES["base"],  # torchvision's names
    "vit_b_32": {**_SIZES["base"], "patch": 32},
    "vit_l_16": _SIZES["large"],
    "vit_l_32": {**_SIZES["large"], "patch": 32},
    # The search spaces of AutoFormer (Chen et al., ICCV 2021), from the experiments/supernet files
    # of its repository. MLP ratio 3 is not in the one of the tiny supernet, but in the subnet of it
    # that was published.
    "autoformer_tiny": {
        **_AUTOFORMER, "dim": 256, "heads": 4, "depth": 14, "widths": (192, 216, 240),
        "head_counts": (3, 4), "mlp_ratios": (3.0, 3.5, 4.0), "depths": (12, 13, 14),
    },
    "autoformer_small": {
        **_AUTOFORMER, "dim": 448, "heads": 7, "depth": 14, "widths": (320, 384, 448),
        "head_counts": (5, 6, 7), "mlp_ratios": (3.0, 3.5, 4.0), "depths": (12, 13, 14),
    },
    "autoformer_base": {
        **_AUTOFORMER, "dim": 640, "heads": 10, "depth": 16, "widths": (528, 576, 624),
        "head_counts": (9, 10), "mlp_ratios": (3.0, 3.5, 4.0), "depths": (14, 15, 16),
    },
}  # fmt: skip


def preset(model: str) -> dict[str, Any]:
    """The fields of a published model; ``ValueError`` listing those that there are."""
    if model not in PRESETS:
        raise ValueError(f"no elastic_vit model {model!r}; there are {', '.join(sorted(PRESETS))}")
    return PRESETS[model]


def preprocessing(model: str, spec: ViTDefinition) -> Preprocessing:
    """What the published model expects; half grey, deviation one half, where there is no colour."""
    step = Preprocessing.usual(spec.image_size, spec.in_channels)
    if spec.in_channels != 3 or "patch" not in model:
        return step
    if model.startswith("vit_"):
        step = replace(step, mean=_SYMMETRIC[0], std=_SYMMETRIC[1])
    return replace(step, crop=0.9)
