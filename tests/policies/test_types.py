"""The vocabulary of policies: profiles, views, choices."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.types import Choice, Profile, QueueView, Waiting

TABLE = [
    ("large", 80.0, {1: 4.0, 2: 7.0, 4: 13.0}),
    ("small", 70.0, {1: 1.0, 2: 1.5, 4: 2.5}),
    ("mid", 75.0, {1: 2.0, 2: 3.2, 4: 5.5}),
]


@pytest.fixture
def profile():
    return Profile.from_table(TABLE)


def test_from_table_orders_subnets_by_accuracy(profile):
    assert profile.subnets == ("small", "mid", "large")
    assert profile.accuracies == (70.0, 75.0, 80.0)
    assert (profile.smallest, profile.largest) == ("small", "large")


def test_from_table_orders_batch_sizes():
    profile = Profile.from_table([("only", 50.0, {4: 3.0, 1: 1.0})])
    assert profile.batch_sizes == (1, 4)
    assert profile.latencies == ((1.0, 3.0),)


def test_from_table_reads_its_rows_once():
    assert Profile.from_table(iter(TABLE)) == Profile.from_table(TABLE)


@pytest.mark.parametrize(
    ("batch", "expected"),
    [(1, 2.0), (2, 3.2), (3, 5.5), (4, 5.5)],
)
def test_a_batch_between_two_sizes_costs_what_the_next_larger_one_costs(profile, batch, expected):
    assert profile.latency("mid", batch) == expected


@pytest.mark.parametrize("batch", [0, -1, 5])
def test_a_batch_outside_the_profile_has_no_latency(profile, batch):
    with pytest.raises(ValueError, match=r"outside 1\.\.4"):
        profile.latency("mid", batch)


@pytest.mark.parametrize(
    ("budget", "expected"),
    [(0.9, 0), (1.0, 1), (1.4, 1), (1.5, 2), (2.5, 4), (99.0, 4)],
)
def test_largest_batch_within_a_budget(profile, budget, expected):
    assert profile.largest_batch("small", budget) == expected


@pytest.mark.parametrize(
    ("floor", "expected"),
    [(0.0, "small"), (70.0, "small"), (70.1, "mid"), (80.0, "large"), (80.1, None)],
)
def test_cheapest_above_a_floor(profile, floor, expected):
    assert profile.cheapest_above(floor) == expected


@pytest.mark.parametrize(
    ("waiting", "expected"), [(0, 1), (1, 1), (2, 2), (3, 2), (4, 4), (500, 4)]
)
def test_batch_bucket_is_the_largest_size_that_the_queue_fills(profile, waiting, expected):
    assert profile.batch_bucket(waiting) == expected


def test_batch_bucket_is_never_below_the_smallest_size():
    assert Profile.from_table([("only", 50.0, {4: 3.0, 8: 5.0})]).batch_bucket(1) == 4


def test_an_unknown_subnet_is_answered_with_the_known_ones(profile):
    with pytest.raises(KeyError, match="small, mid, large"):
        profile.latency("huge", 1)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "at least one subnet"),
        ([("a", 1.0, {})], "at least one subnet and one batch"),
        ([("a", 1.0, {1: 1.0}), ("a", 2.0, {1: 2.0})], "listed twice"),
        ([("a", 1.0, {1: 1.0}), ("b", 2.0, {2: 2.0})], "not profiled at the batch sizes"),
        ([("a", 1.0, {0: 1.0})], "ascend from 1"),
        ([("a", 1.0, {1: 0.0})], "positive seconds"),
        ([("a", 1.0, {1: -1.0})], "positive seconds"),
        ([("a", 1.0, {1: float("nan")})], "positive seconds"),
        ([("a", 1.0, {1: float("inf")})], "positive seconds"),
        ([("a", float("nan"), {1: 1.0})], "accuracies must be numbers"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused_with_a_reason(rows, message):
    with pytest.raises(ValueError, match=message):
        Profile.from_table(rows)


def test_the_constructor_refuses_subnets_out_of_order():
    with pytest.raises(ValueError, match="ascending accuracy"):
        Profile(("a", "b"), (2.0, 1.0), (1,), ((1.0,), (2.0,)))


def test_the_constructor_refuses_a_missing_row():
    with pytest.raises(ValueError, match="one latency row per subnet"):
        Profile(("a", "b"), (1.0, 2.0), (1,), ((1.0,),))


def test_the_constructor_refuses_a_short_row():
    with pytest.raises(ValueError, match="one latency per batch size"):
        Profile(("a",), (1.0,), (1, 2), ((1.0,),))


rows = st.lists(
    st.tuples(
        st.integers(1, 4).map(float),
        st.tuples(st.integers(1, 4).map(float), st.integers(1, 4).map(float)),
    ),
    min_size=1,
    max_size=8,
).map(
    lambda found: [
        (f"s{i}", accuracy, dict(zip((1, 2), times, strict=True)))
        for i, (accuracy, times) in enumerate(found)
    ]
)


def beats(one, other):
    """No less accurate, nowhere slower, and not the same."""
    better = one[1] >= other[1] and all(one[2][b] <= other[2][b] for b in other[2])
    return better and one[1:] != other[1:]


@given(rows)
def test_pareto_keeps_exactly_what_nothing_beats(table):
    kept = {
        (accuracy, times)
        for accuracy, times in zip(
            Profile.from_table(table).pareto().accuracies,
            Profile.from_table(table).pareto().latencies,
            strict=True,
        )
    }
    expected = {
        (row[1], tuple(row[2].values())) for row in table if not any(beats(o, row) for o in table)
    }
    assert kept == expected


@given(rows)
def test_pareto_keeps_one_of_several_equal_subnets(table):
    profile = Profile.from_table(table).pareto()
    pairs = list(zip(profile.accuracies, profile.latencies, strict=True))
    assert len(pairs) == len(set(pairs))


def test_a_view_of_deadlines_is_in_edf_order():
    view = QueueView.of([3.0, 1.0, 2.0])
    assert [w.deadline for w in view.waiting] == [1.0, 2.0, 3.0]
    assert view.head == Waiting(1.0)
    assert len(view) == 3


def test_a_view_of_nothing_has_no_head():
    with pytest.raises(IndexError):
        _ = QueueView.of([]).head


@pytest.mark.parametrize(("batch", "shed"), [(0, 0), (-1, 0), (1, -1)])
def test_a_choice_without_queries_is_no_choice(batch, shed):
    with pytest.raises(ValueError, match="batch of 1 or more"):
        Choice("small", batch, shed)
