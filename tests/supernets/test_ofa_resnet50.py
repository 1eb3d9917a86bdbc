"""OFA ResNet50: its space, its three forms, and its sizes as counted in the `ofa` package."""

import random
from dataclasses import replace

import pytest
import torch

from supernets import MissingStatistics, calibrate, create_supernet, extract, save
from supernets.norms.statistics import LayerStatistics
from supernets.ofa.ofa_resnet_space import ResNetSpace
from supernets.ofa_resnet50 import OFAResNet50, ResNet50Definition
from tests.supernets.helpers import calibrated, images, randomise, relative

SMALL = ResNet50Definition(
    num_classes=7,
    in_channels=1,
    image_size=21,  # odd, so that pooling meets half windows
    stem_width=32,
    stage_widths=(48, 64, 96),
    strides=(1, 2, 2),
    base_depths=(1, 2, 1),
    expands=(0.25, 0.35, 0.5),
    width_mults=(0.5, 0.75, 1.0),
)
DEFINITIONS = {
    "three-stages": SMALL,
    "colour-two-stages": replace(
        SMALL,
        in_channels=3,
        stage_widths=(32, 32),
        strides=(2, 1),
        base_depths=(1, 1),
        depths=(0, 1),
        expands=(0.5, 1.0),
        width_mults=(0.5, 1.0),
    ),
    "nothing-elastic-but-depth": replace(SMALL, expands=(0.25,), width_mults=(1.0,), depths=(0, 2)),
}


def small_net(seed: int = 0, definition: ResNet50Definition = SMALL) -> OFAResNet50:
    """A small member of the family in float64, every parameter random, in evaluation mode."""
    torch.manual_seed(seed)
    net = OFAResNet50(definition)
    randomise(net, seed)
    return net.double().eval()


@pytest.mark.parametrize("definition", DEFINITIONS.values(), ids=DEFINITIONS.keys())
def test_the_three_forms_agree(definition):
    net = small_net(1, definition)
    subnets = calibrated(net, 12)
    resident = net.resident(dtype=torch.float64)
    x = images(net, 3, seed=9)
    for subnet in subnets:
        with torch.no_grad():
            trained, extracted = net(x, subnet), extract(net, subnet)(x)

        assert relative(extracted[0], extracted[1]) > 0.05, "the net must tell images apart"
        assert relative(resident(x, subnet), extracted) < 1e-12
        assert relative(trained, extracted) < 1e-12
        assert resident.arena.holds(resident.tensors(subnet).values())
    assert len(set(subnets)) > 5


def test_the_memory_layout_of_the_input_changes_no_answer():
    net = small_net(2)
    subnet = calibrated(net, 1)[2]
    x = images(net, 2)
    with torch.no_grad():
        other = net(x.contiguous(memory_format=torch.channels_last), subnet)

        assert relative(net(x, subnet), other) < 1e-12


def test_the_extracted_net_shares_no_storage():
    net = small_net(3)
    largest = calibrated(net, 0)[1]
    ours = {p.untyped_storage().data_ptr() for p in net.parameters()}
    plain = extract(net, largest)

    assert not ours & {p.untyped_storage().data_ptr() for p in plain.parameters()}
    assert sum(p.numel() for p in plain.parameters()) == sum(p.numel() for p in net.parameters())


def test_a_subnet_without_statistics_is_an_error_in_every_form():
    net = small_net(4)
    calibrated(net, 0)
    unknown = net.space.subnet(d=1, e=0.35, w=1)
    resident, x = net.resident(), images(net, 1)
    for call in (
        lambda: net(x, unknown),
        lambda: resident(x, unknown),
        lambda: extract(net, unknown),
    ):
        with pytest.raises(MissingStatistics, match=unknown.id):
            call()


def test_a_saved_net_comes_back_equal(tmp_path):
    net = small_net(5)
    subnets = calibrated(net, 4)
    net.float()
    save(net, tmp_path / "net.safetensors")
    again = create_supernet("ofa_resnet50", checkpoint=tmp_path / "net.safetensors")
    x = images(net, 2).float()

    assert again.definition() == net.definition()
    with torch.no_grad():
        for subnet in subnets:
            assert torch.equal(again(x, subnet), net(x, subnet))


def test_shared_statistics_come_back_equal(tmp_path):
    net = small_net(6)
    largest = calibrated(net, 0)[1]
    net.float()
    net.statistics.shared = net.statistics[largest]
    save(net, tmp_path / "net.safetensors")
    again = create_supernet("ofa_resnet50", checkpoint=tmp_path / "net.safetensors")
    x, subnet = images(net, 2).float(), net.space.subnet(d=1, e=0.35, w=1)
    with torch.no_grad():
        assert torch.equal(again(x, subnet), net(x, subnet))


