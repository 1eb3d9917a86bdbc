"""What each policy promises, on random profiles."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from policies.fixed import Fixed
from policies.maxacc import MaxAcc
from policies.maxbatch import MaxBatch
from policies.slackfit import SlackFit
from policies.types import Profile
from tests.policies.hand import NOW, choose


@st.composite
def profiles(draw):
    """Latency rises with the batch (P1) and with the accuracy (P2), as on every real device."""
    sizes = draw(st.sampled_from([(1,), (1, 2), (1, 2, 4, 8, 16), (4, 8)]))
    rows, below = [], [0.0] * len(sizes)
    for _ in range(draw(st.integers(1, 6))):
        row = []
        for least in below:
            row.append(max(least, row[-1] if row else 0.0) + draw(st.floats(0.01, 5.0)))
        rows.append(tuple(row))
        below = row
    names = tuple(f"s{i}" for i in range(len(rows)))
    return Profile(names, tuple(50.0 + i for i in range(len(rows))), sizes, tuple(rows))


def greedy(profile, buckets):
    return [
        SlackFit(profile),
        SlackFit(profile, buckets),
        SlackFit(profile, buckets, queue_aware=True),
        SlackFit(profile, buckets, "s42"),
        SlackFit(profile, buckets, "s42", queue_aware=True),
        MaxAcc(profile),
        MaxBatch(profile),
        MaxBatch(profile, queue_aware=True),
    ]


buckets = st.integers(1, 40)
queues = st.integers(1, 40)
slacks = st.floats(0.0, 60.0)


@given(profiles(), buckets, queues, slacks)
def test_a_choice_fits_the_slack_whenever_one_does(profile, count, queue, slack):
    slack = NOW + slack - NOW  # as the policy sees it
    for policy in greedy(profile, count):
        choice = choose(policy, queue, slack)
        if profile.latencies[0][0] <= slack:
            assert profile.latency(choice.subnet, choice.batch_size) <= slack, policy
        else:
            assert choice.subnet == profile.smallest, policy


@given(profiles(), buckets, queues, slacks)
def test_a_fixed_subnet_fits_the_slack_whenever_it_can(profile, rank, queue, slack):
    slack = NOW + slack - NOW
    subnet = profile.subnets[rank % len(profile.subnets)]
    choice = choose(Fixed(profile, subnet), queue, slack)
    if profile.latency(subnet, 1) <= slack:
        assert profile.latency(subnet, choice.batch_size) <= slack
    else:
        assert choice.batch_size == 1


@given(profiles(), slacks, slacks)
def test_more_slack_never_lowers_the_accuracy_of_maxacc(profile, one, other):
    less, more = sorted((one, other))
    policy = MaxAcc(profile)
    accuracy = [profile.accuracy(choose(policy, 1, slack).subnet) for slack in (less, more)]
    assert accuracy[0] <= accuracy[1]


@given(profiles(), queues, slacks, slacks)
def test_more_slack_never_lowers_the_batch_of_maxbatch(profile, queue, one, other):
    less, more = sorted((NOW + one - NOW, NOW + other - NOW))  # as the policy sees them
    if less < profile.latencies[0][0]:
        return  # nothing fits the shorter slack
    for aware in (False, True):
        policy = MaxBatch(profile, queue_aware=aware)
        assert choose(policy, queue, less).batch_size <= choose(policy, queue, more).batch_size


@given(profiles(), buckets, queues, slacks, slacks)
def test_more_slack_never_makes_slackfit_choose_what_is_done_sooner(
    profile, count, queue, one, other
):
    less, more = sorted((NOW + one - NOW, NOW + other - NOW))
    if less < profile.latencies[0][0]:
        return
    for aware in (False, True):
        policy = SlackFit(profile, count, queue_aware=aware)
        first, second = choose(policy, queue, less), choose(policy, queue, more)
        assert profile.latency(first.subnet, first.batch_size) <= profile.latency(
            second.subnet, second.batch_size
        )


@given(profiles(), queues, slacks)
def test_a_batch_is_never_larger_than_the_queue_for_those_that_look_at_it(profile, queue, slack):
    for policy in (
        SlackFit(profile, queue_aware=True),
        SlackFit(profile, reading="s42", queue_aware=True),
        MaxBatch(profile, queue_aware=True),
        Fixed(profile),
    ):
        assert choose(policy, queue, slack).batch_size <= max(queue, profile.batch_sizes[0])


@given(profiles(), queues, slacks)
def test_many_buckets_of_the_paper_text_are_maxbatch(profile, queue, slack):
    """As buckets get narrower, the reading of section 4.2 becomes MaxBatch."""
    latencies = sorted({latency for row in profile.latencies for latency in row})
    gaps = [b - a for a, b in pairwise(latencies)]
    slack = NOW + slack - NOW
    if len(latencies) < 2 or slack < latencies[0]:
        return
    width = (latencies[-1] - latencies[0]) / 4000
    # Only where no tuple lies between the bucket's edge and the slack.
    if min(gaps) < width or any(0 <= slack - latency <= width for latency in latencies[:-1]):
        return
    fine = choose(SlackFit(profile, 4000, "s42"), queue, slack)
    assert fine == choose(MaxBatch(profile), queue, slack)
