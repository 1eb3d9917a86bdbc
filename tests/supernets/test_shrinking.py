"""Progressive shrinking: the published phases, and what a phase lets through."""

import random
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from supernets.elastic import InvertedResidual
from supernets.learning.shrinking import boundaries, phase_at, progressive_phases
from supernets.norms.statistics import batch_statistics
from supernets.ofa.expand_order import sort_expansions
from supernets.ofa.ofa_resnet_space import ResNetSpace
from supernets.ofa_mobilenetv3 import MobileNetV3Definition
from supernets.ofa_resnet50 import OFAResNet50, ResNet50Definition
from supernets.space import Dimension, SearchSpace
from supernets.stitches.stitching import StitchSpace
from tests.supernets.helpers import SMALL, images, randomise, relative, small_net

PUBLISHED = MobileNetV3Definition().space()

# `train_ofa_net.py` of mit-han-lab/once-for-all: --task, --phase -> ks_list, expand_list,
# depth_list, n_epochs, warmup_epochs, base_lr, dynamic_batch_size.
THEIRS = [
    ((3, 5, 7), (6,), (4,), 120, 5, 3e-2, 1),  # kernel
    ((3, 5, 7), (6,), (3, 4), 25, 0, 2.5e-3, 2),  # depth 1
    ((3, 5, 7), (6,), (2, 3, 4), 120, 5, 7.5e-3, 2),  # depth 2
    ((3, 5, 7), (4, 6), (2, 3, 4), 25, 0, 2.5e-3, 4),  # expand 1
    ((3, 5, 7), (3, 4, 6), (2, 3, 4), 120, 5, 7.5e-3, 4),  # expand 2
]


def test_the_phases_of_the_published_networks_are_the_published_ones():
    full, *elastic = progressive_phases(PUBLISHED)
    kernel_rate = elastic[0].learning_rate
    ours = [
        (
            *(phase.options(name) for name in ("ks", "e", "d")),
            phase.epochs,
            phase.warmup_epochs,
            pytest.approx(3e-2 * phase.learning_rate / kernel_rate),
            phase.subnets,
        )
        for phase in elastic
    ]

    assert ours == THEIRS
    assert dict(full.allowed) == {"ks": (7,), "e": (6,), "d": (4,)}
    assert (full.epochs, full.subnets) == (180, 0)
    # The paper's 2.6 is for 32 GPUs, the script's rates are for one.
    assert kernel_rate == pytest.approx(3e-2 / (2.6 / 32))


def test_every_phase_holds_the_one_before_and_the_last_is_the_whole_space():
    for space in (
        PUBLISHED,
        SMALL.space(),
        ResNetSpace("r", (2, 2), (0, 1, 2), (0.2, 0.25, 0.35), 3),
        SearchSpace("v", [Dimension("h", 4, (1, 2, 3, 4)), Dimension("d", 1, (2, 3, 4, 5, 6))]),
    ):
        phases = progressive_phases(space)
        for before, now in pairwise(phases):
            for name, options in before.allowed:
                assert set(options) <= set(now.options(name))
            assert before.allowed != now.allowed
        assert {d.name: d.options for d in space.dimensions} == dict(phases[-1].allowed)


def test_width_of_all_blocks_shrinks_last_and_a_single_option_gets_no_phase():
    space = SearchSpace(
        "v",
        [
            Dimension("w", 1, (100, 200)),
            Dimension("h", 4, (1, 2, 4)),
            Dimension("one", 1, (5,)),
            Dimension("d", 1, (2, 3, 4)),
        ],
    )

    names = [phase.name for phase in progressive_phases(space)]
    assert names == ["full", "d 1", "d 2", "h 1", "h 2", "w"]


def test_a_space_whose_settings_exclude_each_other_is_refused():
    stitched = StitchSpace("stitched", ["resnet18", "resnet50"], [(2, 2, 2, 2), (3, 4, 6, 3)])
    with pytest.raises(ValueError, match="exclude each other"):
        progressive_phases(stitched)


