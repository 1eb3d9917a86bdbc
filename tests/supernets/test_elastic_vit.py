"""The elastic vision transformer: its laws, its slicing rules, and its subnets cut by hand."""

import json
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from math import floor

import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from supernets import TrainOptions, calibrate, create_supernet, extract, save, train
from supernets.operators import HeadSlice, LinearSlice, SpreadLayerSelect, every_other
from supernets.vit.vit_definition import PRESETS, ViTDefinition, preprocessing
from supernets.vit.vit_names import load_vit
from tests.supernets.helpers import relative
from tests.supernets.vit_helpers import DEFINITIONS, SMALL, noise, randomise, vit

each_definition = pytest.mark.parametrize("spec", DEFINITIONS.values(), ids=DEFINITIONS.keys())


def some_subnets(net, count, seed=0):
    rng = random.Random(seed)
    return [net.space.smallest, net.space.largest, *(net.space.sample(rng) for _ in range(count))]


# The law.


@each_definition
def test_the_three_forms_agree(spec):
    net = vit(spec, 1)
    resident = net.resident(dtype=torch.float64)
    x = noise(net, 3)
    for subnet in some_subnets(net, 12):
        with torch.no_grad():
            trained, extracted = net(x, subnet), extract(net, subnet)(x)

        assert relative(resident(x, subnet), extracted) < 1e-12
        assert relative(trained, extracted) < 1e-12


@each_definition
def test_randomised_nets_tell_images_and_subnets_apart(spec):
    """Without this the laws would hold for a network that ignores its input."""
    net = vit(spec, 2)
    first, second, *_ = some_subnets(net, 0)
    x = noise(net, 2)
    with torch.no_grad():
        logits = net(x, first)

        assert relative(logits[0], logits[1]) > 0.1
        assert relative(net(x, second), logits) > 0.3


@each_definition
def test_the_largest_subnet_is_the_whole_network(spec):
    net = vit(replace(spec, widths=()), 3)  # so that the largest embedding is all of it
    whole = sum(p.numel() for p in net.parameters())

    assert sum(p.numel() for p in extract(net, net.space.largest).parameters()) == whole


@each_definition
def test_every_setting_makes_the_network_really_smaller(spec):
    net = vit(spec, 4)
    largest = net.space.largest

    def size(subnet):
        return sum(p.numel() for p in extract(net, subnet).parameters())

    for dimension in net.space.dimensions:
        smaller = net.space.subnet(**{**largest.config(), dimension.name: dimension.options[0]})
        elastic = len(dimension.options) > 1
        assert (size(smaller) < size(largest)) is elastic, dimension.name


def test_every_active_tensor_lies_inside_the_one_arena():
    net = vit(DEFINITIONS["autoformer"], 5)
    resident = net.resident()
    for subnet in some_subnets(net, 5):
        tensors = resident.tensors(subnet)

        assert len(tensors) > 20
        assert resident.arena.holds(tensors.values())


def test_the_resident_form_is_independent_of_the_trainable_net():
    net = vit(SMALL, 6)
    resident = net.resident(dtype=torch.float64)
    x = noise(net, 2)
    before = resident(x, net.space.largest)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()

    assert torch.equal(resident(x, net.space.largest), before)


@each_definition
def test_the_extracted_net_shares_no_storage(spec):
    net = vit(spec, 7)
    ours = {t.untyped_storage().data_ptr() for t in (*net.parameters(), *net.buffers())}
    plain = extract(net, net.space.largest)

    assert not ours & {
        t.untyped_storage().data_ptr() for t in (*plain.parameters(), *plain.buffers())
    }


def test_two_subnets_run_at_the_same_time():
    net = vit(SMALL, 8)
    subnets = some_subnets(net, 6)
    resident = net.resident(dtype=torch.float64)
    x = noise(net, 2)
    expected = {subnet: resident(x, subnet) for subnet in subnets}
    jobs = subnets * 10
    with ThreadPoolExecutor(4) as pool:
        for subnet, logits in zip(jobs, pool.map(lambda s: resident(x, s), jobs), strict=True):
            assert torch.equal(logits, expected[subnet])


