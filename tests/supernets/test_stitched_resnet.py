"""Stitched ResNets: equal to timm and torchvision at the anchors, and in all three forms."""

import numpy as np
import pytest
import torch

from supernets import CheckpointError, MissingStatistics, calibrate, create_supernet, extract, save
from supernets.stitched_resnet import anchor_shapes, stitched_resnet
from supernets.stitches.anchors import library_model, read_library, resnet_definition
from supernets.stitches.stitch_fit import LeastSquares, initialise_stitches
from tests.supernets.helpers import randomise, relative

SIZE = 40  # pixels, as five halvings then leave 2x2: a transposed or shifted feature shows


def small_net(seed=0, anchors=("resnet18", "resnet50"), **more):
    """Narrow anchors in float64, every parameter random."""
    torch.manual_seed(seed)
    net = stitched_resnet(anchors=anchors, num_classes=7, image_size=SIZE, width=8, **more)
    randomise(net, seed)
    unit_gain_norms(net, seed)
    return net.double().eval()


@torch.no_grad()
def unit_gain_norms(net, seed):
    """Norms are called bn1, downsample.1...: vectors that `randomise` takes for biases."""
    generator = torch.Generator().manual_seed(seed + 1)
    for norm in net.norms().values():
        norm.weight.uniform_(0.5, 1.5, generator=generator)


def images(count, seed=0, size=SIZE, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, size, size, dtype=dtype, generator=generator)


def calibrated(net):
    for index, subnet in enumerate(net.space):
        calibrate(net, [subnet], [images(4, seed=100 + index)])
    return list(net.space)


@torch.no_grad()
def randomised_library_model(name, library, seed, **options):
    """Random everywhere, with statistics that keep the features alive."""
    torch.manual_seed(seed)
    model = library_model(name, library, **options)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, torch.nn.BatchNorm2d):
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(0.0, 0.2)
            module.momentum = 1.0
    model.train()
    model(torch.randn(4, 3, 64, 64))
    return model.eval()


@pytest.mark.parametrize(
    ("library", "names"),
    [("timm", ("resnet18", "resnet50")), ("torchvision", ("resnet34", "resnet50"))],
)
def test_anchors_give_what_the_library_gives_at_full_size(library, names):
    net = create_supernet("stitched_resnet", anchors=names, library=library)
    x = torch.randn(1, 3, 224, 224)
    for index, name in enumerate(names):
        theirs = randomised_library_model(name, library, seed=index)
        net.load_anchor(index, theirs.state_dict())
        subnet = net.space.anchor(index)
        with torch.no_grad():
            expected = theirs(x)
            assert relative(theirs(x.flip(3) * 0.5), expected) > 0.1, "it hears its input"
            assert relative(net(x, subnet), expected) < 1e-4
            assert relative(extract(net, subnet)(x), expected) < 1e-4
        assert subnet in net.statistics, "an anchor is calibrated by its own statistics"


@pytest.mark.parametrize(
    ("library", "name"), [("timm", "resnet26"), ("torchvision", "wide_resnet50_2")]
)
def test_other_plain_resnets_are_read_off_the_library(library, name):
    net = stitched_resnet(anchors=("resnet18", name), library=library, image_size=64).eval()
    theirs = randomised_library_model(name, library, seed=5)
    net.load_anchor(1, theirs.state_dict())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = theirs.double()(x.double())
        assert relative(net.double()(x.double(), net.space.largest), expected) < 1e-9


def narrow_state(net, index):
    """Weights that fit a narrow anchor, which no library can make."""
    return {name: torch.rand(shape) for name, shape in anchor_shapes(net.anchor(index)).items()}


@pytest.mark.parametrize("library", ["timm", "torchvision"])
@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"])
def test_the_known_structures_are_those_of_both_libraries(library, name):
    assert resnet_definition(name) == read_library(name, library)


@pytest.mark.parametrize(
    ("name", "library", "message"),
    [
        ("resnet50d", "timm", "differs|it has"),
        ("resnext50_32x4d", "torchvision", "conv"),
        ("resnetblur50", "timm", "it has BlurPool2d"),
        ("seresnet50", "timm", "it has"),
        ("resnet7", "timm", "has no model 'resnet7'"),
        ("resnet18", "keras", "not 'keras'"),
    ],
)
def test_a_network_of_another_form_is_refused(name, library, message):
    with pytest.raises(ValueError, match=message):
        read_library(name, library)


