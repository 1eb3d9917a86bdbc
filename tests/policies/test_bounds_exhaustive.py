"""The exhaustive optimum and the integer program against optima worked out by hand."""

import pytest

from policies.bounds import exhaustive as module
from policies.bounds import exhaustive_optimum, zilp_bound
from policies.types import Profile
from tests.policies.hand import HAND

ONE_OF_TWO = Profile.from_table([("other", 90.0, {1: 3.0, 2: 3.0})])

# arrivals, deadlines, workers, penalty, utility, why
BY_HAND = [
    ([0], [4.0], 1, 100, 80, "large finishes at 4, just in time"),
    ([0], [3.9], 1, 100, 75, "large does not, mid does"),
    ([0], [0.9], 1, 100, -100, "nothing does"),
    ([2], [4.0], 1, 100, 75, "two seconds from the arrival are left"),
    ([0, 0], [4, 4], 1, 100, 75, "mid: both in 3.2, or one after the other"),
    ([0, 0], [4, 4], 2, 100, 80, "large alone on each worker"),
    ([0, 1], [8, 8], 1, 100, 80, "worth waiting: both with large from 1 to 8"),
    ([0, 1], [8, 7.9], 1, 100, 77.5, "too late for that: one with large, one with mid"),
    ([0, 0, 0], [1, 1, 1], 1, 100, (70 - 200) / 3, "one with small; two would take 1.5"),
    ([0, 0, 0], [1, 1, 1], 1, 0, 70 / 3, "the same, and a miss costs nothing"),
    ([0, 0, 0], [4, 4, 4], 1, 0, (70 + 70 + 75) / 3, "small for two, then mid: 1.5 + 2"),
    ([0] * 4, [2.5] * 4, 1, 100, 70, "a full batch of small"),
    ([0] * 3, [2.5] * 3, 1, 100, 70, "three are padded to four"),
    ([0] * 3, [2.4] * 3, 1, 100, (70 + 70 - 100) / 3, "which takes 2.5: only two"),
    (
        [0, 0, 3],
        [10, 10, 4],
        1,
        100,
        75,
        "not in EDF order: mid from 0 to 2, the most urgent from 3 to 4, then large from 4 to 8",
    ),
]


@pytest.mark.parametrize(("arrivals", "deadlines", "workers", "penalty", "utility", "why"), BY_HAND)
def test_exhaustive_finds_the_optimum(arrivals, deadlines, workers, penalty, utility, why):
    found = exhaustive_optimum(arrivals, deadlines, HAND, workers, penalty=penalty)
    assert found.utility == pytest.approx(utility), why


@pytest.mark.parametrize(("arrivals", "deadlines", "workers", "penalty", "utility", "why"), BY_HAND)
def test_zilp_finds_the_optimum(arrivals, deadlines, workers, penalty, utility, why):
    found = zilp_bound(arrivals, deadlines, HAND, workers, penalty=penalty)
    assert (found.bound, found.value) == pytest.approx((utility, utility), abs=1e-4), why


def test_the_schedule_that_is_returned_is_the_one_worked_out_by_hand():
    found = exhaustive_optimum([0, 0, 3], [10, 10, 4], HAND)

    runs = [(batch.subnet, batch.start, batch.finish) for batch in found.batches]
    assert sorted(runs) == [("large", 4, 8), ("mid", 0, 2), ("small", 3, 4)] or sorted(runs) == [
        ("large", 4, 8),
        ("mid", 8, 10),
        ("small", 3, 4),
    ]
    assert {batch.queries for batch in found.batches if batch.subnet == "small"} == {(2,)}


def test_queries_keep_the_order_in_which_they_were_given():
    found = exhaustive_optimum([5, 0], [9, 1], HAND)
    assert [(batch.subnet, batch.queries) for batch in found.batches] == [
        ("small", (1,)),
        ("large", (0,)),
    ]


def test_each_device_type_has_its_own_latencies():
    # One worker that runs two queries in 3 s at 90 %, one of HAND: the third query gets 80 %.
    found = exhaustive_optimum([0, 0, 0], [4, 4, 4], [HAND, ONE_OF_TWO], [1, 1])

    assert found.utility == pytest.approx((90 + 90 + 80) / 3)
    assert sorted((batch.device, len(batch.queries)) for batch in found.batches) == [(0, 1), (1, 2)]


