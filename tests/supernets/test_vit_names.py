"""Vision transformers of timm and torchvision: the same answers, and refusals that say why."""

import copy
from dataclasses import replace

import pytest
import timm
import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torchvision.models.vision_transformer import ConvStemConfig
from torchvision.models.vision_transformer import VisionTransformer as TorchvisionViT

from supernets import CheckpointError, create_supernet, extract
from supernets.elastic_vit import ElasticViT, from_vit
from tests.supernets.helpers import relative
from tests.supernets.vit_helpers import SMALL, randomise, vit

SIZE = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 4, "num_heads": 4}


def timm_vit(seed=0, kind=VisionTransformer, **options):
    net = kind(**{**SIZE, "num_classes": 9, **options}).eval()
    randomise(net, seed)
    return net


def torchvision_vit(seed=0, **options):
    net = TorchvisionViT(16, 4, 4, 4, 24, 60, **{"num_classes": 9, **options}).eval()
    randomise(net, seed)
    return net


def theirs(net, x):
    with torch.no_grad():
        logits = copy.deepcopy(net).double()(x)
    assert relative(logits[0], logits[1]) > 0.1, "a net that ignores its input proves nothing"
    return logits


def ours(net: ElasticViT, x):
    with torch.no_grad():
        return copy.deepcopy(net).double()(x, net.space.largest)


@pytest.mark.parametrize(
    "model",
    ["vit_tiny_patch16_224", "deit_small_patch16_224", "deit_tiny_distilled_patch16_224"],
)
def test_a_timm_checkpoint_gives_the_same_logits(model, tmp_path):
    reference = timm.create_model(model, pretrained=False).eval()
    randomise(reference, 0)
    torch.save(reference.state_dict(), tmp_path / f"{model}.pth")
    net = create_supernet("elastic_vit", checkpoint=tmp_path / f"{model}.pth", model=model)
    x = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        expected = reference(x)

        assert relative(expected[0], expected[1]) > 0.1
        assert relative(net(x, net.space.largest), expected) < 1e-5
        assert relative(net.resident()(x, net.space.largest), expected) < 1e-5
        assert relative(extract(net, net.space.largest)(x), expected) < 1e-5


def test_legacy_names_load_the_same_tensors():
    """DeiT III's own files say gamma_1; torchvision before 0.13 said linear_1."""
    scaled = timm_vit(1, init_values=0.1, no_embed_class=True)
    old = {
        name.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): tensor
        for name, tensor in scaled.state_dict().items()
    }
    mlp = torchvision_vit(1)
    older = {
        name.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): tensor
        for name, tensor in mlp.state_dict().items()
    }
    x = torch.randn(2, 3, 16, 16).double()
    for reference, state in ((scaled, old), (mlp, older)):
        assert state.keys() != reference.state_dict().keys()
        net = ElasticViT(from_vit(reference).spec, preprocessing=from_vit(reference).preprocessing)
        net.load_foreign(state)
        assert relative(ours(net, x), theirs(reference, x)) < 1e-12


@pytest.mark.parametrize(
    "reference",
    [
        timm_vit(2),
        timm_vit(2, mlp_ratio=2.6, in_chans=1, qkv_bias=False),
        timm_vit(2, global_pool="avg", class_token=False, init_values=0.1),
        timm_vit(2, global_pool="avg", fc_norm=False),
        timm_vit(2, no_embed_class=True, drop_rate=0.1, attn_drop_rate=0.1, drop_path_rate=0.1),
        timm_vit(2, dynamic_img_size=True),
        timm_vit(2, VisionTransformerDistilled),
        torchvision_vit(2),
        torchvision_vit(2, dropout=0.1, attention_dropout=0.1),
    ],
    ids=["plain", "odd-mlp", "averaged", "averaged-last", "deit3", "dynamic", "distilled",
         "torchvision", "torchvision-dropout"],
)  # fmt: skip
def test_from_vit_computes_what_the_model_does(reference):
    net = from_vit(reference)
    x = torch.randn(3, net.preprocessing.channels, 16, 16, dtype=torch.float64)

    assert relative(ours(net, x), theirs(reference, x)) < 1e-12
    with torch.no_grad():
        smallest = net.double()(x, net.space.smallest)
    assert relative(smallest, theirs(reference, x)) > 0.1


