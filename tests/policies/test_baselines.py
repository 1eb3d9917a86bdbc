"""MaxAcc, MaxBatch and Fixed against decisions worked out by hand."""

import pytest

from policies import POLICIES
from policies.fixed import Fixed
from policies.maxacc import MaxAcc
from policies.maxbatch import MaxBatch
from policies.slackfit import SlackFit
from policies.types import Choice, Profile, QueueView
from tests.policies.hand import HAND, NOW, choose


@pytest.mark.parametrize(
    ("queue", "slack", "expected", "why"),
    [
        (4, 0.9, ("small", 4), "nothing fits: move those behind as fast as can be"),
        (4, 1.9, ("small", 2), "only small can serve one; it serves two"),
        (4, 2.0, ("mid", 1), "accuracy first, although small could serve two"),
        (4, 3.2, ("mid", 2), "then the batch"),
        (4, 4.0, ("large", 1), "accuracy first, although mid could serve two"),
        (4, 7.0, ("large", 2), "then the batch"),
        (4, 13.0, ("large", 4), "both"),
        (1, 13.0, ("large", 4), "the length of the queue plays no part"),
    ],
)
def test_maxacc(queue, slack, expected, why):
    assert choose(MaxAcc(HAND), queue, slack) == Choice(*expected), why


@pytest.mark.parametrize(
    ("queue", "slack", "expected", "why"),
    [
        (4, 0.9, ("small", 4), "nothing fits: move those behind as fast as can be"),
        (4, 1.0, ("small", 1), "the largest batch that small finishes is 1"),
        (4, 2.4, ("small", 2), "two, though mid could serve one"),
        (4, 5.4, ("small", 4), "four, though large could serve one"),
        (4, 5.5, ("mid", 4), "four, and the most accurate that finishes four"),
        (4, 12.9, ("mid", 4), "large could only serve two"),
        (4, 13.0, ("large", 4), "all"),
        (1, 5.5, ("mid", 4), "the length of the queue plays no part"),
    ],
)
def test_maxbatch(queue, slack, expected, why):
    assert choose(MaxBatch(HAND), queue, slack) == Choice(*expected), why


@pytest.mark.parametrize(
    ("queue", "slack", "expected", "why"),
    [
        (1, 5.5, ("large", 1), "one query: the batch is 1, and large serves one in 4"),
        (3, 5.5, ("mid", 2), "three fill two; mid serves two in 3.2, large in 7"),
        (4, 5.5, ("mid", 4), "as without the option"),
        (2, 0.9, ("small", 2), "nothing fits"),
    ],
)
def test_maxbatch_that_looks_at_the_queue(queue, slack, expected, why):
    policy = MaxBatch(HAND, queue_aware=True)
    assert choose(policy, queue, slack) == Choice(*expected), why


@pytest.mark.parametrize(
    ("queue", "slack", "expected", "why"),
    [
        (4, 5.5, ("mid", 4), "the largest batch that fits"),
        (4, 5.4, ("mid", 2), "four would be late"),
        (3, 5.5, ("mid", 2), "three fill two"),
        (4, 2.0, ("mid", 1), "one just fits"),
        (4, 1.9, ("mid", 1), "the head is late; alone, it makes nobody else late"),
    ],
)
def test_fixed(queue, slack, expected, why):
    assert choose(Fixed(HAND, subnet="mid"), queue, slack) == Choice(*expected), why


# Deadlines 1 second apart. mid takes 2.0, 3.2 and 5.5 seconds for 1, 2 and 4.
@pytest.mark.parametrize(
    ("drop", "queue", "slack", "expected", "why"),
    [
        ("lazy", 4, 2.0, ("mid", 1, 0), "the head can be served alone, so it is"),
        ("lazy", 4, 0.5, ("mid", 1, 2), "0.5 and 1.5 are too short, 2.5 serves one"),
        ("lazy", 1, 0.5, ("mid", 1, 1), "nothing is left"),
        ("early", 4, 2.0, ("mid", 2, 2), "four need 5.5, then three fill two and need 3.2: 4.0"),
        ("early", 4, 5.5, ("mid", 4, 0), "four fit"),
        ("early", 8, 2.0, ("mid", 4, 4), "2, 3, 4, 5 are too short for four, 6 serves four"),
        ("early", 1, 0.5, ("mid", 1, 1), "nothing is left"),
    ],
)
def test_fixed_that_sheds(drop, queue, slack, expected, why):
    policy = Fixed(HAND, subnet="mid", drop=drop)
    assert choose(policy, queue, slack) == Choice(*expected), why


@pytest.mark.parametrize(
    ("subnet", "expected"),
    [("smallest", "small"), ("largest", "large"), ("mid", "mid"), ("1", "small"), (3, "large")],
)
def test_fixed_names_its_subnet_in_several_ways(subnet, expected):
    assert choose(Fixed(HAND, subnet=subnet), 1, 99.0).subnet == expected


def test_an_id_that_looks_like_a_rank_is_an_id():
    profile = Profile.from_table([("2", 1.0, {1: 1.0}), ("1", 2.0, {1: 2.0})])
    assert choose(Fixed(profile, subnet="2"), 1, 99.0).subnet == "2"


@pytest.mark.parametrize("subnet", ["huge", "0", "4", "-1", "1.5"])
def test_fixed_refuses_a_subnet_that_does_not_exist(subnet):
    with pytest.raises(ValueError, match="rank from 1 to 3 or one of small, mid, large"):
        Fixed(HAND, subnet=subnet)


def test_fixed_refuses_a_drop_rule_without_a_meaning():
    with pytest.raises(ValueError, match="none, lazy or early"):
        Fixed(HAND, drop="never")


@pytest.mark.parametrize(
    "policy", [make(HAND) for make in dict.fromkeys(POLICIES.values())], ids=repr
)
def test_nothing_waits_nothing_is_chosen(policy):
    assert policy.choose(QueueView.of([]), NOW) is None


def test_a_subnet_that_another_one_beats_is_never_chosen():
    profile = Profile.from_table(
        [("bad", 60.0, {1: 9.0, 2: 9.5}), ("good", 70.0, {1: 1.0, 2: 2.0})]
    )
    for policy in (SlackFit(profile, 8), SlackFit(profile, 8, "s42"), MaxAcc(profile)):
        for slack in (0.5, 1.0, 9.2, 50.0):
            assert choose(policy, 2, slack).subnet == "good"


def test_maxacc_prefers_the_more_accurate_of_two_that_are_equally_fast_alone():
    profile = Profile.from_table([("a", 70.0, {1: 1.0, 2: 1.2}), ("b", 71.0, {1: 1.0, 2: 2.0})])
    assert choose(MaxAcc(profile), 1, 1.1) == Choice("b", 1)
