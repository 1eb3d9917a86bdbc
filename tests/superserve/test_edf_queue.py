"""The EDF queue against a plain sorted list."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.types import Waiting
from superserve.edf_queue import EDFQueue, WaitingView, as_waiting
from superserve.messages import Query


def query(id_, deadline, floor=0.0):
    return Query(id_, 0.0, deadline, min_accuracy=floor)


def filled(*deadlines):
    queue = EDFQueue()
    for id_, deadline in enumerate(deadlines):
        queue.push(query(id_, deadline))
    return queue


def ids(queries):
    return [q.id for q in queries]


def test_queries_leave_by_deadline():
    assert ids(filled(3.0, 1.0, 2.0).take(3)) == [1, 2, 0]


def test_equal_deadlines_leave_in_the_order_of_arrival():
    assert ids(filled(2.0, 1.0, 2.0, 1.0).take(4)) == [1, 3, 0, 2]


def test_taking_more_than_waits_takes_all():
    queue = filled(1.0, 2.0)
    assert ids(queue.take(9)) == [0, 1]
    assert not queue


def test_taking_after_a_skip_leaves_the_head():
    queue = filled(1.0, 2.0, 3.0, 4.0)
    assert ids(queue.take(2, skip=1)) == [1, 2]
    assert ids(queue) == [0, 3]


def test_a_removed_query_does_not_wait_any_more():
    queue = filled(1.0, 2.0, 3.0)
    assert queue.remove(1) == query(1, 2.0)
    assert ids(queue) == [0, 2]
    assert 1 not in queue


def test_removing_what_does_not_wait_is_nothing():
    queue = filled(1.0)
    assert queue.remove(7) is None
    assert len(queue) == 1


def test_an_empty_queue_has_no_earliest_deadline():
    assert EDFQueue().head_deadline == float("inf")


@pytest.mark.parametrize(
    ("deadline", "expected"), [(0.5, 0), (1.0, 0), (1.5, 1), (2.0, 1), (2.5, 3), (9.0, 3)]
)
def test_rank_counts_the_deadlines_before(deadline, expected):
    assert filled(1.0, 2.0, 2.0).rank(deadline) == expected


def test_rank_counts_only_what_waits():
    queue = filled(1.0, 2.0, 3.0)
    queue.take(1)
    assert queue.rank(2.5) == 1


def test_a_query_is_held_by_identity_not_by_id():
    queue, first, second = EDFQueue(), query(1, 1.0), query(1, 1.0)
    queue.push(first)
    assert queue.holds(first)
    assert not queue.holds(second)


def test_repr_tells_length_and_head():
    assert repr(filled(2.0, 1.5)) == "<EDFQueue 2 waiting, head due 1.5>"
    assert repr(EDFQueue()) == "<EDFQueue 0 waiting>"


operations = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.integers(0, 9)),
        st.tuples(st.just("take"), st.integers(0, 4)),
        st.tuples(st.just("skip"), st.integers(0, 4)),
        st.tuples(st.just("remove"), st.integers(0, 60)),
    ),
    max_size=120,
)


@given(operations)
def test_any_sequence_of_operations_agrees_with_a_stable_sort(steps):
    queue, model, pushed = EDFQueue(), [], 0
    for step, number in steps:
        match step:
            case "push":
                new = query(pushed, float(number))
                queue.push(new)
                model = sorted([*model, new], key=lambda q: q.deadline)
                pushed += 1
            case "take":
                assert list(queue.take(number)) == model[:number]
                model = model[number:]
            case "skip":
                assert list(queue.take(2, number)) == model[number : number + 2]
                model = model[:number] + model[number + 2 :]
            case "remove":
                expected = next((q for q in model if q.id == number), None)
                assert queue.remove(number) == expected
                model = [q for q in model if q.id != number]
        assert list(queue) == model
        assert len(queue) == len(model)
        assert queue.head_deadline == (model[0].deadline if model else float("inf"))


def test_a_long_queue_keeps_its_order_while_it_forgets_what_was_served():
    queue = filled(*(float(place) for place in range(2000)))
    served = []
    while queue:
        served += ids(queue.take(7))
        if served[-1] < 1990:
            queue.push(query(10_000 + served[-1], 1990.5))
    assert served[:1991] == list(range(1991))
    assert len(queue.entries) == 0


def test_memory_does_not_grow_with_what_was_served():
    queue = filled(1e9)
    for id_ in range(1, 10_000):
        queue.push(query(id_, float(id_)))
        queue.take(1)
    assert len(queue.entries) < 1000


def test_a_view_shows_what_a_policy_may_know():
    queue = EDFQueue()
    queue.push(Query(1, 0.5, 2.0, "digits", priority=3, min_accuracy=71.0))
    assert list(WaitingView(queue)) == [Waiting(2.0, 3, 71.0, "digits")]


def test_a_view_is_read_like_a_list():
    queue = filled(3.0, 1.0, 2.0, 4.0)
    view = WaitingView(queue)
    listed = [as_waiting(q) for q in queue]
    assert len(view) == 4
    assert view[0] == listed[0]
    assert view[-1] == listed[-1]
    assert view[1:3] == tuple(listed[1:3])
    assert view[::-1] == tuple(listed[::-1])
    assert list(view) == listed
    for outside in (4, -5):
        with pytest.raises(IndexError):
            view[outside]


def test_a_view_may_begin_after_some():
    view = WaitingView(filled(1.0, 2.0, 3.0), skip=2)
    assert [w.deadline for w in view] == [3.0]
    assert view[-1].deadline == 3.0
    with pytest.raises(IndexError):
        view[-2]


def test_a_view_reads_only_as_deep_as_it_is_asked(monkeypatch):
    read = []
    monkeypatch.setattr("superserve.edf_queue.as_waiting", lambda q: read.append(q.id))
    view = WaitingView(filled(*range(100)))
    _ = view[0], view[1]
    assert read == [0, 1]