@pytest.mark.parametrize(
    ("anchors", "options"),
    [
        (("resnet18", "resnet50"), {}),
        (("resnet18", "resnet34", "resnet50"), {}),
        (("resnet34", "resnet50"), {"stitch_relu": False}),
        (("resnet18", "resnet50"), {"positions": "snnet", "stitch_relu": False}),
    ],
    ids=["18-50", "18-34-50", "34-50-linear", "snnet"],
)
def test_the_three_forms_agree_for_every_subnet(anchors, options):
    net = small_net(1, anchors, **options)
    subnets = calibrated(net)
    resident = net.resident(dtype=torch.float64)
    x = images(2, seed=9)
    seen = []
    for subnet in subnets:
        with torch.no_grad():
            trained, extracted = net(x, subnet), extract(net, subnet)(x)
        assert relative(trained, extracted) < 1e-12
        assert relative(resident(x, subnet), extracted) < 1e-12
        assert relative(trained[0], trained[1]) > 0.02, "two images differ"
        assert all(relative(trained, other) > 1e-3 for other in seen), "no two subnets are equal"
        seen.append(trained)


def test_a_stitch_is_the_front_of_one_model_and_the_back_of_the_other():
    """By hand from torchvision's own modules, with a convolution of PyTorch's between."""
    net = stitched_resnet(library="torchvision", image_size=64).eval()
    fronts, backs = (randomised_library_model(n, "torchvision", i)
                     for i, n in enumerate(net.spec.anchors))  # fmt: skip
    net.load_anchor(0, fronts.state_dict())
    net.load_anchor(1, backs.state_dict())
    at = net.space.subnet(front=0, back=1, stage=2, front_block=1, back_block=3)
    # The test of running statistics is elsewhere: here both parts keep their anchors' own.
    net.statistics[at] = {
        **net.statistics[net.space.anchor(0)],
        **net.statistics[net.space.anchor(1)],
    }
    torch.nn.init.normal_(net.stitch(net.space.position(at)).transform.bias)
    x = torch.randn(2, 3, 64, 64)
    stitch = net.stitch(net.space.position(at)).transform
    with torch.no_grad():
        y = fronts.maxpool(fronts.relu(fronts.bn1(fronts.conv1(x))))
        y = fronts.layer3[:2](fronts.layer2(fronts.layer1(y)))
        y = torch.relu(torch.nn.functional.conv2d(y, stitch.weight, stitch.bias))
        y = backs.layer4(backs.layer3[3:](y))
        expected = backs.fc(backs.avgpool(y).flatten(1))

        assert relative(net(x, at), expected) < 1e-4


# Multiply-accumulates by SN-Net's published evaluation of its R18-R50 checkpoint, configurations
# 0 to 9 (stitching_resnet_swin/results/stitches_res_resnet_18_50.txt), counted by fvcore: it adds
# two per element that a batch norm puts out, and one per element that goes into the pooling.
PUBLISHED = [1819065856, 4111512576, 3755463680, 3767505920, 3547935744, 3134686208, 2915718144,
             2928161792, 2709193728, 2490225664]  # fmt: skip


