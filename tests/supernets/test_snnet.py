"""SN-Net's own ResNet checkpoints: built here under its names, run as its code runs them."""

import pytest
import torch

from supernets import CheckpointError, create_supernet, save
from supernets.stitched_resnet import stitched_resnet
from supernets.stitches.anchors import library_model
from tests.supernets.helpers import relative

# (stage, front block, back block) -> stitching layer, as SN-Net's code maps R18 to R50.
MAPPING = {
    (1, 0, 1): 0, (1, 1, 2): 0, (1, 1, 3): 1,
    (2, 0, 1): 0, (2, 0, 2): 0, (2, 1, 3): 0, (2, 1, 4): 1, (2, 1, 5): 1,
}  # fmt: skip
WIDTHS = {1: (128, 512), 2: (256, 1024)}
CLASSES = 6


@pytest.fixture(scope="module", name="theirs")
@torch.no_grad()
def their_checkpoint():
    """The timm anchors, and the state dict that SN-Net would save for them."""
    torch.manual_seed(0)
    anchors = []
    for name in ("resnet18", "resnet50"):
        model = library_model(name, "timm", num_classes=CLASSES)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0.0, 0.2)
                module.momentum = 1.0
        model.train()(torch.randn(4, 3, 64, 64))
        anchors.append(model.eval())
    state = {
        f"anchors.{i}.{n}": t for i, m in enumerate(anchors) for n, t in m.state_dict().items()
    }
    for stage, (front, back) in WIDTHS.items():
        for layer in range(2):
            prefix = f"stitch_layers.{stage - 1}.0.{layer}.transform"
            state[f"{prefix}.weight"] = torch.randn(back, front, 1, 1) / front**0.5
            state[f"{prefix}.bias"] = torch.randn(back)
    return anchors, state


def run_theirs(anchors, state, stage, front_block, back_block, x):
    """Front blocks, the convolution with no activation, back blocks: by timm's own modules."""
    front, back = anchors
    layers = [[m.layer1, m.layer2, m.layer3, m.layer4] for m in anchors]
    y = front.maxpool(front.act1(front.bn1(front.conv1(x))))
    for blocks in layers[0][:stage]:
        y = blocks(y)
    y = layers[0][stage][: front_block + 1](y)
    prefix = f"stitch_layers.{stage - 1}.0.{MAPPING[stage, front_block, back_block]}.transform"
    y = torch.nn.functional.conv2d(y, state[f"{prefix}.weight"], state[f"{prefix}.bias"])
    y = layers[1][stage][back_block:](y)
    for blocks in layers[1][stage + 1 :]:
        y = blocks(y)
    return back.fc(back.global_pool(y))


def snnet(**more):
    return stitched_resnet(
        num_classes=CLASSES, image_size=64, positions="snnet", stitch_relu=False, **more
    ).eval()


def test_every_configuration_gives_what_snnet_gives(theirs, tmp_path):
    anchors, state = theirs
    file = tmp_path / "resnet_18_50.pth"
    torch.save({"state_dict": state}, file)
    net = create_supernet(
        "stitched_resnet", checkpoint=file, num_classes=CLASSES, image_size=64,
        positions="snnet", stitch_relu=False,
    )  # fmt: skip
    x = torch.randn(2, 3, 64, 64)
    settings = []
    with torch.no_grad():
        for index in range(2):
            assert relative(net(x, net.space.anchor(index)), anchors[index](x)) < 1e-4
        for subnet in net.space.stitches:
            where = tuple(int(subnet[n][0]) for n in ("stage", "front_block", "back_block"))
            expected = run_theirs(anchors, state, *where, x)
            assert relative(expected[0], expected[1]) > 0.05
            assert relative(net(x, subnet), expected) < 1e-4
            settings.append(where)
    assert settings == list(MAPPING)
    assert len(net.statistics) == 0, "shared statistics do not count as calibrated"


def test_layers_that_snnet_shares_are_resident_once():
    net = snnet()
    by_layer = {net.stitch(at) for at in net.space.positions}

    assert len(net.space.positions) == 8
    assert len(by_layer) == 4


def test_our_names_for_stitches_are_theirs(theirs):
    _, state = theirs
    ours = {n for n in snnet().state_dict() if n.startswith("stitch_layers.")}

    assert ours == {n for n in state if n.startswith("stitch_layers.")}


def test_norms_kept_for_augmented_images_are_left_aside(theirs):
    """Trained with split batch norm, a checkpoint has more norms than evaluation uses."""
    _, state = theirs
    net = snnet()
    net.load_foreign({**state, "anchors.0.bn1.aux_bn.0.weight": torch.zeros(64)})

    assert torch.equal(net.anchor(0).bn1.weight, state["anchors.0.bn1.weight"])


def test_a_saved_net_keeps_the_shared_statistics(theirs, tmp_path):
    _, state = theirs
    net = snnet()
    net.load_foreign(state)
    save(net, tmp_path / "net.safetensors")
    back = create_supernet("stitched_resnet", checkpoint=tmp_path / "net.safetensors")
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for subnet in list(net.space)[::4]:
            assert torch.equal(back(x, subnet), net(x, subnet))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.clear(), "missing: stitch_layers.0.0.0.transform.weight"),
        (lambda s: s.pop("anchors.1.layer4.2.bn3.running_mean"), "layer4.2.bn3.running_mean"),
        (lambda s: s.pop("stitch_layers.1.0.1.transform.bias"), "1.0.1.transform.bias"),
        (lambda s: s.update({"stitch_layers.0.1.0.x": torch.zeros(1)}), "unexpected: stitch_l"),
        (
            lambda s: s.update({"stitch_layers.0.0.0.transform.weight": torch.zeros(512, 128)}),
            r"has shape \(512, 128\), not \(512, 128, 1, 1\)",
        ),
    ],
    ids=["empty", "no-statistics", "no-stitch", "unexpected", "shape"],
)
def test_a_wrong_checkpoint_is_refused_and_changes_nothing(theirs, change, message):
    state = dict(theirs[1])
    net = snnet()
    before = {n: p.clone() for n, p in net.named_parameters()}
    change(state)
    with pytest.raises(CheckpointError, match=message):
        net.load_foreign(state)

    assert all(torch.equal(p, before[n]) for n, p in net.named_parameters())
    assert net.statistics.shared is None


@pytest.mark.parametrize("options", [{"positions": "all"}, {"stitch_relu": True}])
def test_a_net_with_other_stitches_says_how_to_create_the_right_one(theirs, options):
    state = dict(theirs[1])
    net = stitched_resnet(
        **{"num_classes": CLASSES, "positions": "snnet", "stitch_relu": False, **options}
    )
    with pytest.raises(CheckpointError, match='positions="snnet", stitch_relu=False'):
        net.load_foreign(state)
