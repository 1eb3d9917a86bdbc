"""Subnets are canonical, hashable values, and a space holds exactly what its options say."""

import json
import random
from itertools import product

import numpy as np
import pytest

from supernets.ofa_mobilenetv3 import MobileNetV3Definition
from supernets.space import Dimension, SearchSpace, StagedSpace


def tiny() -> StagedSpace:
    return StagedSpace("tiny", 2, (1, 2), {"k": (3, 5)})


def test_scalars_stand_for_the_same_value_everywhere():
    space = tiny()

    assert space.subnet(k=5, d=2) == space.subnet(k=[5, 5, 5, 5], d=[2, 2])


def test_settings_of_blocks_that_do_not_run_have_no_effect():
    space = tiny()
    one, other = space.subnet(k=[5, 3, 5, 5], d=[1, 2]), space.subnet(k=[5, 5, 5, 5], d=[1, 2])

    assert one == other
    assert one.id == other.id
    assert hash(one) == hash(other)


def test_enumeration_holds_each_subnet_once():
    """Counted by hand: per stage 2 subnets of depth 1 and 4 of depth 2, so 6 * 6."""
    subnets = list(tiny())

    assert len(subnets) == len(set(subnets)) == tiny().size == 36
    assert len({subnet.id for subnet in subnets}) == 36


def test_the_ofa_space_has_the_published_size():
    """Once-for-All, section 3.1: ((3*3)^2 + (3*3)^3 + (3*3)^4)^5, about 2 * 10^19."""
    assert MobileNetV3Definition.ofa(1.0).space().size == (9**2 + 9**3 + 9**4) ** 5


def test_json_round_trip_keeps_identity():
    space = MobileNetV3Definition.ofa(1.0).space()
    subnet = space.sample(random.Random(3))

    assert space.from_json(json.loads(json.dumps(subnet.to_json()))) == subnet


def test_ids_do_not_depend_on_the_process():
    """An id names a subnet in files, so it may not change: this one is written down."""
    text = '["tiny",[["k",[3,3,3,3]],["d",[1,1]]]]'
    import hashlib

    expected = hashlib.blake2b(text.encode(), digest_size=5).hexdigest()

    assert tiny().smallest.id == expected


@pytest.mark.parametrize("rng", [random.Random(1), np.random.default_rng(1)], ids=["std", "numpy"])
def test_samples_are_members_and_cover_all_options(rng):
    space = tiny()
    samples = [space.sample(rng) for _ in range(200)]

    assert all(sample in space for sample in samples)
    assert {s["d"] for s in samples} == set(product((1, 2), repeat=2))


def test_mutation_redraws_with_its_probability():
    space = tiny()
    rng = random.Random(0)

    assert all(space.mutate(space.largest, rng, 0.0) == space.largest for _ in range(20))
    assert any(space.mutate(space.largest, rng, 0.5) != space.largest for _ in range(20))
    assert space.mutate(space.largest, rng, 0.9) in space


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"k": 4, "d": 1}, "k cannot be 4; it is one of 3, 5"),
        ({"k": [3, 3], "d": 1}, "k needs 4 values, not 2"),
        ({"k": 3}, "missing: d"),
        ({"k": 3, "d": 1, "w": 1}, "unknown: w"),
        ({"k": "3", "d": 1}, "k cannot be '3'"),
        ({"k": True, "d": 1}, "k cannot be True"),
    ],
)
def test_illegal_settings_are_refused_with_the_legal_values(config, message):
    with pytest.raises(ValueError, match=message):
        tiny().subnet(**config)


def test_ratios_survive_json_rounding():
    space = SearchSpace("ratio", [Dimension("e", 2, (0.2, 0.25, 0.35))])

    assert space.subnet(e=[0.35000000000000003, 0.2]) == space.subnet(e=[0.35, 0.2])


def test_the_readable_form_tells_only_what_runs():
    space = tiny()

    assert str(space.subnet(k=[5, 3, 5, 5], d=[1, 2])) == "d=1,2 k=5"
    assert str(space.subnet(k=[5, 3, 5, 3], d=[1, 2])) == "d=1,2 k=5|5,3"


def test_smallest_and_largest_are_the_ends():
    space = tiny()

    assert space.smallest.config() == {"k": [3, 3, 3, 3], "d": [1, 1]}
    assert space.largest.config() == {"k": [5, 5, 5, 5], "d": [2, 2]}