def test_snnets_configurations_cost_what_snnet_published():
    from torch.utils.flop_counter import FlopCounterMode

    net = stitched_resnet(positions="snnet", stitch_relu=False).to("meta")
    counted = []
    for subnet in net.space:
        extra = 0

        def norm(x, layer, weight, bias, eps):
            nonlocal extra
            extra += 2 * x.numel()
            return x

        with FlopCounterMode(display=False) as flops:
            net.run(torch.empty(1, 3, 224, 224, device="meta"), subnet, norm)
        pooled = net.anchor(int(subnet["back"][0])).fc.in_features * 7 * 7
        counted.append(flops.get_total_flops() // 2 + extra + pooled)

    assert counted == PUBLISHED


def test_active_parameters_are_fewer_for_cheaper_subnets():
    net = small_net(2)
    calibrated(net)
    count = {s: sum(p.numel() for p in extract(net, s).parameters()) for s in net.space}
    largest = count[net.space.largest]

    assert min(count.values()) == count[net.space.smallest] < 0.6 * largest
    late = net.space.subnet(front=0, back=1, stage=3, front_block=1, back_block=2)
    assert count[net.space.smallest] < count[late] < largest


def test_every_tensor_that_a_stitch_reads_lies_in_the_one_arena():
    net = small_net(3)
    subnets = calibrated(net)
    resident = net.resident()
    for subnet in subnets:
        tensors = resident.tensors(subnet)
        assert len(tensors) > 50
        assert resident.arena.holds(tensors.values())


def test_the_extracted_net_shares_no_storage():
    net = small_net(4)
    subnets = calibrated(net)
    ours = {t.untyped_storage().data_ptr() for t in net.state_dict().values()}
    ours |= {t.untyped_storage().data_ptr()
             for s in subnets for e in net.statistics[s].values()
             for t in (e.mean, e.var)}  # fmt: skip
    for subnet in subnets:
        plain = extract(net, subnet)
        assert not ours & {t.untyped_storage().data_ptr() for t in plain.state_dict().values()}


def test_calibrating_one_stitch_changes_no_other():
    net = small_net(5)
    subnets = calibrated(net)
    x = images(2, seed=3)
    with torch.no_grad():
        before = [net(x, s) for s in subnets]
        calibrate(net, [subnets[4]], [3.0 * images(4, seed=1)])
        after = [net(x, s) for s in subnets]

    changed = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert changed == [index == 4 for index in range(len(subnets))]


def test_a_subnet_without_statistics_is_an_error_in_every_form():
    net = small_net(6)
    calibrate(net, [net.space.smallest], [images(2)])
    stitch = net.space.stitches[0]
    for call in (net, net.resident()):
        with pytest.raises(MissingStatistics):
            call(images(1).float(), stitch)
    with pytest.raises(MissingStatistics):
        extract(net, stitch)


def test_a_saved_net_comes_back_whole(tmp_path):
    net = small_net(7, ("resnet18", "resnet34", "resnet50"), stitch_relu=False).float()
    for subnet in (net.space.smallest, net.space.stitches[9]):
        calibrate(net, [subnet], [images(4).float()])
    save(net, tmp_path / "net.safetensors")
    back = create_supernet("stitched_resnet", checkpoint=tmp_path / "net.safetensors")

    assert back.definition() == net.definition()
    assert list(back.statistics) == list(net.statistics)
    x = images(2, dtype=torch.float32)
    for subnet in net.statistics:
        with torch.no_grad():
            assert torch.equal(back(x, subnet), net(x, subnet))


def test_loading_an_anchor_drops_what_belonged_to_the_old_weights():
    net = small_net(0, ("resnet18", "resnet34", "resnet50"))
    for subnet in net.space:
        net.statistics[subnet] = {}
    net.load_anchor(2, narrow_state(net, 2))
    left = {subnet for subnet in net.statistics if subnet != net.space.largest}

    assert left == {s for s in net.space if 2 not in (s["front"][0], s["back"][0])}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.clear(), "missing: conv1.weight"),
        (lambda s: s.pop("layer3.1.bn2.running_var"), "missing: layer3.1.bn2.running_var"),
        (lambda s: s.update({"layer1.0.se.weight": torch.zeros(1)}), "unexpected: layer1.0.se"),
        (lambda s: s.update({"fc.bias": torch.zeros(5)}), r"fc.bias has shape \(5,\), not \(7,\)"),
        (lambda s: s["conv1.weight"].fill_(float("nan")), "conv1.weight is not finite"),
        (lambda s: s["bn1.running_var"].fill_(-1.0), "bn1.running_var has negative"),
    ],
    ids=["empty", "partial", "unexpected", "shape", "nan", "variance"],
)
def test_wrong_anchor_weights_are_refused_and_change_nothing(change, message):
    net = small_net(0)
    before = {n: p.clone() for n, p in net.named_parameters()}
    state = narrow_state(net, 0)
    change(state)
    with pytest.raises(CheckpointError, match=message):
        net.load_anchor(0, state)

    assert all(torch.equal(p, before[n]) for n, p in net.named_parameters())
    assert len(net.statistics) == 0


def test_anchors_in_the_wrong_order_or_alone_are_refused():
    with pytest.raises(ValueError, match="from fast to slow"):
        stitched_resnet(anchors=("resnet50", "resnet18"))
    with pytest.raises(ValueError, match="two different anchors"):
        stitched_resnet(anchors=("resnet50",))
    with pytest.raises(ValueError, match="no anchor 2"):
        stitched_resnet().load_anchor(2, {})


