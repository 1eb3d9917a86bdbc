"""Where stitches are, and which space they span; compared with SN-Net's own lists."""

import random

import pytest
import torch

from supernets.stitches.stitching import StitchSpace, nearest, stitch_positions, within_stage

R18, R34, R50, R101 = (2, 2, 2, 2), (3, 4, 6, 3), (3, 4, 6, 3), (3, 4, 23, 3)


def space(*anchors, which="all"):
    names = [f"anchor{i}" for i in range(len(anchors))]
    return StitchSpace("stitched", names, anchors, which)


@pytest.mark.parametrize(("front", "back"), [(2, 3), (2, 4), (2, 6), (3, 4), (6, 23), (8, 36)])
def test_unequal_depths_are_mapped_as_nearest_interpolation_does(front, back):
    blocks = torch.arange(front).float()[None, None]
    expected = torch.nn.functional.interpolate(blocks, back).flatten().long().tolist()

    assert nearest(front, back) == expected


def test_equal_depths_are_paired_with_the_next_block():
    assert within_stage(6, 6) == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]


def test_snnets_positions_of_resnet18_and_50_share_layers_as_its_code_lists_them():
    """The published checkpoint depends on this misaligned sharing."""
    found = {(p.stage, p.front_block, p.back_block): p.layer
             for p in stitch_positions([R18, R50], "snnet")}  # fmt: skip

    assert found == {
        (1, 0, 1): 0, (1, 1, 2): 0, (1, 1, 3): 1,
        (2, 0, 1): 0, (2, 0, 2): 0, (2, 1, 3): 0, (2, 1, 4): 1, (2, 1, 5): 1,
    }  # fmt: skip


def test_snnets_rule_gives_resnet34_and_50_eight_stitches_with_a_layer_each():
    found = stitch_positions([R34, R50], "snnet")

    assert len(found) == 8
    assert all(p.layer == p.front_block == p.back_block - 1 for p in found)


def test_resnet34_and_50_have_twelve_positions_in_stages_and_four_boundaries():
    found = stitch_positions([R34, R50])
    boundaries = [p for p in found if p.back_block == R50[p.stage]]

    assert len(found) == 16
    assert [(p.stage, p.front_block) for p in boundaries] == [(0, 2), (1, 3), (2, 5), (3, 2)]


def test_every_position_of_the_full_set_has_a_layer_of_its_own():
    found = stitch_positions([R18, R34, R50])
    keys = {(p.stage, p.front, p.layer) for p in found}

    assert len(keys) == len(found) == 32
    assert {(p.front, p.back) for p in found} == {(0, 1), (1, 2)}, "neighbours only"


def test_a_back_stage_is_never_entered_at_its_first_block():
    assert all(p.back_block > 0 for p in stitch_positions([R18, R50, R101]))


def test_a_deeper_front_is_refused():
    with pytest.raises(ValueError, match="a stage of 3 blocks cannot go before one of 2"):
        stitch_positions([R34, R18])


def test_the_space_is_the_anchors_and_the_stitches_each_once():
    whole = space(R18, R34, R50)
    subnets = list(whole)

    assert len(subnets) == len(set(subnets)) == len(whole) == 35
    assert subnets[:3] == [whole.anchor(0), whole.anchor(1), whole.anchor(2)]
    assert subnets[3:] == list(whole.stitches)
    assert all(subnet in whole for subnet in subnets)
    assert all(whole.subnet(**s.config()) == s for s in subnets)
    assert all(whole.from_json(s.to_json()) == s for s in subnets)
    assert len({s.id for s in subnets}) == len({str(s) for s in subnets}) == 35


def test_smallest_and_largest_are_the_first_and_the_last_anchor():
    whole = space(R18, R34, R50)

    assert (whole.smallest, whole.largest) == (whole.anchor(0), whole.anchor(2))
    assert [whole.position(s) for s in (whole.smallest, whole.largest)] == [None, None]


def test_an_anchor_has_no_position_so_its_stage_does_not_matter():
    whole = space(R18, R50)
    anchor = whole.subnet(front=1, back=1, stage=2, front_block=1, back_block=3)

    assert anchor == whole.largest
    assert str(anchor) == "anchor1"


def test_subnets_read_like_sentences():
    whole = space(R18, R50)
    stitch = whole.subnet(front=0, back=1, stage=2, front_block=1, back_block=3)
    boundary = whole.subnet(front=0, back=1, stage=2, front_block=1, back_block=6)

    assert str(stitch) == "anchor0 -> anchor1 at stage 2, block 1|3"
    assert str(boundary) == "anchor0 -> anchor1 after stage 2"


@pytest.mark.parametrize(
    "settings",
    [(0, 1, 2, 0, 3), (1, 0, 2, 0, 1), (0, 2, 2, 0, 1), (0, 1, 3, 0, 0)],
    ids=["far-blocks", "slow-to-fast", "not-neighbours", "first-block"],
)
def test_what_is_no_position_is_refused(settings):
    names = ("front", "back", "stage", "front_block", "back_block")
    with pytest.raises(ValueError, match="no stitch has"):
        space(R18, R34, R50).subnet(**dict(zip(names, settings, strict=True)))


def test_sampling_reaches_everything_evenly_and_mutation_often_stays():
    whole = space(R18, R50)
    rng = random.Random(0)
    drawn = [whole.sample(rng) for _ in range(1800)]
    mutated = [whole.mutate(whole.smallest, rng, 0.1) for _ in range(2000)]

    assert set(drawn) == set(whole)
    assert all(50 < drawn.count(s) < 160 for s in whole), "100 are expected"
    # (1 - 0.1)^5 = 0.59 stay, and 1 of 18 redraws gives the same again.
    assert 0.55 < mutated.count(whole.smallest) / 2000 < 0.67
    assert whole.mutate(whole.smallest, rng, 0.0) == whole.smallest
