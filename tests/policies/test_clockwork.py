"""Clockwork against decisions worked out by hand, and against trying everything."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.clockwork import Clockwork, largest_with_demand
from policies.types import Choice, QueueView, Wait, WorkerView
from tests.policies.hand import HAND, NOW
from tests.policies.test_promises import profiles


def view(*slacks):
    return QueueView.of([NOW + slack for slack in slacks])


@st.composite
def views(draw):
    """Anything that a policy may meet: late heads, ties, busy workers, no workers."""
    slacks = draw(st.lists(st.floats(-5.0, 60.0) | st.just(3.0), min_size=1, max_size=40))
    residuals = draw(st.lists(st.just(0.0) | st.floats(0.0, 30.0), max_size=4))
    workers = [WorkerView(f"w{i}", residual=residual) for i, residual in enumerate(residuals)]
    return QueueView(view(*slacks).waiting, workers, draw(st.floats(0.0, 9.0)))


def check_lawful(answer, profile, seen):
    """That the scheduler can carry this answer out."""
    if isinstance(answer, Wait):
        assert answer.until > NOW
    else:
        assert answer.subnet in profile.subnets
        assert 1 <= answer.batch_size <= profile.max_batch
        assert 0 <= answer.shed <= len(seen)


# mid takes 2.0, 3.2 and 5.5 seconds for 1, 2 and 4.
@pytest.mark.parametrize(
    ("slacks", "expected", "why"),
    [
        ([5.5, 5.5, 5.5, 5.5], (4, 0), "four, just in time"),
        ([9.0, 9.0, 9.0], (2, 0), "three fill two"),
        ([9.0], (1, 0), "one"),
        ([5.4, 9.0, 9.0, 9.0], (2, 0), "only three are in time for four; four are for two"),
        ([5.4, 9.0, 9.0, 9.0, 9.0], (4, 1), "four without the head: the larger batch wins"),
        ([3.5, 3.6, 3.7, 3.8], (2, 0), "none is in time for four; all are for two"),
        ([1.9, 2.0, 3.1, 3.1], (1, 1), "none for two; three for one, in front of which 1.9 goes"),
        ([3.1, 3.2, 3.2], (2, 1), "two for two, without the head"),
        ([1.0, 1.9], (1, 2), "nobody is in time for one"),
    ],
)
def test_clockwork(slacks, expected, why):
    batch, shed = expected
    assert Clockwork(HAND, "mid").choose(view(*slacks), NOW) == Choice("mid", batch, shed), why


def test_the_subnet_is_the_most_accurate_unless_one_is_named():
    assert Clockwork(HAND).choose(view(50.0), NOW).subnet == "large"
    assert Clockwork(HAND, 1).choose(view(50.0), NOW).subnet == "small"
    with pytest.raises(ValueError, match="no subnet 'huge'"):
        Clockwork(HAND, "huge")


# With padding three may run as four, in 5.5 seconds.
@pytest.mark.parametrize(
    ("slacks", "expected", "why"),
    [
        ([5.5, 5.5, 5.5], (3, 0), "three, in the time of four"),
        ([5.4, 5.5, 5.5, 5.5], (3, 1), "three of the four are in time"),
        ([5.4, 5.4, 5.5, 5.5], (2, 0), "two are, but so few need only the time of two"),
        ([9.0] * 6, (4, 0), "no more than the largest"),
    ],
)
def test_a_padded_batch_may_be_smaller_than_what_it_takes_the_time_of(slacks, expected, why):
    assert largest_with_demand(HAND, "mid", view(*slacks), NOW, padded=True) == expected, why


def test_the_largest_batch_can_be_capped():
    assert largest_with_demand(HAND, "mid", view(*[9.0] * 6), NOW, most=3) == (2, 0)


@given(profiles(), views(), st.integers(0, 20), st.booleans())
def test_no_larger_batch_could_be_in_time_and_no_fewer_heads_given_up(profile, seen, rank, padded):
    subnet = profile.subnets[rank % len(profile.subnets)]
    sizes = range(1, profile.max_batch + 1) if padded else profile.batch_sizes
    possible = [
        (size, -shed)
        for size, shed in product(sizes, range(len(seen)))
        if shed + size <= len(seen)
        and all(
            profile.latency(subnet, size) <= query.deadline - NOW
            for query in seen.waiting[shed : shed + size]
        )
    ]
    found = largest_with_demand(profile, subnet, seen, NOW, padded=padded)
    if possible:
        size, shed = max(possible)
        assert found == (size, -shed)
    else:
        # Nothing is filled: the smallest batch, for whom it is in time.
        late = sum(
            profile.latencies[profile.index(subnet)][0] > q.deadline - NOW for q in seen.waiting
        )
        assert found == (profile.batch_sizes[0], late)


@given(profiles(), views())
def test_clockwork_is_lawful_whatever_waits(profile, seen):
    check_lawful(Clockwork(profile).choose(seen, NOW), profile, seen)


def test_nothing_waits_nothing_is_chosen():
    assert Clockwork(HAND).choose(QueueView.of([]), NOW) is None