def test_from_vit_sorts_heads_and_neurons_by_importance():
    """Sum of the absolute weights that read a head or a neuron, largest first."""
    reference = timm_vit(3)
    net = from_vit(reference)
    for block, source in zip(net.blocks(), reference.blocks, strict=True):
        read = source.attn.proj.weight.abs().sum(0).view(4, 6).sum(1)
        order = sorted(range(4), key=lambda head: -read[head].item())
        values = source.attn.qkv.weight.view(3, 4, 6, 24)[2]
        torch.testing.assert_close(block.attention.qkv.weight[:, 2], values[order])
        bias = source.attn.qkv.bias.view(3, 4, 6)[1]
        torch.testing.assert_close(block.attention.qkv.bias[:, 1], bias[order])

        columns = source.mlp.fc2.weight.abs().sum(0)
        assert block.fc2.weight.abs().sum(0).tolist() == sorted(columns.tolist(), reverse=True)
        torch.testing.assert_close(block.fc1.bias, source.mlp.fc1.bias[columns.argsort().flip(0)])


def test_an_imported_checkpoint_is_sorted_as_a_model_is():
    reference = timm_vit(3)
    imported = from_vit(timm_vit(4))
    imported.load_foreign(reference.state_dict())
    expected = from_vit(reference).state_dict()
    for name, tensor in imported.state_dict().items():
        torch.testing.assert_close(tensor, expected[name])


def test_sorting_also_moves_a_flat_bias():
    net = vit(replace(SMALL, flat_qkv_bias=True, max_relative_position=2), 4)
    x = torch.randn(2, 2, 12, 12, dtype=torch.float64)
    before = ours(net, x)
    weights = net.blocks()[0].attention.qkv.weight.clone()
    net.sort_by_importance()

    assert relative(ours(net, x), before) < 1e-12
    assert not torch.equal(net.blocks()[0].attention.qkv.weight, weights)


def test_from_vit_leaves_the_model_as_it_was():
    reference = timm_vit(5).train()
    before = copy.deepcopy(reference.state_dict())
    net = from_vit(reference)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()

    assert reference.training
    assert all(torch.equal(t, before[name]) for name, t in reference.state_dict().items())


def test_from_vit_takes_the_elastic_settings():
    net = from_vit(
        timm_vit(6), depths=(2, 4), head_counts=(3, 4), mlp_ratios=(2, 4), depth_rule="prefix"
    )

    assert net.space.size == 4**2 + 4**4
    assert net.spec.kept(2) == (0, 1)
    with pytest.raises(TypeError, match="widths"):
        from_vit(timm_vit(6), widths=(12, 24))
    with pytest.raises(ValueError, match="whole model"):
        from_vit(timm_vit(6), head_counts=(1, 2))


def test_the_model_s_own_configuration_says_how_images_are_prepared():
    net = from_vit(timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=3))

    assert net.preprocessing.mean == (0.5, 0.5, 0.5)
    assert net.preprocessing.crop == 0.9
    assert net.labels == ("0", "1", "2")


class Subclass(VisionTransformer):
    """What a subclass changes cannot be known."""