def test_training_a_small_subnet_moves_its_slices_only():
    net = small_net(7).train()
    net(images(net, 4), net.space.smallest).square().mean().backward()
    wide = net.blocks()[0][0].conv2
    middle = net.widths(net.space.smallest).stages[0][1][0]

    assert wide.weight.grad[:middle, :middle].abs().min() > 0
    assert wide.weight.grad[middle:].abs().max() == 0
    assert wide.weight.grad[:, middle:].abs().max() == 0
    assert net.blocks()[0][1].conv1.weight.grad is None


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        ({"d": 2, "e": 0.35, "w": 2}, 48_105_992),
        ({"d": 1, "e": 0.25, "w": 1}, 15_860_768),
        ({"d": 0, "e": 0.2, "w": 0}, 6_539_280),
    ],
)
def test_published_subnets_have_the_parameters_counted_in_the_ofa_package(config, parameters):
    with torch.device("meta"):
        net = OFAResNet50(ResNet50Definition())
        net.statistics.shared = {
            layer: LayerStatistics(torch.zeros(len(n.weight)), torch.ones(len(n.weight)))
            for layer, n in net.norms().items()
        }
        plain = extract(net, net.space.subnet(**config))

    assert sum(p.numel() for p in plain.parameters()) == parameters


def test_widths_are_those_of_the_ofa_package():
    net = ResNet50Definition()

    assert [net.stem_middle(i) for i in range(3)] == [24, 24, 32]
    assert [net.stem(i) for i in range(3)] == [40, 48, 64]
    assert [[net.stage(s, i) for i in range(3)] for s in range(4)] == [
        [168, 208, 256],
        [336, 408, 512],
        [664, 816, 1024],
        [1328, 1640, 2048],
    ]
    middles = net.widths(net.space(), net.space().subnet(d=0, e=0.35, w=1)).stages
    assert [middle[0] for _, middle in middles] == [72, 144, 288, 576]


def test_settings_are_the_ofa_packages_own():
    space = ResNet50Definition().space()
    config = space.largest.config()

    assert {name: len(values) for name, values in config.items()} == {"d": 5, "e": 18, "w": 6}
    assert space.subnet(d=2, e=0.35 + 1e-9, w=2) == space.largest
    assert space.size == 2 * 3**6 * (3**2 + 3**3 + 3**4) ** 3 * (3**4 + 3**5 + 3**6)


def test_what_does_not_run_does_not_matter():
    space = ResNet50Definition().space()
    shallow = space.subnet(d=[0, 0, 2, 0, 2], e=0.2, w=1)
    ratios = [0.2] * 18
    for block in (2, 3, 12, 13):  # beyond the base depths 2 and 4 of stages 0 and 2
        ratios[block] = 0.35

    assert space.subnet(d=[0, 0, 2, 0, 2], e=ratios, w=1) == shallow
    assert space.subnet(d=[1, 0, 2, 0, 2], e=0.2, w=1) == shallow, "the stem's layer runs at 2 only"
    assert space.subnet(d=[2, 0, 2, 0, 2], e=0.2, w=1) != shallow
    ratios[4] = 0.35
    assert space.subnet(d=[0, 0, 2, 0, 2], e=ratios, w=1) != shallow


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"d": 3, "e": 0.2, "w": 0}, "d cannot be 3"),
        ({"d": 0, "e": 0.3, "w": 0}, "e cannot be 0.3"),
        ({"d": 0, "e": 0.2, "w": 0.65}, "w cannot be 0.65"),  # an index, not a multiplier
        ({"d": [0, 0], "e": 0.2, "w": 0}, "d needs 5 values"),
        ({"d": 0, "e": 0.2}, "missing: w"),
    ],
)
def test_a_wrong_setting_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        ResNet50Definition().space().subnet(**config)


def test_a_small_space_has_as_many_subnets_as_it_says():
    space = ResNetSpace("tiny", (1,), (0, 1), (0.2, 0.35), 2)

    assert len(list(space)) == space.size == 2 * 2**3 * (2 + 4)


def test_samples_and_mutations_reach_both_stems():
    space, rng = ResNet50Definition().space(), random.Random(0)
    stems = [space.sample(rng)["d"][0] for _ in range(200)]
    mutants = [space.mutate(space.smallest, rng, 0.3) for _ in range(50)]

    assert 70 < stems.count(2) < 130
    assert stems.count(0) + stems.count(2) == 200
    assert {mutant["d"][0] for mutant in mutants} == {0, 2}
    assert all(mutant in space for mutant in mutants)
    assert space.mutate(space.largest, rng, 0.0) == space.largest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strides": (1, 2)}, "one value per stage"),
        ({"base_depths": (0, 1, 1)}, "at least one block"),
        ({"expands": (0.5, 0.25)}, "ascend"),
        ({"width_mults": ()}, "at least one of them"),
        ({"expands": (-0.2, 0.25)}, "above 0"),
    ],
)
def test_a_definition_that_cannot_be_built_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)


def test_calibrating_one_subnet_changes_no_other():
    net = small_net(8)
    first, second = calibrated(net, 0)
    x = images(net, 2)
    with torch.no_grad():
        before = net(x, first)
        calibrate(net, [second], [images(net, 4, seed=77)])

        assert torch.equal(net(x, first), before)