def test_batches_do_not_mix_rows():
    net = vit(DEFINITIONS["autoformer"], 9)
    subnet = some_subnets(net, 1)[2]
    x = noise(net, 4)
    with torch.no_grad():
        alone = torch.cat([net(row[None], subnet) for row in x])

        assert relative(net(x, subnet), alone) < 1e-12


def test_half_precision_is_close():
    net = vit(SMALL, 10)
    resident = net.resident(dtype=torch.bfloat16)
    x = noise(net, 4)
    with torch.no_grad():
        exact = net(x, net.space.largest)

    assert relative(resident(x, net.space.largest).double(), exact) < 0.05


# Slices.


def test_running_a_subnet_copies_no_weight():
    """With two tokens, every activation is smaller than the smallest active matrix of a block."""
    spec = replace(SMALL, image_size=4, dim=64, heads=4, widths=(32, 64))
    net = vit(spec, 11)
    resident = net.resident()
    x = noise(net, 1).float()
    for subnet in some_subnets(net, 4):
        linear = [m for m in extract(net, subnet)[1:-1].modules() if isinstance(m, nn.Linear)]
        smallest = min(layer.weight.numel() for layer in linear) * 4  # bytes
        with torch.profiler.profile(profile_memory=True) as profiled:
            resident(x, subnet)
        largest = max(event.self_cpu_memory_usage for event in profiled.events())

        assert 0 < largest < smallest / 2


def test_slices_are_views():
    linear, heads = LinearSlice(8, 6), HeadSlice(8, 4, 2)

    assert linear.slice(3, 2).data_ptr() == linear.weight.data_ptr()
    assert heads.slice(8, 2).data_ptr() == heads.weight.data_ptr()
    assert heads.slice(8, 2).is_contiguous(), "heads of the full width are one block of memory"


def test_head_slice_is_the_first_heads_of_each_of_queries_keys_and_values():
    layer = HeadSlice(6, 4, 2)
    randomise(layer, 0)
    x = torch.randn(2, 3, 5)
    for got, rows, bias in zip(
        layer(x, 3), layer.weight.unbind(1), layer.bias.unbind(1), strict=True
    ):
        for head in range(3):
            expected = F.linear(x, rows[head, :, :5], bias[head])
            torch.testing.assert_close(got[:, head], expected)


def test_a_flat_bias_is_cut_before_it_is_split():
    layer = HeadSlice(4, 4, 2, flat_bias=True)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.copy_(torch.arange(24.0))
        q, k, v = layer(torch.randn(1, 1, 4), 2)  # 12 numbers remain: 4 each

    assert q.flatten().tolist() == [0, 1, 2, 3]
    assert k.flatten().tolist() == [4, 5, 6, 7]
    assert v.flatten().tolist() == [8, 9, 10, 11]


@torch.no_grad()
def cut_by_hand(whole, spec, subnet):
    """A timm model of the subnet's size with weights sliced from the full-size timm model.

    All layers of the subnet have the same heads and MLP width, and its embedding is head_dim times
    the heads, because timm knows nothing else.
    """
    (width,), (depth,) = subnet["w"], subnet["d"]
    heads, hidden = subnet["h"][0], int(width * subnet["m"][0])
    small = timm_model(spec, width, depth, heads, hidden / width)
    state = whole.state_dict()
    kept = [floor(i / Fraction(depth, spec.depth)) for i in range(depth)]
    for name, tensor in small.state_dict().items():
        parts = name.split(".")
        if parts[0] == "blocks":
            parts[1] = str(kept[int(parts[1])])
        source = state[".".join(parts)]
        if "qkv" in name:
            source = source.unflatten(0, (3, spec.heads, spec.head_dim))[:, :heads].flatten(0, 2)
        tensor.copy_(source[tuple(slice(0, n) for n in tensor.shape)])
    return small


def timm_model(spec, width, depth, heads, ratio):
    return VisionTransformer(
        spec.image_size,
        spec.patch,
        spec.in_channels,
        spec.num_classes,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        mlp_ratio=ratio,
    ).eval()


