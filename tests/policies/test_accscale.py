"""When Proteus waits for a fuller batch, against cases worked out by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.accscale import wait_or_batch
from policies.types import Choice, Profile, QueueView, Wait
from tests.policies.hand import HAND, NOW
from tests.policies.test_promises import profiles


def decide(slacks, **options):
    view = QueueView.of([NOW + slack for slack in slacks])
    return wait_or_batch(HAND, "mid", view, NOW, **{"margin": 0.0, **options})


# mid takes 2.0, 3.2 and 5.5 seconds for 1, 2 and 4. T(q) is the head's slack less B(q)'s time.
@pytest.mark.parametrize(
    ("slacks", "expected", "why"),
    [
        ([9.0], Wait(NOW + 7.0), "B(1) = 1, T = 9.0 - 2.0"),
        ([9.0, 9.5], Wait(NOW + 9.0 - 3.2), "B(2) = 2, T = 9.0 - 3.2: earlier than for one"),
        ([9.0, 9.5, 9.9], Wait(NOW + 9.0 - 3.2), "three fill two"),
        ([9.0, 9.0, 9.0, 9.0], Choice("mid", 4), "no fuller batch exists"),
        ([9.0] * 7, Choice("mid", 4), "nor one here"),
        ([2.0], Choice("mid", 1), "T(1) is now"),
        ([5.0, 8.0, 8.0, 8.0], Choice("mid", 2), "four would take 5.5: run those before the last"),
        ([3.0, 8.0], Choice("mid", 1), "two would take 3.2: run one"),
        ([1.0, 9.0], Choice("mid", 1, 1), "1.0 is too short for anything; do not wait behind it"),
        ([5.0, 6.0, 6.0, 6.0, 6.0], Choice("mid", 4, 1), "four can be filled without the head"),
        ([3.0, 9.0, 9.0], Choice("mid", 2, 1), "so can two"),
        ([1.0, 1.5], Choice("mid", 1, 2), "nobody can be in time"),
    ],
)
def test_wait_or_batch(slacks, expected, why):
    assert decide(slacks) == expected, why


def test_the_cap_ends_the_wait():
    # B cannot grow beyond 2 (3 is no profiled size), so that two do not wait.
    for cap in (2, 3):
        assert decide([9.0, 9.0], max_batch=cap) == Choice("mid", 2)
        assert decide([9.0] * 5, max_batch=cap) == Choice("mid", 2)
    assert decide([9.0], max_batch=2) == Wait(NOW + 7.0)


def test_the_margin_is_taken_off_the_wait_and_not_off_the_fit():
    assert decide([9.0], margin=0.5) == Wait(NOW + 6.5)
    # 0.4 before T(1): past the margin, and one still fits.
    assert decide([2.4], margin=0.5) == Choice("mid", 1)
    # When the timer of the wait rings half a margin late, the same batch starts.
    late = QueueView.of([NOW + 9.0])
    assert wait_or_batch(HAND, "mid", late, NOW + 6.75, margin=0.5) == Choice("mid", 1)


def test_a_batch_smaller_than_any_profiled_one_waits_as_well():
    # One of a batch of 4: it takes 5 seconds whoever is in it, and three more may come.
    profile = Profile.from_table([("only", 70.0, {4: 5.0})])
    view = QueueView.of([NOW + 9.0])
    assert wait_or_batch(profile, "only", view, NOW, margin=0.0) == Wait(NOW + 4.0)


def test_nothing_waits_nothing_is_decided():
    assert decide([]) is None


def test_an_unknown_subnet_is_an_error():
    with pytest.raises(KeyError, match="no subnet 'huge'"):
        wait_or_batch(HAND, "huge", QueueView.of([NOW + 9.0]), NOW)


deadlines = st.lists(st.floats(0.0, 60.0), min_size=1, max_size=40)


@given(profiles(), deadlines, st.integers(0, 20), st.integers(1, 20), st.floats(0.0, 2.0))
def test_a_wait_ends_in_time_and_a_batch_is_in_time_for_all_in_it(
    profile, slacks, rank, cap, margin
):
    subnet = profile.subnets[rank % len(profile.subnets)]
    view = QueueView.of([NOW + slack for slack in slacks])
    answer = wait_or_batch(profile, subnet, view, NOW, max_batch=cap, margin=margin)
    if isinstance(answer, Wait):
        assert answer.until > NOW
        assert len(view) < max(cap, profile.batch_sizes[0])
        batch = profile.batch_bucket(len(view))
        late = answer.until + profile.latency(subnet, batch) - view.head.deadline
        assert late <= 1e-9 - margin
    else:
        assert 1 <= answer.batch_size <= max(cap, profile.batch_sizes[0])
        served = view.waiting[answer.shed :][: answer.batch_size]
        latency = profile.latency(subnet, answer.batch_size)
        assert all(latency <= query.deadline - NOW for query in served)
        # Nobody is given up who could be in this batch.
        assert all(latency > query.deadline - NOW for query in view.waiting[: answer.shed])
