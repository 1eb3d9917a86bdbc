"""AutoFormer supernets: the same subnets as a second implementation, written from its rules.

The reference below follows microsoft/Cream (AutoFormer/model) step by step: sets of rows picked one
by one, an N x N table of relative position vectors, explicit attention.
"""

import random
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from supernets import CheckpointError, create_supernet, extract
from supernets.elastic_vit import autoformer_subnet, elastic_vit
from tests.supernets.helpers import relative

HEAD_DIM, PATCH, GRID, LIMIT = 6, 4, 4, 2  # a limit below the grid, so that distances are clipped
CHOICES = {"embed_dim": [12, 18, 24], "mlp_ratio": [1.5, 2.5], "num_heads": [2, 3, 4]}
DEPTHS = (2, 3, 4)
DIM, HEADS, RATIO, DEPTH, CLASSES = 30, 5, 3.0, 4, 7  # stored: wider than any subnet
FIELDS = {
    "model": "autoformer_tiny",
    "num_classes": CLASSES,
    "image_size": PATCH * GRID,
    "patch": PATCH,
    "dim": DIM,
    "depth": DEPTH,
    "heads": HEADS,
    "mlp_ratio": RATIO,
    "depths": DEPTHS,
    "widths": CHOICES["embed_dim"],
    "head_counts": CHOICES["num_heads"],
    "mlp_ratios": CHOICES["mlp_ratio"],
    "max_relative_position": LIMIT,
}