@pytest.mark.parametrize(
    ("depth", "heads", "ratio"), [(4, 4, 3.0), (3, 4, 1.5), (2, 2, 0.5), (1, 1, 3.0)]
)
def test_a_subnet_is_the_timm_model_cut_to_its_size(depth, heads, ratio):
    spec = replace(SMALL, widths=(6, 12, 24))
    whole = timm_model(spec, spec.dim, spec.depth, spec.heads, spec.mlp_ratio)
    randomise(whole, 12)
    net = vit(spec)
    load_vit(net, whole.state_dict())  # as it is: sorting would reorder what is cut
    kept = every_other(depth, spec.depth)
    subnet = net.space.subnet(
        d=depth,
        w=heads * spec.head_dim,
        h=[heads if layer in kept else 1 for layer in range(spec.depth)],
        m=[ratio if layer in kept else 0.5 for layer in range(spec.depth)],
    )
    x = noise(net, 3)
    with torch.no_grad():
        expected = cut_by_hand(whole, spec, subnet).double()(x)

        assert relative(expected[0], expected[1]) > 0.1
        assert relative(net(x, subnet), expected) < 1e-6  # timm's weights were rounded to float32


def test_training_a_narrow_subnet_leaves_the_rest_untouched():
    net = vit(replace(SMALL, widths=(12, 24)), 13).train()
    net(noise(net, 2), net.space.smallest).sum().backward()
    block = net.blocks()[0]
    gradient = block.attention.qkv.weight.grad

    assert gradient[:1, ..., :12].abs().min() > 0
    assert gradient[1:].abs().max() == gradient[..., 12:].abs().max() == 0
    assert block.fc1.weight.grad[6:].abs().max() == 0
    assert all(p.grad is None for p in net.blocks()[1].parameters()), "a layer that does not run"


# Depth.


@pytest.mark.parametrize(
    ("depth", "kept"),
    [
        (12, list(range(12))),
        (9, [0, 1, 2, 4, 5, 6, 8, 9, 10]),
        (6, [0, 2, 4, 6, 8, 10]),
    ],
)
def test_every_other_keeps_the_layers_of_dynabert(depth, kept):
    assert list(every_other(depth, 12)) == kept


def test_every_other_is_the_floor_of_i_over_the_depth_multiplier():
    for layers in range(1, 30):
        for depth in range(1, layers + 1):
            exact = [floor(i / Fraction(depth, layers)) for i in range(depth)]
            assert list(every_other(depth, layers)) == exact


def test_a_spread_stage_runs_the_kept_layers_in_order():
    stage = SpreadLayerSelect([nn.Identity() for _ in range(4)])
    ran = []
    stage(torch.zeros(1), 3, lambda index, block, x: ran.append(index) or block(x))

    assert ran == [0, 1, 2]
    ran.clear()
    stage(torch.zeros(1), 2, lambda index, block, x: ran.append(index) or block(x))
    assert ran == [0, 2]


def test_a_prefix_stage_runs_the_first_layers():
    net = vit(replace(SMALL, depth_rule="prefix"), 14)
    x = noise(net, 2)
    subnet = net.space.subnet(d=2, h=4, m=3.0)
    with torch.no_grad():
        before = net(x, subnet)
        for block in net.blocks()[2:]:
            randomise(block, 99)

        assert torch.equal(net(x, subnet), before)
        randomise(net.blocks()[1], 99)
        assert relative(net(x, subnet), before) > 0.01


# The space.


def test_settings_of_layers_that_do_not_run_make_no_difference():
    space = SMALL.space()
    a = space.subnet(d=2, h=[4, 1, 2, 1], m=[3, 0.5, 1.5, 0.5])
    b = space.subnet(d=2, h=[4, 4, 2, 4], m=[3, 3, 1.5, 3])  # layers 0 and 2 run

    assert a == b
    assert a.id == b.id
    assert str(a) == "d=2 h=4,2 m=3,1.5"
    assert space.from_json(a.to_json()) == a


def test_the_size_is_the_number_of_subnets():
    spec = replace(SMALL, depth=3, depths=(1, 2, 3), mlp_ratios=(1.0, 3.0), widths=(12, 24))

    assert spec.space().size == sum(1 for _ in spec.space())


