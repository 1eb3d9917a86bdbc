"""Live beside simulated, worked out by hand."""

import pytest

from loadtest.compare.cells import Finished
from loadtest.compare.results import Results
from loadtest.compare.study import Cell, PolicySpec, Prepared, Setting, Study, WorkloadSpec
from loadtest.compare.summary import RunSummary
from loadtest.experiment.fidelity import error, pairs
from loadtest.experiment.plots import plot_fidelity
from policies.types import Profile

PROFILE = Profile.from_table([("one", 90.0, {1: 0.01})])
STUDY = Study(
    "s",
    (PolicySpec("maxacc"), PolicySpec("maxbatch")),
    (WorkloadSpec({"kind": "poisson", "rate": 1.0, "seconds": 1.0}),),
    seeds=(0, 1),
    workers=(1,),
)
SETTING = Setting("Poisson 1 q/s", 1)


def run(attainment, accuracy):
    return RunSummary(10, attainment, accuracy, 0.0, 0.0, 0.1, 0.2, 0.0, 0.0, 5, 2.0, 0, None, None)


def results(found):
    finished = [Finished(Cell(SETTING, seed, policy), run=run(*values))
                for (policy, seed), values in found.items()]  # fmt: skip
    return Results.of(Prepared(STUDY, PROFILE), finished, [])


LIVE = results(
    {("maxacc", 0): (0.9, 90.0), ("maxacc", 1): (0.8, 91.0), ("maxbatch", 0): (1.0, None)}
)
SIMULATED = results(
    {("maxacc", 0): (0.8, 89.0), ("maxacc", 1): (0.8, 90.0), ("maxbatch", 0): (0.98, 88.0)}
)


def test_a_pair_is_the_means_over_the_seeds_of_both_sides():
    first, second = pairs(LIVE, SIMULATED)

    assert first.attainment == pytest.approx((85.0, 80.0))
    assert first.accuracy == pytest.approx((90.5, 89.5))
    assert (first.seeds, second.seeds) == (2, 1)


def test_a_side_without_an_accuracy_makes_no_pair_of_it():
    assert pairs(LIVE, SIMULATED)[1].accuracy is None


def test_what_ran_on_one_side_only_is_left_out():
    assert [pair.policy for pair in pairs(LIVE, results({("maxacc", 1): (0.5, 90.0)}))] == [
        "maxacc"
    ]


def test_errors_are_absolute_and_the_bias_is_not():
    found = error([(90.0, 91.0), None, (80.0, 77.0)])

    assert (found.mean, found.worst, found.bias, found.count) == (2.0, 3.0, 1.0, 2)
    assert error([None]) is None


def test_the_picture_is_drawn_where_there_is_something_to_compare(tmp_path):
    drawn, empty = tmp_path / "drawn.png", tmp_path / "empty.png"

    assert plot_fidelity(drawn, pairs(LIVE, SIMULATED), ["maxacc", "maxbatch"])
    assert drawn.read_bytes().startswith(b"\x89PNG")
    assert not plot_fidelity(empty, (), ["maxacc"])
    assert not empty.exists()