def test_least_squares_is_numpys_solution_of_the_ridge_problem():
    rng = np.random.default_rng(0)
    x, y = rng.normal(2.0, 1.0, (400, 6)), rng.normal(-1.0, 3.0, (400, 4))
    fit = LeastSquares()
    for part in (slice(0, 100), slice(100, 400)):  # [N, C, H, W] = [n / 4, C, 2, 2]
        fit.add(*(torch.from_numpy(a[part]).view(-1, 2, 2, a.shape[1]).movedim(-1, 1)
                  for a in (x, y)))  # fmt: skip
    weight, bias = fit.solve(ridge=0.05)
    # A ridge is what rows of sqrt(penalty) with target zero do to centred data.
    centred = x - x.mean(0)
    penalty = 0.05 * np.mean(np.sum(centred**2, axis=0))
    expected = np.linalg.lstsq(
        np.concatenate([centred, np.sqrt(penalty) * np.eye(6)]),
        np.concatenate([y - y.mean(0), np.zeros((6, 4))]),
        rcond=None,
    )[0].T
    assert np.allclose(weight.numpy(), expected, rtol=1e-10)
    assert np.allclose(bias.numpy(), y.mean(0) - expected @ x.mean(0), rtol=1e-10)


def test_least_squares_reproduces_features_that_are_linear():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 5, 6, 6, generator=generator).relu()
    weight = torch.randn(9, 5, generator=generator)
    bias = torch.randn(9, generator=generator)
    y = torch.einsum("dc,nchw->ndhw", weight, x) + bias[:, None, None]
    fit = LeastSquares()
    fit.add(x, y)
    found, offset = fit.solve()

    assert relative(found.float(), weight) < 1e-3
    assert relative(offset.float(), bias) < 1e-3


def test_constant_features_give_the_mean_of_the_target():
    fit = LeastSquares()
    fit.add(torch.full((2, 3, 2, 2), 4.0), torch.arange(8.0).view(2, 1, 2, 2))
    weight, bias = fit.solve()

    assert torch.equal(weight, torch.zeros(1, 3).double())
    assert bias.item() == pytest.approx(3.5)
    with pytest.raises(ValueError, match="at least one batch"):
        LeastSquares().solve()


@pytest.mark.parametrize("which", ["all", "snnet"])
def test_stitches_are_fitted_to_what_the_back_block_is_used_to_get(which):
    """Features come from hooks on the libraries' models, solutions from numpy."""
    net = stitched_resnet(num_classes=4, positions=which, image_size=64)
    models = [randomised_library_model(n, "timm", i, num_classes=4)
              for i, n in enumerate(net.spec.anchors)]  # fmt: skip
    for index, model in enumerate(models):
        net.load_anchor(index, model.state_dict())
    batches = [torch.randn(3, 3, 64, 64) for _ in range(2)]
    initialise_stitches(net, iter(batches), ridge=1e-4)

    def rows(model, stage, block):
        kept = []
        module = getattr(model, f"layer{stage + 1}")[block]
        hook = module.register_forward_hook(lambda _m, _i, out: kept.append(out.clone()))
        with torch.no_grad():
            for batch in batches:
                model(batch)
        hook.remove()
        return torch.cat(kept).movedim(1, -1).flatten(0, -2).double().numpy()

    def solution(at):
        x, y = (
            rows(models[0], at.stage, at.front_block),
            rows(models[1], at.stage, at.back_block - 1),
        )
        centred = x - x.mean(0)
        penalty = 1e-4 * np.mean(np.sum(centred**2, axis=0))
        size = x.shape[1]
        return np.linalg.lstsq(
            np.concatenate([centred, np.sqrt(penalty) * np.eye(size)]),
            np.concatenate([y - y.mean(0), np.zeros((size, y.shape[1]))]),
            rcond=None,
        )[0].T

    settings = [(1, 0, 1), (1, 1, 2)] if which == "snnet" else [(0, 0, 1), (2, 1, 6)]
    positions = [p for p in net.space.positions
                 if (p.stage, p.front_block, p.back_block) in settings]  # fmt: skip
    assert len(positions) == 2
    expected = [solution(at) for at in positions]
    if which == "snnet":  # both use layer 0, which gets the mean
        expected = [sum(expected) / 2] * 2
    for at, weight in zip(positions, expected, strict=True):
        found = net.stitch(at).transform.weight.detach().double()[:, :, 0, 0]
        assert relative(found, torch.from_numpy(weight)) < 1e-3


def test_fitting_needs_calibrated_anchors():
    net = small_net(8)
    with pytest.raises(MissingStatistics):
        initialise_stitches(net, [images(2)])


def test_fitting_drops_the_statistics_of_stitches_and_keeps_those_of_anchors():
    net = small_net(9)
    calibrated(net)
    initialise_stitches(net, [images(8)])

    assert set(net.statistics) == {net.space.smallest, net.space.largest}