def test_settings_without_a_choice_may_be_left_out():
    space = SMALL.space()

    assert space.subnet(d=4, h=4, m=3.0) == space.subnet(d=4, h=4, m=3.0, w=24) == space.largest
    with pytest.raises(ValueError, match="missing: h"):
        space.subnet(d=4, m=3.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch": 5}, "do not tile"),
        ({"heads": 5, "head_counts": ()}, "do not divide"),
        ({"depth_rule": "random"}, "depth_rule"),
        ({"pool": "max"}, "pool"),
        ({"class_token": False}, "class token"),
        ({"distilled": True, "pool": "avg"}, "distilled"),
        ({"depths": (0, 2)}, "depths must be above 0"),
        ({"depths": (2, 2)}, "depths must ascend"),
        ({"depths": (2, 5)}, "depths must ascend"),
        ({"widths": (24, 12)}, "widths must ascend"),
        ({"distilled": True, "max_relative_position": 3}, "relative positions"),
    ],
)
def test_a_definition_that_does_not_fit_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)


# Normalisation.


@each_definition
def test_nothing_needs_calibrating(spec):
    """LayerNorm has no running statistics: every subnet runs as it is, and calibrating is free."""
    net = vit(spec, 15)
    calibrate(net, [net.space.smallest], [])  # with batch norm this would be an error

    assert net.norms() == {}
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in net.modules())
    assert len(net.statistics) == 0
    x = noise(net, 1)
    for subnet in some_subnets(net, 5):
        assert net(x, subnet).isfinite().all()


def test_training_and_evaluation_mode_compute_the_same():
    net = vit(SMALL, 16)
    x = noise(net, 2)
    with torch.no_grad():
        assert torch.equal(net.train()(x, net.space.smallest), net.eval()(x, net.space.smallest))


# Building, saving, training.


def test_a_saved_net_comes_back(tmp_path):
    net = create_supernet("elastic_vit", **vars_of(DEFINITIONS["autoformer"]))
    randomise(net, 17)
    save(net, tmp_path / "vit.safetensors")
    again = create_supernet("elastic_vit", checkpoint=tmp_path / "vit.safetensors")
    x = noise(net, 2).float()

    assert again.spec == net.spec
    for subnet in some_subnets(net, 3):
        with torch.no_grad():
            assert torch.equal(net(x, subnet), again(x, subnet))


def vars_of(spec):
    """A definition as it comes out of a file: lists for tuples."""
    return json.loads(json.dumps(vit(spec).definition()))


@each_definition
def test_the_definition_builds_the_same_architecture_from_json(spec):
    fields = vars_of(spec)

    assert ViTDefinition.from_json(fields) == spec
    assert create_supernet("elastic_vit", **fields).spec == spec


@pytest.mark.parametrize("model", sorted(PRESETS))
def test_every_preset_is_a_valid_definition(model):
    with torch.device("meta"):
        net = create_supernet("elastic_vit", model=model, num_classes=5)

    assert net.space.smallest != net.space.largest
    assert net.spec.num_classes == len(net.labels) == 5


def test_an_unknown_model_is_refused_with_those_that_exist():
    with pytest.raises(ValueError, match=r"no elastic_vit model 'vit_huge'; .*deit_small"):
        create_supernet("elastic_vit", model="vit_huge")


@pytest.mark.parametrize(
    "model", ["vit_small_patch16_224", "deit_tiny_patch16_224", "deit3_base_patch16_224"]
)
def test_images_are_prepared_as_timm_prepares_them(model):
    import timm

    config = timm.get_pretrained_cfg(model)
    step = preprocessing(model, ViTDefinition())

    assert (step.mean, step.std, step.crop) == (config.mean, config.std, config.crop_pct)


def test_training_learns():
    torch.manual_seed(0)
    spec = replace(SMALL, num_classes=2, in_channels=1)
    net = create_supernet("elastic_vit", **vars_of(spec))

    def batch(step):
        generator = torch.Generator().manual_seed(step)
        labels = torch.randint(0, 2, (16,), generator=generator)
        return torch.randn(16, 1, 12, 12, generator=generator) + labels[:, None, None, None], labels

    losses = []
    train(
        net,
        lambda first: (batch(i) for i in range(first, 40)),
        TrainOptions(steps=40, learning_rate=3e-3),
        progress=lambda step: losses.append(step.largest_loss),
    )
    images, labels = batch(1000)
    with torch.no_grad():
        for subnet in (net.space.smallest, net.space.largest):
            assert (net(images, subnet).argmax(1) == labels).float().mean() > 0.9
    assert losses[-1] < 0.5 * losses[0]
