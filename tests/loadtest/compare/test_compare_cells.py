"""A cell is the simulation that the study describes, and its summary is what its records say."""

from collections import Counter
from dataclasses import replace
from math import inf, isnan

import numpy as np
import orjson
import pytest

from loadtest.compare import Failures, PolicySpec, Serving, WorkloadSpec
from loadtest.compare.cells import Finished, draw_slos, file_name, load_of, run_cell, simulated
from loadtest.compare.study import Cell, Prepared, Setting, fleet_sizes
from loadtest.compare.summary import RunSummary, Timeline, nice_window
from loadtest.report import summarise
from loadtest.simulation_workers import Fail, Join, Restart, WorkerSpec
from superserve.errors import ConfigError
from tests.loadtest.compare.small_study import POISSON, small_study

CALM = Setting("calm", 2)
HEAVY = {"kind": "gamma", "rate": 3000, "cv2": 4, "seconds": 0.5}


IT = PolicySpec("slackfit", label="it")


def prepared(policy=IT, workload=None, **changes):
    workload = workload or WorkloadSpec(POISSON, label="calm")
    return Prepared.of(small_study(policies=(policy,), workloads=(workload,), **changes))


def outcomes(policy, workload=None):
    given = prepared(policy, workload)
    return simulated(given, Cell(CALM, 0, policy.label), load_of(given, CALM, 0))


@pytest.mark.parametrize("late", ["drop", "serve"])
def test_a_summary_is_what_the_records_of_the_same_run_say(late):
    policy = PolicySpec("slackfit", label="it", serving=Serving(late=late))
    found = outcomes(policy, WorkloadSpec(HEAVY, label="calm"))
    summary, report = RunSummary.of(found, [3e-6, 1e-6, 2e-6]), summarise(found.records())

    assert 0 < report.attainment < 1
    assert summary.queries == report.queries
    assert summary.attainment == pytest.approx(report.attainment)
    assert summary.mean_accuracy == pytest.approx(report.mean_accuracy)
    assert summary.effective_accuracy == pytest.approx(report.effective_accuracy)
    assert summary.utility == pytest.approx(report.utility)
    assert summary.latency_p50 == report.latency.p50
    assert summary.latency_p99 == report.latency.p99
    assert summary.dropped == pytest.approx(sum(report.dropped.values()) / report.queries)
    assert summary.late == pytest.approx(report.late / report.queries)
    assert (summary.late > 0) == (late == "serve")
    assert summary.mean_batch == pytest.approx(sum(report.subnets.values()) / summary.batches)
    assert (summary.decisions, summary.decision_median) == (3, 2e-6)


def test_a_run_in_which_nothing_is_answered_has_a_summary():
    policy = PolicySpec("slackfit", label="it", serving=Serving(loading=10.0))
    found = run_cell(prepared(policy), Cell(CALM, 0, "it")).run

    assert (found.attainment, found.utility) == (0.0, -100.0)
    assert found.mean_accuracy is None


def test_a_timeline_counts_every_query_once():
    found = outcomes(IT)
    timeline = Timeline.of(found)

    assert timeline.window == pytest.approx(0.01)
    assert sum(timeline.rate) * timeline.window == pytest.approx(len(found))
    missed = sum(r * (1 - a) for r, a in zip(timeline.rate, timeline.attainment, strict=True)
                 if r)  # fmt: skip
    assert missed * timeline.window == pytest.approx(len(found) - found.met.sum(), abs=1e-3)
    assert max(v for v in timeline.slack if not isnan(v)) <= 0.036


@pytest.mark.parametrize(
    ("seconds", "window"),
    [(60.0, 1.0), (61.0, 2.0), (120.0, 2.0), (121.0, 5.0), (301.0, 10.0), (0.6, 0.01), (0.0, 2e-5)],
)
def test_windows_are_round_and_about_sixty(seconds, window):
    assert nice_window(seconds) == pytest.approx(window)


def test_only_the_first_seed_has_a_timeline():
    given = prepared()
    drawn = [run_cell(given, Cell(CALM, seed, "it")).timeline is not None for seed in (0, 1)]

    assert drawn == [True, False]


def test_a_finished_cell_comes_back_from_json():
    given = prepared()
    for cell in (Cell(CALM, 0, "it"), Cell(CALM, 1, "it"), Cell(CALM, 0)):
        found = run_cell(given, cell)
        back = Finished.read(orjson.loads(orjson.dumps(found.document())))
        assert repr(back) == repr(found)  # nan equals itself in text only


def test_slos_are_drawn_with_their_shares_and_by_the_seed():
    mix = ((0.018, 0.2), (0.1, 0.8))
    drawn = draw_slos(mix, 20_000, seed=3)

    assert Counter(drawn.tolist())[0.018] / 20_000 == pytest.approx(0.2, abs=0.01)
    assert np.array_equal(drawn, draw_slos(mix, 20_000, seed=3))
    assert not np.array_equal(drawn, draw_slos(mix, 20_000, seed=4))
    assert draw_slos(0.036, 2, seed=0).tolist() == [0.036, 0.036]