def test_zilp_on_several_device_types():
    found = zilp_bound([0, 0, 0], [4, 4, 4], [HAND, ONE_OF_TWO], [1, 1])
    assert found.bound == pytest.approx((90 + 90 + 80) / 3, abs=1e-4)


@pytest.mark.parametrize(
    ("workers", "utility", "why"),
    [
        ([(0, 1), (3, 0)], 75, "the worker leaves at 3: mid is done by then, large is not"),
        ([(0, 1), (4, 0)], 80, "it leaves at 4, when large is done"),
        ([(0, 0), (3, 1)], 70, "it joins at 3: one second is left"),
        ([(3, 1)], 70, "there is none before the first step"),
        ([(0, 1), (1, 0), (2, 1)], 75, "a batch does not survive the gap: mid from 2 to 4"),
        ([(0, 0)], -100, "there is none at all"),
    ],
)
def test_zilp_counts_the_workers_there_are_at_each_time(workers, utility, why):
    assert zilp_bound([0], [4], HAND, workers).bound == pytest.approx(utility, abs=1e-4), why
    assert zilp_bound([0], [4], HAND, workers, step=0.5).bound >= utility - 1e-4


@pytest.mark.parametrize(("arrivals", "deadlines", "workers", "penalty", "utility", "why"), BY_HAND)
def test_a_grid_that_divides_all_times_is_exact(
    arrivals, deadlines, workers, penalty, utility, why
):
    found = zilp_bound(arrivals, deadlines, HAND, workers, penalty=penalty, step=0.1)
    assert found.bound == pytest.approx(utility, abs=1e-4), why
    assert not found.exact


def test_a_coarse_grid_errs_on_the_upper_side():
    # Exactly, two of the three are served: small takes 1.5 s for two and 2.5 s for more. On cells
    # of 0.7 s a batch of two occupies only two cells, and one may start in the third.
    exact = zilp_bound([0] * 3, [2.4] * 3, HAND)
    coarse = zilp_bound([0] * 3, [2.4] * 3, HAND, step=0.7)
    assert exact.bound == pytest.approx((70 + 70 - 100) / 3, abs=1e-4)
    assert coarse.bound == pytest.approx(70, abs=1e-4)


def test_a_bound_that_ran_out_of_time_is_still_a_bound():
    arrivals = [0.5 * i for i in range(8)]
    deadlines = [a + 5 for a in arrivals]
    stopped = zilp_bound(arrivals, deadlines, HAND, step=0.5, time_limit=1e-3)
    done = zilp_bound(arrivals, deadlines, HAND, step=0.5)
    assert stopped.bound >= done.bound - 1e-4
    assert stopped.value <= done.value + 1e-4
    assert stopped.bound <= 80 + 1e-9


def test_rounding_in_sums_of_latencies_loses_no_schedule():
    # 0.1 + 0.2 is a little more than 0.3 in binary; three batches of one end to end just fit.
    profile = Profile.from_table([("only", 50.0, {1: 0.1})])
    deadline = 0.1 * 3
    assert exhaustive_optimum([0, 0, 0], [0.3] * 3, profile).utility == pytest.approx(50)
    assert zilp_bound([0, 0, 0], [deadline] * 3, profile).bound == pytest.approx(50, abs=1e-4)


def test_too_many_queries_are_refused():
    many = module.MOST_QUERIES + 1
    with pytest.raises(ValueError, match="too many"):
        exhaustive_optimum([0] * many, [1] * many, HAND)
    with pytest.raises(ValueError, match="step"):
        zilp_bound([0.0137 * i for i in range(60)], [50] * 60, HAND)
    with pytest.raises(ValueError, match="larger step"):
        zilp_bound([0], [1000], HAND, step=1e-3)


def test_what_the_search_cannot_do_is_refused():
    with pytest.raises(ValueError, match="neither come nor go"):
        exhaustive_optimum([0], [4], HAND, [(0, 1), (3, 0)])
    with pytest.raises(ValueError, match="step must be"):
        zilp_bound([0], [4], HAND, step=0.0)