def test_samples_stay_inside_their_phase_and_reach_all_of_it():
    phases = progressive_phases(PUBLISHED)
    depth_1 = phases[2]
    rng = random.Random(0)
    drawn = [depth_1.sample(PUBLISHED, rng) for _ in range(60)]

    assert depth_1.name == "d 1"
    assert depth_1.smallest(PUBLISHED) == PUBLISHED.subnet(ks=3, e=6, d=3)
    assert {value for s in drawn for value in s["d"]} == {3, 4}
    for subnet in drawn:
        runs = [block % 4 < subnet["d"][block // 4] for block in range(20)]
        assert {e for e, active in zip(subnet["e"], runs, strict=True) if active} == {6}
    assert {k for s in drawn for k in s["ks"]} == {3, 5, 7}
    assert {phases[0].sample(PUBLISHED, rng) for _ in range(5)} == {PUBLISHED.largest}


def test_phases_share_the_steps_by_their_epochs():
    """180 + 120 + 25 + 120 + 25 + 120 epochs are 590."""
    phases = progressive_phases(PUBLISHED)

    assert boundaries(phases, 590) == [180, 300, 325, 445, 470, 590]
    assert boundaries(phases, 5900) == [1800, 3000, 3250, 4450, 4700, 5900]
    assert [phase_at(phases, 590, step) for step in (0, 179, 180, 589)] == [
        (0, 0, 180),
        (0, 0, 180),
        (1, 180, 300),
        (5, 470, 590),
    ]
    assert boundaries(phases, 3)[-1] == 3


# Channel order


def logits(net, subnet):
    with torch.no_grad():
        return net.run(images(net, 4), subnet, batch_statistics)


def middle_importance(block):
    return block.project.weight.abs().sum((0, 2, 3))


def elastic_blocks(net):
    found = [m for m in net.modules() if isinstance(m, InvertedResidual)]
    return [block for block in found if block.expand is not None]


@pytest.mark.parametrize("squeezes", [(False, False, False), (True, True, True)])
def test_sorting_changes_what_narrow_subnets_hold_and_not_what_the_largest_computes(squeezes):
    net = small_net(1, replace(SMALL, squeezes=squeezes))
    narrow = net.space.subnet(ks=5, e=3, d=2)
    largest, before = logits(net, net.space.largest), logits(net, narrow)
    sorted_blocks = sort_expansions(net, [6])

    assert sorted_blocks == len(elastic_blocks(net)) == 9
    assert relative(logits(net, net.space.largest), largest) < 1e-12
    assert relative(logits(net, narrow), before) > 0.05
    for block in elastic_blocks(net):
        assert (middle_importance(block).diff() <= 0).all()


def test_sorting_keeps_the_widths_that_were_trained_before():
    """The second phase of expansion must not undo the first."""
    net = small_net(2)
    subnets = [net.space.subnet(ks=7, e=e, d=3) for e in (6, 3, 2)]
    before = [logits(net, subnet) for subnet in subnets]
    sort_expansions(net, [3, 6])
    after = [logits(net, subnet) for subnet in subnets]

    assert relative(after[0], before[0]) < 1e-12
    assert relative(after[1], before[1]) < 1e-12
    assert relative(after[2], before[2]) > 0.05


def small_resnet():
    torch.manual_seed(0)
    net = OFAResNet50(
        ResNet50Definition(
            num_classes=7,
            in_channels=3,
            image_size=24,
            stem_width=16,
            stage_widths=(48, 64),
            strides=(1, 2),
            base_depths=(1, 2),
            depths=(0, 1),
            expands=(0.25, 0.5, 1.0),
            width_mults=(0.5, 1.0),
        )
    )
    randomise(net, 0)
    return net.double()


@pytest.mark.parametrize("trained", [(1.0,), (0.5, 1.0)])
def test_bottlenecks_are_sorted_at_both_ends_of_their_middle_convolution(trained):
    net = small_resnet()
    subnets = {e: net.space.subnet(d=1, e=e, w=1) for e in (1.0, 0.5, 0.25)}
    before = {e: logits(net, subnet) for e, subnet in subnets.items()}

    assert sort_expansions(net, trained) == 5
    for ratio, subnet in subnets.items():
        change = relative(logits(net, subnet), before[ratio])
        assert change < 1e-12 if ratio in trained else change > 0.05