def test_no_schedule_of_a_study_exceeds_its_bound():
    mixed = WorkloadSpec(HEAVY, slo=((0.018, 0.5), (0.1, 0.5)), label="calm")
    given = prepared(PolicySpec("dualfit", label="it"), mixed)
    bound = run_cell(given, Cell(CALM, 0)).bound

    assert run_cell(given, Cell(CALM, 0, "it")).run.utility <= bound.utility <= bound.fluid_utility


def test_the_margin_is_planned_but_not_taken():
    """The largest subnet takes 4.64 ms for one query and 30.70 for 16. Of 40 at once two go alone;
    then 31.36 ms are left of the SLO, enough for 16, but not with 6 ms more.
    """
    burst = WorkloadSpec({"kind": "constant", "rate": 400_000, "seconds": 1e-4}, label="calm")
    fixed = PolicySpec("fixed", {"subnet": "largest"}, "it")
    plain = outcomes(fixed, burst).dispatches
    careful = outcomes(replace(fixed, serving=Serving(margin=0.006)), burst).dispatches

    assert max(plain.size) == 16
    assert max(careful.size) == 8
    # Batches of 8: 4.64 + (30.70 - 4.64) * 7 / 15 ms, whatever was planned.
    eight = careful.size == 8
    assert (careful.finish - careful.start)[eight] == pytest.approx(0.016801, abs=1e-6)


def test_switching_costs_and_reserve_reach_the_simulation():
    plain = outcomes(IT, WorkloadSpec(HEAVY, label="calm"))
    for serving in (
        Serving(actuation=0.005),
        Serving(loading=0.005),
        Serving(loading={"73.82": 0.005}),
        Serving(reserve=0.3),
    ):
        policy = PolicySpec("slackfit", label="it", serving=serving)
        changed = outcomes(policy, WorkloadSpec(HEAVY, label="calm"))
        assert not np.array_equal(plain.finish, changed.finish, equal_nan=True), serving


def test_workers_die_one_by_one_from_the_last():
    """The paper's fault experiment: 8 workers, one killed every 12 s until half are left."""
    script = Failures(12.0, 4).script(8, 60.0)

    assert script == [Fail(12.0, "w7"), Fail(24.0, "w6"), Fail(36.0, "w5"), Fail(48.0, "w4")]
    assert fleet_sizes(8, script) == [(0.0, 8), (12.0, 7), (24.0, 6), (36.0, 5), (48.0, 4)]
    assert len(Failures(12.0, 4).script(8, 30.0)) == 2
    assert Failures(12.0, 4).script(3, 60.0) == []


def test_events_bring_workers_back_and_new_ones():
    events = ((5.0, "join", "w9"), (1.0, "fail", "w0"), (2.0, "fail", "w0"), (3.0, "restart", "w0"))
    script = Failures(inf, 1, events).script(2, 10.0)

    assert script == [
        Fail(1.0, "w0"),
        Fail(2.0, "w0"),
        Restart(3.0, "w0"),
        Join(5.0, WorkerSpec("w9")),
    ]
    assert fleet_sizes(2, script) == [(0.0, 2), (1.0, 1), (2.0, 1), (3.0, 2), (5.0, 3)]


def test_lost_workers_lower_attainment_and_bound():
    workload = WorkloadSpec(HEAVY, label="calm")
    dying = replace(workload, failures=Failures(0.1, 1))
    whole, half = (
        [run_cell(prepared(workload=w), Cell(CALM, 0, p)) for p in ("it", None)]
        for w in (workload, dying)
    )

    assert half[0].run.attainment < whole[0].run.attainment
    assert half[1].bound.utility < whole[1].bound.utility


def test_a_load_without_queries_is_an_error_that_names_it():
    empty = WorkloadSpec({"kind": "constant", "rate": 0, "seconds": 1}, label="calm")
    with pytest.raises(ConfigError, match="calm has no arrivals"):
        run_cell(prepared(workload=empty), Cell(CALM, 0, "it"))


def test_an_event_for_a_worker_that_is_not_there_names_the_cell():
    lost = WorkloadSpec(POISSON, label="calm", failures=Failures(events=((0.1, "fail", "w7"),)))
    with pytest.raises(ConfigError, match=r"it, calm, 2 workers, seed 0: .*no such worker"):
        run_cell(prepared(workload=lost), Cell(CALM, 0, "it"))


def test_file_names_are_plain_and_unique():
    names = [file_name(Cell(Setting(label, 2), 0, "a/b")) for label in ("x²", "x³")]

    assert names[0].startswith("a-b-x-2-workers-seed-0-")
    assert names[0] != names[1]
