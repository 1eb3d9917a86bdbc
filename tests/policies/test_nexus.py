"""Nexus against its own dispatch loops, and early drop in front of other policies."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import load_policy
from policies.maxbatch import MaxBatch
from policies.nexus import EarlyDrop, Nexus
from policies.slackfit import SlackFit
from policies.types import Choice, Profile, QueueView, Wait
from tests.policies.hand import HAND, NOW
from tests.policies.test_clockwork import check_lawful, view, views
from tests.policies.test_promises import profiles

# Every size is profiled, as Nexus assumes: 1 second and half a second for each query.
DENSE = Profile.from_table([("only", 70.0, {size: 1.0 + size / 2 for size in range(1, 9)})])


# The largest batch of which two fit into the SLO: mid takes 2.0, 3.2 and 5.5 for 1, 2 and 4.
@pytest.mark.parametrize(
    ("slo", "batch", "why"),
    [
        (None, 4, "no plan: the largest"),
        (11.0, 4, "two of 5.5"),
        (10.9, 2, "two of 3.2"),
        (6.4, 2, "just"),
        (6.3, 1, "two of 2.0"),
        (1.0, 1, "the smallest, although not even that fits twice"),
    ],
)
def test_two_batches_of_the_planned_size_fit_into_the_slo(slo, batch, why):
    policy = Nexus(HAND, "mid", slo)
    assert policy.choose(view(*[50.0] * 9), NOW) == Choice("mid", batch), why


# 8 wait; in time for a batch of 4 (3.0 seconds) or not.
@pytest.mark.parametrize(
    ("drop", "slacks", "expected", "why"),
    [
        ("early", [2.9, 2.9, 3.0, 3, 3, 3, 3, 3], (4, 2), "until four are in time for the third"),
        ("early", [2.0] * 5 + [2.4, 2.5, 2.5], (2, 6), "2.4 is too short for the last three"),
        ("lazy", [2.0] * 5 + [2.4, 2.5, 2.5], (2, 0), "as many as the first allows: two take 2.0"),
        ("lazy", [1.4, 1.5, 9, 9, 9, 9, 9, 9], (1, 1), "1.4 serves nobody; 1.5 serves one"),
    ],
)
def test_heads_are_dropped_early_for_a_full_batch_or_late_for_one_query(
    drop, slacks, expected, why
):
    policy = Nexus(DENSE, slo=6.0, drop=drop)
    assert policy.choose(view(*slacks), NOW) == Choice("only", *expected), why


def sliding_window(planned, slacks):
    """GetBatchTaskSlidingWindow as it is told in backend/model_exec.cpp: (batch, dropped)."""
    queue, batch, dropped = sorted(slacks), 0, 0
    expected = min(planned, len(queue))
    while batch < expected and queue:
        if queue.pop(0) < DENSE.latency("only", expected):
            dropped += 1
        else:
            batch += 1
        expected = min(expected, batch + len(queue))
        if not expected:
            break
    return batch, dropped


def earliest(planned, slacks):
    """GetBatchTaskEarliest, but for its strict comparison: (batch, dropped)."""
    queue, dropped = sorted(slacks), 0
    while queue and queue[0] < DENSE.latency("only", 1):
        del queue[0]
        dropped += 1
    batch = min(1, len(queue))
    while batch < min(planned, len(queue)) and DENSE.latency("only", batch + 1) <= queue[0]:
        batch += 1
    return batch, dropped


@pytest.mark.parametrize(("drop", "loop"), [("early", sliding_window), ("lazy", earliest)])
@given(slacks=st.lists(st.integers(0, 24), min_size=1, max_size=20), planned=st.integers(1, 8))
def test_dispatch_is_that_of_the_published_code(drop, loop, slacks, planned):
    slacks = [slack / 4 for slack in slacks]
    policy = Nexus(DENSE, slo=2 * DENSE.latency("only", planned), drop=drop)
    batch, dropped = loop(planned, slacks)
    assert policy.choose(view(*slacks), NOW) == Choice("only", max(batch, 1), dropped)


def test_nexus_refuses_a_drop_rule_without_a_meaning():
    with pytest.raises(ValueError, match="early or lazy"):
        Nexus(HAND, drop="none")


@given(profiles(), views(), st.none() | st.floats(0.1, 60.0), st.sampled_from(["early", "lazy"]))
def test_nexus_is_lawful_whatever_waits(profile, seen, slo, drop):
    check_lawful(Nexus(profile, slo=slo, drop=drop).choose(seen, NOW), profile, seen)


class Inner:
    """Remembers what it was asked, and gives the answer that it was made with."""

    tick_period = 0.5

    def __init__(self, answer):
        self.answer = answer
        self.asked = []
        self.ticked = []

    def choose(self, view, now):
        self.asked.append((tuple(query.deadline - NOW for query in view.waiting), now - NOW))
        return self.answer

    def admit(self, view, waiting):
        return waiting.priority > 0

    def on_tick(self, view, now):
        self.ticked.append(now)


def early_drop(answer, margin=0.0):
    inner = Inner(answer)
    return inner, EarlyDrop(HAND, lambda profile: inner, margin)


# small takes 1.0, 1.5 and 2.5 seconds for 1, 2 and 4.
@pytest.mark.parametrize(
    ("margin", "slacks", "rest", "why"),
    [
        (0.0, (2.5, 3.0, 3.0, 3.0), 4, "four are in time for the first"),
        (0.0, (2.4, 3.0, 3.0, 3.0, 3.0), 4, "four are in time only without the first"),
        (0.0, (2.4, 2.4, 2.4, 2.4), 3, "without the first, only two can be filled: 1.5"),
        (0.0, (1.2, 1.4, 1.5, 1.5), 2, "two are in time for the third"),
        (0.0, (0.9, 1.0), 1, "one"),
        (0.5, (2.5, 3.0, 3.0, 3.0, 3.0), 4, "as if half a second later"),
    ],
)
def test_the_inner_policy_sees_what_is_left_for_a_full_batch(margin, slacks, rest, why):
    inner, policy = early_drop(Choice("mid", 2, 1), margin)
    answer = policy.choose(view(*slacks), NOW)
    assert inner.asked == [(pytest.approx(slacks[-rest:]), margin)], why
    # What the inner policy sheds comes on top.
    assert answer == Choice("mid", 2, len(slacks) - rest + 1)


def test_the_inner_policy_sees_the_rest_of_the_view_as_it_is():
    seen = []

    class Reads:
        def choose(self, view, now):
            seen.append(replace(view, waiting=()))

    whole = replace(view(0.5, 9.0), arrival_rate=3.0, dispersion=2.0, asking="w1", capacity=7.0)
    EarlyDrop(HAND, lambda profile: Reads()).choose(whole, NOW)
    assert seen == [replace(whole, waiting=())]


def test_when_nothing_is_left_all_is_shed():
    inner, policy = early_drop(Choice("mid", 2))
    assert policy.choose(view(0.5, 0.9), NOW) == Choice("small", 1, 2)
    assert not inner.asked


def test_a_wait_ends_the_margin_earlier_than_the_inner_policy_says():
    _, policy = early_drop(Wait(NOW + 3.0), 0.5)
    assert policy.choose(view(9.0), NOW) == Wait(NOW + 2.5)
    _, policy = early_drop(Wait(NOW + 0.5 + 1e-14), 0.5)
    assert policy.choose(view(9.0), NOW).until > NOW
    _, policy = early_drop(None)
    assert policy.choose(view(9.0), NOW) is None


def test_admission_and_ticks_are_those_of_the_inner_policy():
    inner, policy = early_drop(None)
    policy.on_tick(view(1.0), 7.0)
    assert inner.ticked == [7.0]
    assert policy.tick_period == 0.5
    assert not policy.admit(view(1.0), view(1.0).head)
    plain = EarlyDrop(HAND)
    assert not any(hasattr(plain, name) for name in ("admit", "on_tick", "tick_period"))


def test_what_is_left_can_be_read_like_any_sequence():
    seen = []

    class Reads:
        def choose(self, view, now):
            waiting = view.waiting
            seen.extend([len(waiting), waiting[0], waiting[-1], waiting[1:], list(waiting)])
            with pytest.raises(IndexError):
                waiting[2]
            with pytest.raises(IndexError):
                waiting[-3]

    whole = view(0.5, 2.0, 3.0)
    EarlyDrop(HAND, lambda profile: Reads(), 0.0).choose(whole, NOW)
    _, second, third = whole.waiting
    assert seen == [2, second, third, (third,), [second, third]]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "EarlyDrop(SlackFit(buckets=7, reading='a5'), margin=0.001)"),
        ({"inner": "maxbatch"}, "EarlyDrop(MaxBatch(queue_aware=True), margin=0.001)"),
        ({"inner": "maxacc", "margin": "0.002"}, "EarlyDrop(MaxAcc(), margin=0.002)"),
    ],
)
def test_the_inner_policy_can_be_named_in_text(options, expected):
    assert repr(load_policy("policies.nexus:EarlyDrop", options)(HAND)) == expected


def test_early_drop_refuses_an_unknown_inner_policy_and_a_negative_margin():
    with pytest.raises(ValueError, match="slackfit, maxbatch, maxacc"):
        EarlyDrop(HAND, "fixed")
    with pytest.raises(ValueError, match="0 or more"):
        EarlyDrop(HAND, margin=-0.1)


@given(profiles(), views(), st.sampled_from([SlackFit, MaxBatch]), st.floats(0.0, 3.0))
def test_behind_early_drop_a_greedy_policy_is_in_time_by_the_margin(profile, seen, inner, margin):
    answer = EarlyDrop(profile, inner, margin).choose(seen, NOW)
    check_lawful(answer, profile, seen)
    served = seen.waiting[answer.shed :][: answer.batch_size]
    latency = profile.latency(answer.subnet, answer.batch_size)
    assert all(latency <= query.deadline - (NOW + margin) for query in served)


@given(profiles(), st.integers(1, 40))
def test_nobody_is_shed_while_a_full_batch_is_in_time(profile, queue):
    full = profile.latency(profile.smallest, profile.batch_bucket(queue))
    seen = QueueView.of([NOW + full + 1.0] * queue)
    assert EarlyDrop(profile, MaxBatch, 0.0).choose(seen, NOW).shed == 0


def test_nothing_waits_nothing_is_chosen():
    for policy in (Nexus(HAND), EarlyDrop(HAND)):
        assert policy.choose(QueueView.of([]), NOW) is None
