"""Vision transformers for tests, randomised everywhere: default initialisation hides errors."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from supernets.elastic_vit import ElasticViT
from supernets.supernet import Preprocessing
from supernets.vit.vit_definition import ViTDefinition

SMALL = ViTDefinition(
    num_classes=7,
    in_channels=2,
    image_size=12,
    patch=4,
    dim=24,
    depth=4,
    heads=4,
    mlp_ratio=3.0,
    depths=(1, 2, 3, 4),
    head_counts=(1, 2, 4),
    mlp_ratios=(0.5, 1.5, 3.0),
)
DEFINITIONS = {
    "spread-depth": SMALL,
    "prefix-depth-elastic-embedding": replace(SMALL, depth_rule="prefix", widths=(12, 18, 24)),
    "autoformer": replace(
        SMALL,
        depth_rule="prefix",
        widths=(10, 20),
        flat_qkv_bias=True,
        max_relative_position=1,
        pool="avg",
        eps=1e-5,
    ),
    "distilled-without-qkv-bias": replace(SMALL, distilled=True, qkv_bias=False),
    "averaged-then-normalised-without-class-token": replace(
        SMALL, class_token=False, pool="avg", pool_then_norm=True, widths=(20, 24)
    ),
    "scaled-layers-positions-of-patches-only": replace(
        SMALL, layer_scale=True, embed_prefix=False, widths=(8, 24)
    ),
}


def vit(spec: ViTDefinition = SMALL, seed: int = 0) -> ElasticViT:
    """A member of the family in float64, every parameter random, in evaluation mode."""
    size, channels = spec.image_size, spec.in_channels
    net = ElasticViT(
        spec,
        preprocessing=Preprocessing(size, size, channels, (0.5,) * channels, (0.5,) * channels),
    )
    randomise(net, seed)
    return net.double().eval()


@torch.no_grad()
def randomise(net: nn.Module, seed: int) -> None:
    """Unit gain in every product, and no two heads, neurons, tokens or positions alike."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in net.named_parameters():
        if "gamma" in name or "scale" in name or (name.endswith("weight") and tensor.dim() == 1):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif name.endswith("weight"):
            inputs = tensor.shape[-1] if "qkv" in name else tensor[0].numel()
            tensor.normal_(0.0, (2 / inputs) ** 0.5, generator=generator)
        else:
            tensor.normal_(0.0, 0.3, generator=generator)


def noise(net: ElasticViT, count: int, seed: int = 0) -> Tensor:
    """Images [count, C, H, W] in float64."""
    step = net.preprocessing
    shape = (count, step.channels, step.height, step.width)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)
