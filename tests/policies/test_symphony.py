"""Symphony's window, against cases worked out by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.symphony import Symphony
from policies.types import Choice, Profile, QueueView, Wait
from superserve.messages import Dispatch, Query, Wake
from superserve.scheduler import Scheduler
from tests.policies.hand import HAND, NOW
from tests.policies.test_clockwork import check_lawful, view, views
from tests.policies.test_promises import profiles


# mid takes 2.0, 3.2 and 5.5 seconds for 1, 2 and 4, and for 3 as long as for 4.
@pytest.mark.parametrize(
    ("slacks", "expected", "why"),
    [
        ([9.0], Wait(NOW + 9.0 - 3.2), "until 3.2 before the deadline a second one could join"),
        ([9.0, 9.5], Wait(NOW + 9.0 - 5.5), "a third one until 5.5 before: the window moves"),
        ([9.0] * 3, Wait(NOW + 9.0 - 5.5), "a fourth one as well"),
        ([9.0] * 4, Choice("mid", 4), "no larger batch exists"),
        ([9.0] * 7, Choice("mid", 4), "nor one here"),
        ([3.2], Choice("mid", 1), "the window opens"),
        ([2.5], Choice("mid", 1), "it is open"),
        ([2.0], Choice("mid", 1), "it closes"),
        ([5.0, 9.0, 9.0], Choice("mid", 2), "three would take 5.5: two, in the open window"),
        ([1.9, 9.0], Wait(NOW + 9.0 - 3.2), "the first is lost; the second may wait"),
        ([1.9, 3.0], Choice("mid", 1, 1), "the first is lost; the window of the second is open"),
        ([5.4, 5.5, 5.5, 5.5, 5.5], Choice("mid", 4, 1), "four can be filled without the first"),
        ([1.0, 1.5], Choice("mid", 1, 2), "nobody can be in time"),
    ],
)
def test_a_batch_starts_when_no_other_query_could_join(slacks, expected, why):
    assert Symphony(HAND, "mid", margin=0.0).choose(view(*slacks), NOW) == expected, why


def test_the_margin_opens_the_window_earlier_and_closes_it_at_the_same_time():
    policy = Symphony(HAND, "mid", margin=0.5)
    assert policy.choose(view(9.0), NOW) == Wait(NOW + 5.3)
    assert policy.choose(view(3.6), NOW) == Choice("mid", 1)
    assert policy.choose(view(2.0), NOW) == Choice("mid", 1)
    assert policy.choose(view(1.9), NOW) == Choice("mid", 1, 1)


# Batches of four and one: small 2.5, 1.0; mid 5.5, 2.0; large 13.0, 4.0.
@pytest.mark.parametrize(
    ("slacks", "expected", "why"),
    [
        ([20.0], Wait(NOW + 13.0), "large for one; a second one until 7.0 before"),
        ([6.9], Choice("large", 1), "large for one in 4.0, for two in 7.0"),
        ([6.0, 6.0], Wait(NOW + 0.5), "mid for two; a third one until 5.5 before"),
        ([6.0] * 3, Wait(NOW + 0.5), "mid for three in 5.5"),
        ([6.0] * 4, Choice("mid", 4), "mid for four"),
        ([6.0] * 9, Choice("mid", 4), "four of nine"),
        ([3.0] * 3, Wait(NOW + 0.5), "small for three in 2.5"),
        ([2.0] * 3, Choice("small", 2), "none for three: small, which does two"),
        ([1.2, 2.5, 2.5, 2.5, 2.5], Choice("small", 4, 1), "none: small, without the first"),
    ],
)
def test_adaptive_is_the_most_accurate_subnet_for_all_that_waits(slacks, expected, why):
    assert Symphony(HAND, "adaptive", margin=0.0).choose(view(*slacks), NOW) == expected, why


def test_adaptive_leaves_out_subnets_that_another_one_beats():
    profile = Profile.from_table([("bad", 60.0, {1: 9.0}), ("good", 70.0, {1: 1.0})])
    assert Symphony(profile, "adaptive").choose(view(0.5), NOW).subnet == "good"


def test_a_subnet_may_be_called_adaptive():
    profile = Profile.from_table([("adaptive", 60.0, {1: 1.0}), ("other", 70.0, {1: 1.5})])
    assert Symphony(profile, "adaptive").choose(view(9.0), NOW).subnet == "adaptive"


def test_the_subnet_is_the_most_accurate_unless_one_is_named():
    assert Symphony(HAND).choose(view(4.0), NOW).subnet == "large"
    with pytest.raises(ValueError, match="no subnet 'huge'"):
        Symphony(HAND, "huge")


def test_a_worker_stays_idle_until_the_window_opens_and_is_used_when_it_does():
    """Through the scheduler, with its clock a moment late."""
    made = Scheduler({("", "cpu"): HAND}, lambda profile: Symphony(profile, "mid", margin=0.01))
    made.worker_joined("w0", "cpu", 0.0)
    (wake,) = [c for c in made.arrive(Query(0, 0.0, 9.0), 0.0) if isinstance(c, Wake)]
    assert wake.at == pytest.approx(9.0 - 3.2 - 0.01)
    # The second one makes the window open earlier, for which a third could come.
    (wake,) = [c for c in made.arrive(Query(1, 1.0, 10.0), 1.0) if isinstance(c, Wake)]
    assert wake.at == pytest.approx(9.0 - 5.5 - 0.01)
    (dispatch,) = [c for c in made.tick(wake.at + 0.005) if isinstance(c, Dispatch)]
    assert [query.id for query in dispatch.queries] == [0, 1]
    assert dispatch.start == wake.at + 0.005


@given(profiles(), views(), st.integers(0, 20), st.floats(0.0, 2.0))
def test_it_waits_only_while_no_full_batch_is_in_time_and_the_last_can_spare_it(
    profile, seen, rank, margin
):
    subnet = profile.subnets[rank % len(profile.subnets)]
    answer = Symphony(profile, subnet, margin).choose(seen, NOW)
    check_lawful(answer, profile, seen)
    if isinstance(answer, Wait):
        full = profile.latency(subnet, profile.max_batch)
        assert sum(full <= query.deadline - NOW for query in seen.waiting) < profile.max_batch
        finish = answer.until + profile.latency(subnet, 1)
        assert finish <= seen.waiting[-1].deadline - margin + 1e-9


@given(profiles(), views(), st.integers(0, 6), st.floats(0.0, 2.0))
def test_all_in_a_batch_are_in_time(profile, seen, rank, margin):
    subnet = (*profile.subnets, "adaptive")[rank % (len(profile.subnets) + 1)]
    answer = Symphony(profile, subnet, margin).choose(seen, NOW)
    check_lawful(answer, profile, seen)
    if isinstance(answer, Choice):
        served = seen.waiting[answer.shed :][: answer.batch_size]
        latency = profile.latency(answer.subnet, answer.batch_size)
        assert all(latency <= query.deadline - NOW for query in served)


def test_nothing_waits_nothing_is_chosen():
    assert Symphony(HAND).choose(QueueView.of([]), NOW) is None
