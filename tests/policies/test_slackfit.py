"""SlackFit against decisions worked out by hand from the paper's rules."""

import pytest

from policies.slackfit import SlackFit, default_buckets
from policies.types import Choice, Profile
from tests.policies.hand import HAND, choose


# Four buckets over 1..13 are 3 wide. Inside them lie, as (subnet, batch) at latency:
#   1..4   small 1 at 1, small 2 at 1.5, mid 1 at 2, small 4 at 2.5, mid 2 at 3.2
#   4..7   large 1 at 4, mid 4 at 5.5
#   7..10  large 2 at 7
#   10..13 large 4 at 13
@pytest.mark.parametrize(
    ("queue", "slack", "expected", "why"),
    [
        (4, 0.9, ("small", 4), "nothing fits: move those behind as fast as can be"),
        (4, 1.0, ("small", 1), "below the lowest kept tuple: the smallest subnet, what fits"),
        (4, 1.5, ("small", 2), "the same, a larger batch fits"),
        (4, 2.4, ("small", 2), "mid 1 would fit, but the bucket keeps its largest batch"),
        (4, 2.5, ("small", 4), "the lowest bucket's tuple fits"),
        (4, 5.4, ("small", 4), "large 1 would fit, but the bucket keeps mid 4, which does not"),
        (4, 5.5, ("mid", 4), "of large 1 and mid 4 the larger batch"),
        (4, 6.9, ("mid", 4), "not yet the third bucket"),
        (4, 7.0, ("large", 2), "alone in its bucket, though mid 4 has the larger batch"),
        (4, 12.9, ("large", 2), "not yet the last bucket"),
        (4, 13.0, ("large", 4), "the last bucket"),
        (1, 13.0, ("large", 4), "the length of the queue plays no part"),
        (9, 1e9, ("large", 4), "all the time in the world"),
    ],
)
def test_slackfit_in_the_reading_of_appendix_a5(queue, slack, expected, why):
    assert choose(SlackFit(HAND, buckets=4), queue, slack) == Choice(*expected), why


# Upper edges 4, 7, 10, 13. Below them the largest batch is 4, and of those the most accurate:
#   4: small 4;  7: mid 4;  10: mid 4;  13: large 4
@pytest.mark.parametrize(
    ("queue", "slack", "expected", "why"),
    [
        (4, 0.9, ("small", 4), "nothing fits"),
        (4, 1.0, ("small", 1), "below the lowest edge: the smallest subnet, what fits"),
        (4, 3.9, ("small", 4), "the same"),
        (4, 4.0, ("small", 4), "the lowest bucket, where mid 2 and large 1 are smaller batches"),
        (4, 6.9, ("small", 4), "mid 4 takes 5.5 but belongs to the bucket of 7"),
        (4, 7.0, ("mid", 4), "the largest batch below 7"),
        (4, 12.9, ("mid", 4), "large 2 is a smaller batch"),
        (4, 13.0, ("large", 4), "the last bucket"),
    ],
)
def test_slackfit_in_the_reading_of_section_42(queue, slack, expected, why):
    policy = SlackFit(HAND, buckets=4, reading="s42")
    assert choose(policy, queue, slack) == Choice(*expected), why


# One query fills a batch of 1: small 1 at 1 and mid 1 at 2 share a bucket, large 1 has its own.
# Three fill a batch of 2: mid 2 at 3.2 is the best of the first bucket, then large 1, large 2.
@pytest.mark.parametrize(
    ("queue", "slack", "expected", "why"),
    [
        (1, 0.9, ("small", 1), "nothing fits, and nobody waits behind"),
        (1, 1.9, ("small", 1), "below the lowest kept tuple"),
        (1, 2.0, ("mid", 1), "equal batches: the more accurate"),
        (1, 13.0, ("large", 1), "a long batch would be empty"),
        (3, 3.1, ("small", 2), "below mid 2: the smallest subnet, what fits"),
        (3, 3.2, ("mid", 2), "the most accurate of the batches of 2"),
        (3, 13.0, ("large", 2), "three do not fill four"),
        (4, 13.0, ("large", 4), "four do"),
    ],
)
def test_slackfit_that_looks_at_the_queue(queue, slack, expected, why):
    policy = SlackFit(HAND, buckets=4, queue_aware=True)
    assert choose(policy, queue, slack) == Choice(*expected), why


@pytest.mark.parametrize(
    "options", [{"buckets": 0}, {"buckets": -1}, {"reading": "a6"}, {"reading": ""}]
)
def test_slackfit_refuses_options_without_a_meaning(options):
    with pytest.raises(ValueError, match=r"SlackFit needs|reading must"):
        SlackFit(HAND, **options)


# By hand: the lowest bucket reaches up to low + span / buckets, which must exceed the latency of
# the smallest subnet at the largest batch.
@pytest.mark.parametrize(
    ("smallest", "largest", "expected", "why"),
    [
        ({1: 1.0, 16: 7.0}, {1: 5.0, 16: 31.0}, 4, "1 + 30/4 = 8.5 > 7, 1 + 30/5 = 7 is not"),
        ({1: 1.0, 4: 2.5}, {1: 4.0, 4: 13.0}, 7, "1 + 12/7 = 2.7 > 2.5, 1 + 12/8 = 2.5 is not"),
        ({1: 1.0, 16: 7.0}, {1: 1.2, 16: 8.0}, 2, "one bucket would be no choice at all"),
        ({1: 1.0}, {1: 2.0}, 2, "one batch size: any number will do"),
    ],
)
def test_the_lowest_bucket_holds_the_smallest_subnet_at_its_largest_batch(
    smallest, largest, expected, why
):
    profile = Profile.from_table([("s", 70.0, smallest), ("l", 80.0, largest)])
    assert default_buckets(profile) == expected, why


@pytest.mark.parametrize("reading", ["a5", "s42"])
def test_one_subnet_at_one_batch_size_is_profile_enough(reading):
    profile = Profile.from_table([("only", 50.0, {1: 1.0})])
    assert choose(SlackFit(profile, reading=reading), 3, 2.0) == Choice("only", 1)
