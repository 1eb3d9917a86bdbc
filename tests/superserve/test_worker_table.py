"""Credits, and the time until a worker is done."""

import pytest

from policies.types import WorkerView
from superserve.messages import Dispatch
from superserve.worker_table import WorkersView, WorkerTable


def dispatch(id_, worker, start, finish):
    return Dispatch(id_, worker, "", "s", 70.0, (), start, finish)


@pytest.fixture
def table():
    """Three workers, the second of which may hold two dispatches."""
    table = WorkerTable()
    for name, credits in (("a", 1), ("b", 2), ("c", 1)):
        table.join(name, "cpu", credits)
    return table


def begin(table, name, id_, start, finish):
    worker = next(w for w in table if w.name == name)
    table.begin(worker, dispatch(id_, name, start, finish))
    return worker


def names(table):
    return [worker.name for worker in table.candidates()]


def test_idle_workers_are_asked_in_the_order_of_joining(table):
    assert names(table) == ["a", "b", "c"]


def test_a_busy_worker_with_a_credit_is_asked_after_the_idle_ones(table):
    begin(table, "b", 0, 0.0, 5.0)
    assert names(table) == ["a", "c", "b"]


def test_of_busy_workers_the_one_that_is_done_first_is_asked_first():
    table = WorkerTable()
    for name in "ab":
        table.join(name, "cpu", 2)
    begin(table, "a", 0, 0.0, 5.0)
    begin(table, "b", 1, 0.0, 4.0)
    assert names(table) == ["b", "a"]


def test_a_worker_without_a_credit_is_not_asked(table):
    begin(table, "a", 0, 0.0, 5.0)
    begin(table, "b", 1, 0.0, 5.0)
    begin(table, "b", 2, 5.0, 7.0)
    assert names(table) == ["c"]


def test_giving_work_to_a_worker_without_a_credit_is_a_bug(table):
    begin(table, "a", 0, 0.0, 5.0)
    with pytest.raises(AssertionError, match="a has no credit"):
        begin(table, "a", 1, 5.0, 6.0)


def test_an_ended_dispatch_gives_its_credit_back_at_the_old_place(table):
    begin(table, "a", 0, 0.0, 5.0)
    ended = table.end("a", 0, 5.0)
    assert ended is not None
    assert ended.dispatch == dispatch(0, "a", 0.0, 5.0)
    assert names(table) == ["a", "b", "c"]


def test_a_worker_that_has_all_its_credits_back_is_asked_once(table):
    begin(table, "b", 0, 0.0, 5.0)
    table.end("b", 0, 5.0)
    assert names(table) == ["a", "b", "c"]


@pytest.mark.parametrize(("name", "id_"), [("a", 1), ("b", 0), ("nobody", 0)])
def test_only_who_holds_a_dispatch_can_end_it(table, name, id_):
    begin(table, "a", 0, 0.0, 5.0)
    assert table.end(name, id_, 5.0) is None
    assert names(table) == ["b", "c"]


def test_a_lost_worker_is_not_asked_and_still_shows_what_it_held(table):
    begin(table, "b", 0, 0.0, 5.0)
    assert list(table.lose("b").in_flight) == [0]
    assert table.lose("a").in_flight == {}
    assert table.lose("a") is None
    assert names(table) == ["c"]
    assert len(table) == 1


def test_the_residual_is_the_planned_rest(table):
    worker = begin(table, "b", 0, 0.0, 5.0)
    assert worker.residual(2.0) == 3.0
    assert worker.residual(9.0) == 0.0  # overdue: it may be done at any moment


def test_an_idle_worker_has_no_residual(table):
    worker = begin(table, "b", 0, 0.0, 5.0)
    table.end("b", 0, 1.0)
    assert worker.residual(2.0) == 0.0


@pytest.mark.parametrize("ended", [3.0, 9.0])
def test_what_comes_next_begins_when_the_one_before_ends_be_it_early_or_late(table, ended):
    worker = begin(table, "b", 0, 0.0, 5.0)
    begin(table, "b", 1, 5.0, 7.0)
    table.end("b", 0, ended)
    assert worker.busy_until == ended + 2.0


def test_a_worker_is_overdue_when_all_that_it_holds_should_have_been_done(table):
    begin(table, "b", 0, 0.0, 5.0)
    begin(table, "b", 1, 5.0, 7.0)
    assert table.overdue(7.0) == []
    assert table.overdue(7.5) == ["b"]


def test_a_view_shows_names_types_and_residuals(table):
    begin(table, "b", 0, 0.0, 5.0)
    view = WorkersView(list(table), 2.0)
    assert len(view) == 3
    assert view[1] == WorkerView("b", "cpu", 3.0, "s")
    assert view[1:] == (view[1], view[2])
    assert [w.residual for w in view] == [0.0, 3.0, 0.0]