def replaced(change):
    net = timm_vit(7)
    change(net)
    return net


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: timm_vit(reg_tokens=2), "register tokens"),
        (lambda: timm_vit(pre_norm=True), "a norm before the blocks"),
        (lambda: timm_vit(qk_norm=True), "norms of queries and keys"),
        (lambda: timm_vit(scale_mlp_norm=True), "norms inside attention or MLP"),
        (lambda: timm_vit(pos_embed="none"), "no position embedding"),
        (lambda: timm_vit(global_pool="map"), "pooling by attention"),
        (lambda: timm_vit(global_pool="avgmax"), "pooling 'avgmax'"),
        (lambda: timm_vit(global_pool="avg", pool_include_prefix=True), "over the class token"),
        (lambda: timm_vit(num_classes=0), "no classifier"),
        (lambda: timm_vit(final_norm=False), "no last norm"),
        (lambda: timm_vit(act_layer="quick_gelu"), "the activation QuickGELU"),
        (lambda: timm_vit(act_layer="gelu_tanh"), "the activation GELUTanh"),
        (lambda: timm_vit(norm_layer="rmsnorm"), "the norm RmsNorm"),
        (lambda: timm_vit(proj_bias=False), "linear layers without bias"),
        (lambda: timm_vit(img_size=(16, 32)), "unusual patch embedding"),
        (lambda: timm_vit(block_fn=timm.models.vision_transformer.ResPostBlock), "ResPostBlock"),
        (lambda: timm_vit(mlp_layer=timm.layers.GluMlp), "an MLP of type GluMlp"),
        (lambda: timm_vit(kind=Subclass), "Subclass is no VisionTransformer"),
        (lambda: timm.create_model("resnet18", pretrained=False), "ResNet is no Vision"),
        (lambda: timm.create_model("cait_xxs24_224", pretrained=False), "Cait is no Vision"),
        (lambda: torchvision_vit(representation_size=8), "a layer before the classifier"),
        (
            lambda: torchvision_vit(conv_stem_configs=[ConvStemConfig(8, 3, 4)]),
            "a convolutional stem",
        ),
        # Nothing in the parts gives this away; comparing the answers does.
        (
            lambda: replaced(
                lambda net: net.blocks[0].register_forward_hook(lambda m, i, out: out * 1.5)
            ),
            "disagree",
        ),
    ],
)  # fmt: skip
def test_from_vit_names_what_it_does_not_support(model, message):
    with pytest.raises(ValueError, match=message):
        from_vit(model())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.clear(), "missing: cls_token"),
        (lambda s: s.pop("blocks.3.attn.qkv.bias"), "missing: blocks.3.attn.qkv.bias"),
        (lambda s: s.update({"blocks.0.ls1.gamma": torch.ones(24)}), "unexpected: blocks.0.ls1"),
        (
            lambda s: s.update({"pos_embed": torch.ones(1, 5, 24)}),
            r"pos_embed has shape \(1, 5, 24\), not \(1, 17, 24\)",
        ),
        (lambda s: s["head.bias"].fill_(float("nan")), "head.bias is not finite"),
    ],
    ids=["empty", "partial", "unexpected", "shape", "not-finite"],
)
def test_a_wrong_checkpoint_is_refused_and_changes_nothing(change, message):
    reference = timm_vit(8)
    net = from_vit(timm_vit(9))
    before = [p.clone() for p in net.parameters()]
    state = {name: tensor.clone() for name, tensor in reference.state_dict().items()}
    change(state)
    with pytest.raises(CheckpointError, match=message):
        net.load_foreign(state)

    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_a_file_that_leaves_a_parameter_empty_is_refused():
    net = from_vit(timm_vit(10, VisionTransformerDistilled))
    with pytest.raises(CheckpointError, match=r"head\.distilled\.weight"):
        net.load_foreign(torchvision_vit(10).state_dict())


def test_the_imported_net_is_saved_and_rebuilt_without_timm(tmp_path, monkeypatch):
    from supernets import save

    net = from_vit(torchvision_vit(11))
    save(net, tmp_path / "vit.safetensors")
    monkeypatch.setitem(__import__("sys").modules, "timm", None)  # importing it now fails
    again = create_supernet("elastic_vit", checkpoint=tmp_path / "vit.safetensors")
    x = torch.randn(2, 3, 16, 16)

    assert isinstance(again, nn.Module)
    with torch.no_grad():
        assert torch.equal(net(x, net.space.smallest), again(x, net.space.smallest))
