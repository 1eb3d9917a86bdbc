"""The elastic vision transformer: elastic depth, heads and MLP width per layer, and embedding.

One implementation covers DynaBERT's rules on the ViT and DeiT models of timm and torchvision
(every other layer, prefixes of heads and MLP neurons; Hou et al., NeurIPS 2020) and the supernets
of AutoFormer (the first layers, an elastic embedding; Chen et al., ICCV 2021).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, cast

import torch
from torch import Tensor, nn

from supernets.norms.statistics import Normalisation
from supernets.operators import LayerSelect, SpreadLayerSelect, SubnetNorm
from supernets.registry import register_supernet
from supernets.space import Subnet
from supernets.supernet import Preprocessing, Supernet
from supernets.vit.plain_transformer import PlainBlock, PlainEmbedding, PlainHead
from supernets.vit.transformer import Embedding, Head, TransformerBlock
from supernets.vit.vit_definition import FAMILY, ViTDefinition, ViTSpace, preprocessing, preset


class ElasticViT(Supernet):
    """The trainable form of one member of the family."""

    space: ViTSpace

    def __init__(
        self,
        spec: ViTDefinition,
        *,
        name: str = FAMILY,
        preprocessing: Preprocessing,
        labels: Sequence[str] | None = None,
    ) -> None:
        names = labels or [str(i) for i in range(spec.num_classes)]
        super().__init__(name, spec.space(), preprocessing, names)
        self.spec = spec
        select = SpreadLayerSelect if spec.depth_rule == "every_other" else LayerSelect
        self.embedding = Embedding(spec)
        self.stage = select(TransformerBlock(spec) for _ in range(spec.depth))
        self.head = Head(spec)

    def blocks(self) -> list[TransformerBlock]:
        """All blocks, in order."""
        return [cast("TransformerBlock", block) for block in self.stage.blocks]

    def norms(self) -> dict[int, SubnetNorm]:
        """None: layer normalisation has no running statistics, so no subnet needs calibrating."""
        return {}

    def run(self, x: Tensor, subnet: Subnet, normalise: Normalisation) -> Tensor:
        del normalise  # for batch normalisation, which there is none of
        width, layers = self.spec.settings(subnet)
        return self.head(
            self.stage(
                self.embedding(x, width),
                int(subnet["d"][0]),
                lambda layer, block, tokens: block(tokens, *layers[layer]),
            )
        )

    def extract(self, subnet: Subnet) -> nn.Module:
        width, layers = self.spec.settings(subnet)
        kept = self.spec.kept(int(subnet["d"][0]))
        blocks = self.blocks()
        return nn.Sequential(
            PlainEmbedding(self.embedding, width),
            *(PlainBlock(blocks[layer], width, *layers[layer]) for layer in kept),
            PlainHead(self.head, width),
        ).eval()

    @torch.no_grad()
    def sort_by_importance(self) -> None:
        """Put the heads and MLP neurons that matter most first, as prefixes need them to be.

        The largest network computes what it did. Importance of a head or neuron is the sum of the
        absolute weights that read it. Do this once, before training subnets; checkpoints that were
        trained elastic have their order already.
        """
        for block in self.blocks():
            attention = block.attention
            heads, head_dim = attention.qkv.weight.shape[0], attention.head_dim
            reads = attention.proj.weight.abs().sum(0).view(heads, head_dim)
            order = reads.sum(1).argsort(descending=True, stable=True)
            attention.qkv.permute_heads(order)
            columns = attention.proj.weight.unflatten(1, (heads, head_dim))
            attention.proj.weight.copy_(columns[:, order].flatten(1))
            order = block.fc2.weight.abs().sum(0).argsort(descending=True, stable=True)
            block.fc1.weight.copy_(block.fc1.weight[order])
            block.fc1.bias.copy_(block.fc1.bias[order])
            block.fc2.weight.copy_(block.fc2.weight[:, order])

    def load_foreign(self, state_dict: dict[str, Tensor]) -> None:
        """Weights of timm, torchvision or AutoFormer: see `supernets.vit.vit_names`."""
        from supernets.vit.vit_names import load_vit

        load_vit(self, state_dict)
        if not self.spec.flat_qkv_bias:  # AutoFormer's were trained elastic, and have their order
            self.sort_by_importance()

    def definition(self) -> dict[str, Any]:
        return asdict(self.spec)


@register_supernet()
def elastic_vit(
    *, model: str = "vit_tiny_patch16_224", num_classes: int = 1000, **definition: Any
) -> ElasticViT:
    """An elastic vision transformer, shaped like a published ``model`` (see `PRESETS`).

    ``definition`` overrides fields of `ViTDefinition`. Raises ``ValueError`` for an unknown model.
    """
    fields = {**preset(model), **definition, "num_classes": num_classes}
    spec = ViTDefinition.from_json(fields)
    return ElasticViT(spec, preprocessing=preprocessing(model, spec))


def from_vit(model: nn.Module, **options: Any) -> ElasticViT:
    """An ordinary timm or torchvision VisionTransformer as an elastic one, its weights copied.

    ``options`` are the elastic fields of `ViTDefinition` (``depths``, ``head_counts``,
    ``mlp_ratios``, ``depth_rule``). Heads and MLP neurons are sorted by importance, so that
    prefixes mean something; the largest subnet computes what ``model`` does in evaluation mode.
    Raises ``ValueError`` naming whatever part of ``model`` is not supported.
    """
    from supernets.vit.vit_import import convert

    return convert(model, **options)


def autoformer_subnet(net: ElasticViT, config: Mapping[str, Any]) -> Subnet:
    """The subnet that a configuration of the AutoFormer code means.

    ``{"layer_num": d, "embed_dim": [...], "mlp_ratio": [...], "num_heads": [...]}``, each list with
    one value for each of the d layers that run; the embedding is the same in all. Raises
    ``ValueError`` for anything else, or for a subnet that is not in the space.
    """
    expected = {"layer_num", "embed_dim", "mlp_ratio", "num_heads"}
    if set(config) != expected:
        raise ValueError(f"an AutoFormer subnet has {', '.join(sorted(expected))}, not {config}")
    depth, widths = int(config["layer_num"]), set(config["embed_dim"])
    if any(len(config[key]) != depth for key in expected - {"layer_num"}) or len(widths) != 1:
        raise ValueError(f"{depth} layers need {depth} values each, of one embedding: {config}")
    kept = {layer: i for i, layer in enumerate(net.spec.kept(depth))}

    def spread(values: Sequence[float], rest: float) -> list[float]:
        return [values[kept[i]] if i in kept else rest for i in range(net.spec.depth)]

    return net.space.subnet(
        d=depth,
        w=widths.pop(),
        h=spread(config["num_heads"], net.spec.head_counts[0]),
        m=spread(config["mlp_ratio"], net.spec.mlp_ratios[0]),
    )