def supernet_state(seed):
    """A state dict as Vision_TransformerSuper saves it, in float64, every value random."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape, std=0.3):
        return torch.randn(*shape, generator=generator, dtype=torch.float64) * std

    def linear(name, out, inputs):
        return {
            f"{name}.weight": normal(out, inputs, std=inputs**-0.5),
            f"{name}.bias": normal(out),
        }

    def norm(name):
        return {f"{name}.weight": 1 + normal(DIM), f"{name}.bias": normal(DIM)}

    state = {
        "cls_token": normal(1, 1, DIM),
        "pos_embed": normal(1, GRID * GRID + 1, DIM),
        "patch_embed_super.proj.weight": normal(DIM, 3, PATCH, PATCH),
        "patch_embed_super.proj.bias": normal(DIM),
        **norm("norm"),
        **linear("head", CLASSES, DIM),
    }
    for i in range(DEPTH):
        block = f"blocks.{i}"
        state |= linear(f"{block}.attn.qkv", 3 * DIM, DIM) | linear(f"{block}.attn.proj", DIM, DIM)
        for table in ("k.embeddings_table_v", "k.embeddings_table_h", "v.embeddings_table_v",
                      "v.embeddings_table_h"):  # fmt: skip
            state[f"{block}.attn.rel_pos_embed_{table}"] = normal(2 * LIMIT + 2, HEAD_DIM)
        state |= norm(f"{block}.attn_layer_norm") | norm(f"{block}.ffn_layer_norm")
        state |= linear(f"{block}.fc1", int(RATIO * DIM), DIM)
        state |= linear(f"{block}.fc2", DIM, int(RATIO * DIM))
    return state


def reference(state, config, x):
    """Logits of one subnet, by the rules of the AutoFormer code."""
    width = config["embed_dim"][0]
    y = F.conv2d(
        x,
        state["patch_embed_super.proj.weight"][:width],
        state["patch_embed_super.proj.bias"][:width],
        stride=PATCH,
    )
    y = y.flatten(2).transpose(1, 2)
    y = torch.cat([state["cls_token"][..., :width].expand(len(x), -1, -1), y], 1)
    y = y + state["pos_embed"][..., :width]
    for i in range(config["layer_num"]):
        block = {
            name.removeprefix(f"blocks.{i}."): tensor
            for name, tensor in state.items()
            if name.startswith(f"blocks.{i}.")
        }
        heads, hidden = config["num_heads"][i], int(width * config["mlp_ratio"][i])
        y = y + reference_attention(block, normed(block, "attn_layer_norm", y), width, heads)
        z = linear(block, "fc1", normed(block, "ffn_layer_norm", y), hidden)
        y = y + linear(block, "fc2", F.gelu(z), width)
    y = normed(state, "norm", y)[:, 1:].mean(1)
    return linear(state, "head", y, CLASSES)


def normed(state, name, x):
    width = x.shape[-1]
    weight, bias = state[f"{name}.weight"][:width], state[f"{name}.bias"][:width]
    return F.layer_norm(x, (width,), weight, bias, 1e-5)


def linear(state, name, x, out):
    return F.linear(x, state[f"{name}.weight"][:out, : x.shape[-1]], state[f"{name}.bias"][:out])


def reference_attention(block, x, width, heads):
    n, tokens, _ = x.shape
    out = 3 * heads * HEAD_DIM
    rows = [row for first in range(3) for row in range(first, out, 3)]  # every third, three times
    qkv = F.linear(x, block["attn.qkv.weight"][rows, :width], block["attn.qkv.bias"][:out])
    q, k, v = qkv.reshape(n, tokens, 3, heads, HEAD_DIM).permute(2, 0, 3, 1, 4)
    scores = q @ k.transpose(2, 3)
    scores = scores + torch.einsum("nhid,ijd->nhij", q, pair_vectors(block, "k"))
    attention = (scores * HEAD_DIM**-0.5).softmax(-1)
    y = attention @ v + torch.einsum("nhij,ijd->nhid", attention, pair_vectors(block, "v"))
    return linear(block, "attn.proj", y.transpose(1, 2).reshape(n, tokens, -1), width)


def pair_vectors(block, which):
    """For every pair of tokens, the sum of its vertical and its horizontal vector [T, T, D]."""
    vertical = block[f"attn.rel_pos_embed_{which}.embeddings_table_v"]
    horizontal = block[f"attn.rel_pos_embed_{which}.embeddings_table_h"]
    tokens = GRID * GRID + 1
    vectors = torch.empty(tokens, tokens, HEAD_DIM, dtype=vertical.dtype)
    for i in range(tokens):
        for j in range(tokens):
            down = across = 0  # with the class token
            if i and j:
                (row, column), (to_row, to_column) = divmod(i - 1, GRID), divmod(j - 1, GRID)
                down = max(-LIMIT, min(LIMIT, to_row - row)) + LIMIT + 1
                across = max(-LIMIT, min(LIMIT, to_column - column)) + LIMIT + 1
            vectors[i, j] = vertical[down] + horizontal[across]
    return vectors


def configs(seed, count):
    """The smallest, the largest, and random ones, drawn as the AutoFormer code draws them."""
    rng = random.Random(seed)
    drawn = [
        {
            "layer_num": depth,
            "embed_dim": [CHOICES["embed_dim"][which]] * depth,
            "mlp_ratio": [CHOICES["mlp_ratio"][which]] * depth,
            "num_heads": [CHOICES["num_heads"][which]] * depth,
        }
        for depth, which in ((DEPTHS[0], 0), (DEPTHS[-1], -1))
    ]
    for _ in range(count):
        depth = rng.choice(DEPTHS)
        drawn.append(
            {
                "layer_num": depth,
                "embed_dim": [rng.choice(CHOICES["embed_dim"])] * depth,
                "mlp_ratio": [rng.choice(CHOICES["mlp_ratio"]) for _ in range(depth)],
                "num_heads": [rng.choice(CHOICES["num_heads"]) for _ in range(depth)],
            }
        )
    return drawn


def loaded(tmp_path, state):
    file = tmp_path / "supernet-tiny.pth"
    torch.save({"model": {name: tensor.float() for name, tensor in state.items()}}, file)
    return create_supernet("elastic_vit", checkpoint=file, **FIELDS)


def test_subnets_agree_with_the_reference(tmp_path):
    state = {name: t.float().double() for name, t in supernet_state(0).items()}
    net = loaded(tmp_path, state)
    x = torch.randn(2, 3, PATCH * GRID, PATCH * GRID, dtype=torch.float64)
    quick = net.resident()
    net.double()
    exact = net.resident(dtype=torch.float64)
    seen = set()
    for config in configs(1, 8):
        subnet = autoformer_subnet(net, config)
        seen.add(subnet)
        expected = reference(state, config, x)
        with torch.no_grad():
            assert relative(expected[0], expected[1]) > 0.1
            assert relative(net(x, subnet), expected) < 1e-12
            assert relative(exact(x, subnet), expected) < 1e-12
            assert relative(extract(net, subnet)(x), expected) < 1e-12
        assert relative(quick(x, subnet).double(), expected) < 1e-5
    assert len(seen) > 6


@pytest.mark.parametrize(
    "name",
    [
        "blocks.0.attn.rel_pos_embed_k.embeddings_table_v",
        "blocks.0.attn.rel_pos_embed_k.embeddings_table_h",
        "blocks.0.attn.rel_pos_embed_v.embeddings_table_v",
        "blocks.0.attn.rel_pos_embed_v.embeddings_table_h",
        "blocks.0.attn.qkv.bias",
        "pos_embed",
    ],
)
def test_every_part_of_the_variant_matters(name, tmp_path):
    """So that agreeing with the reference says something about each of them."""
    state = supernet_state(2)
    net = loaded(tmp_path, state)
    other = loaded(tmp_path, {**state, name: state[name].flip(-1)})
    x = torch.randn(2, 3, PATCH * GRID, PATCH * GRID, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        # Agreement is to 1e-5 at worst.
        assert relative(net(x, net.space.smallest), other(x, net.space.smallest)) > 1e-3


def test_a_configuration_is_a_subnet_of_the_first_layers():
    with torch.device("meta"):
        net = elastic_vit(**FIELDS)
    config = {
        "layer_num": 2,
        "embed_dim": [18, 18],
        "mlp_ratio": [2.5, 1.5],
        "num_heads": [3, 4],
    }

    assert autoformer_subnet(net, config) == net.space.subnet(
        d=2, w=18, h=[3, 4, 2, 2], m=[2.5, 1.5, 1.5, 1.5]
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embed_dim": [12, 18]}, "of one embedding"),
        ({"num_heads": [3]}, "need 2 values each"),
        ({"num_heads": [3, 7]}, "h cannot be 7"),
        (
            {"layer_num": 1, "embed_dim": [12], "mlp_ratio": [1.5], "num_heads": [2]},
            "d cannot be 1",
        ),
        ({"dropout": 0.1}, "an AutoFormer subnet has"),
    ],
)
def test_a_wrong_configuration_is_refused(change, message):
    with torch.device("meta"):
        net = elastic_vit(**FIELDS)
    config = {"layer_num": 2, "embed_dim": [12] * 2, "mlp_ratio": [1.5] * 2, "num_heads": [2] * 2}
    with pytest.raises(ValueError, match=message):
        autoformer_subnet(net, config | change)


def test_a_partial_checkpoint_is_refused(tmp_path):
    state = supernet_state(3)
    del state["blocks.1.attn.rel_pos_embed_v.embeddings_table_h"]
    with pytest.raises(CheckpointError, match=r"missing: blocks\.1\.attn\.rel_pos_embed_v"):
        loaded(tmp_path, state)


def test_an_ordinary_net_does_not_take_an_autoformer_checkpoint():
    """Its bias is cut in another way: narrow subnets would be silently wrong."""
    fields = {key: value for key, value in FIELDS.items() if key != "model"}
    net = elastic_vit(**fields, pool="avg", depth_rule="prefix")
    with pytest.raises(CheckpointError, match="autoformer_tiny"):
        net.load_foreign(supernet_state(4))


# From the experiments/subnet files of the AutoFormer repository; the sizes are those it publishes.
PUBLISHED = {
    "autoformer_tiny": (
        5.8,
        192,
        [3.5, 3.5, 3.0, 3.5, 3.0, 3.0, 4.0, 4.0, 3.5, 4.0, 3.5, 4.0, 3.5],
        [3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 4, 3, 3],
    ),
    "autoformer_small": (
        22.9,
        384,
        [3.0, 3.5, 3.0, 3.5, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0, 3.5, 4.0],
        [6, 6, 5, 7, 5, 5, 5, 6, 6, 7, 7, 6, 7],
    ),
    "autoformer_base": (
        53.7,
        576,
        [3.5, 3.5, 4.0, 3.5, 4.0, 3.5, 3.5, 3.0, 4.0, 4.0, 3.0, 4.0, 3.0, 3.5],
        [9, 9, 9, 9, 9, 10, 9, 9, 10, 9, 10, 9, 9, 10],
    ),
}


@pytest.mark.parametrize("model", PUBLISHED)
def test_the_published_subnets_have_their_published_size(model):
    """In millions of parameters; the relative position tables are in the count."""
    millions, width, ratios, heads = PUBLISHED[model]
    depth = len(ratios)
    with torch.device("meta"):
        net = elastic_vit(model=model)
        subnet = autoformer_subnet(
            net,
            {
                "layer_num": depth,
                "embed_dim": [width] * depth,
                "mlp_ratio": ratios,
                "num_heads": heads,
            },
        )
        count = sum(p.numel() for p in extract(net, subnet).parameters())

    assert count / 1e6 == pytest.approx(millions, rel=0.02)


def test_the_tiny_preset_stores_what_the_published_file_holds():
    spec = elastic_vit(**{**FIELDS, "model": "autoformer_tiny"}).spec
    with torch.device("meta"):
        preset = elastic_vit(model="autoformer_tiny").spec

    assert (preset.dim, preset.heads, preset.depth, preset.mlp_ratio) == (256, 4, 14, 4.0)
    assert preset.head_dim == 64
    assert replace(preset, depths=(14,)).depth_rule == spec.depth_rule == "prefix"
