"""A small experiment from end to end: servers with emulated workers, Locust, simulation, report."""

import json
from dataclasses import replace
from shutil import copytree

import pytest
from typer.testing import CliRunner

from loadtest.compare.study import Cell, Setting
from loadtest.experiment import run as running
from loadtest.experiment.definition_file import parse_experiment
from loadtest.experiment.live import LiveRun
from loadtest.experiment.report import write_report
from loadtest.experiment.run import learning_load, run_experiment
from loadtest.paper_profile import PAPER_PROFILE
from loadtest.records import Record
from loadtest.workloads import make_arrivals
from superserve.cli.app import app
from superserve.errors import ConfigError

DOCUMENT = {
    "name": "small",
    "slo_ms": 10_000,  # long: a busy machine must not change what is tested
    "seeds": 1,
    "server": {"devices": ["emulated:2"], "profile": "paper", "slowdown": 20},
    "policies": [
        {"name": "dualfit"},
        {"name": "fixed", "label": "smallest", "options": {"subnet": "smallest"}},
    ],
    "workloads": [{"kind": "poisson", "rate": 20, "seconds": 2}],
}
SETTING = Setting("Poisson 20 q/s", 2)
CELL = Cell(SETTING, 0, "dualfit")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished experiment, its results, and what was shown."""
    folder, shown = tmp_path_factory.mktemp("experiments") / "small", []
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(running.LEARNING_LOAD, "steps", [[1, 0.5], [1, 1.5]])
        results = run_experiment(
            parse_experiment(DOCUMENT), folder, show=lambda *step: shown.append(step)
        )
    return folder, results, shown


def test_every_query_of_every_run_has_its_record(finished):
    _, results, _ = finished
    expected = len(make_arrivals(DOCUMENT["workloads"][0], 0))

    assert {run.queries for run in results.live.runs.values()} == {expected}
    assert set(results.live.runs) == set(results.facts)


def test_live_and_simulated_are_of_the_same_cells(finished):
    _, results, _ = finished

    assert set(results.live.runs) == set(results.simulated.runs)
    assert set(results.simulated.bounds) == {Cell(SETTING, 0)}


def test_the_servers_own_clock_agrees_that_a_slack_load_is_met(finished):
    _, results, _ = finished

    assert results.live.runs[CELL].attainment == 1.0
    assert results.facts[CELL].server_attainment == 1.0
    assert results.simulated.runs[CELL].attainment == 1.0


def test_a_fixed_subnet_is_served_by_it_alone(finished):
    _, results, _ = finished
    facts = results.facts[Cell(SETTING, 0, "smallest")]

    assert list(facts.subnets) == [PAPER_PROFILE.smallest]


def test_progress_ends_with_all_steps_done(finished):
    _, _, shown = finished

    assert shown[-1][:2] == (7, 7)  # a profile, a lesson, two runs, two simulations and a bound
    assert [done for done, *_ in shown] == sorted(done for done, *_ in shown)


def test_going_on_with_a_finished_experiment_starts_no_server(finished, monkeypatch):
    folder, results, _ = finished
    monkeypatch.setattr(running, "run_live", None)

    again = run_experiment(parse_experiment(DOCUMENT), folder, resume=True)
    assert again.live.runs == results.live.runs
    assert again.facts == results.facts


def test_a_folder_with_an_experiment_is_not_overwritten(finished):
    folder, _, _ = finished

    with pytest.raises(ConfigError, match="--resume"):
        run_experiment(parse_experiment(DOCUMENT), folder)
    with pytest.raises(ConfigError, match="another experiment"):
        run_experiment(parse_experiment({**DOCUMENT, "slo_ms": 9}), folder, resume=True)


def test_the_report_shows_both_sides_and_all_its_figures_lie_beside_it(finished):
    folder, results, _ = finished
    page = write_report(results, folder).read_text()
    document = json.loads((folder / "results.json").read_text())

    assert all(text in page for text in ("Live", "Simulated", "How true the simulation is"))
    assert page.count("data:image/png") >= 4
    assert len(document["live"]) == len(document["simulated"]) == 2
    assert document["fidelity"]["attainment"]["count"] == 2
    assert "SLO attainment" in (folder / "report.md").read_text()


def test_a_run_that_stays_invalid_is_rejected_and_said_so(finished, tmp_path, monkeypatch):
    folder, results, _ = finished
    late = LiveRun((Record(0.1, 3.1, 0.2, "x", 80.0, lateness=2.0),), None, ("sent late",), 3)
    for learnt in ("profiles", "learning"):
        copytree(folder / learnt, tmp_path / "e" / learnt)
    monkeypatch.setattr(running, "run_live", lambda *_: late)
    found = run_experiment(parse_experiment(DOCUMENT), tmp_path / "e")

    assert found.rejected == dict.fromkeys(results.live.runs, ("sent late",))
    assert not found.live.runs
    assert "Runs that do not count" in write_report(found, tmp_path / "e").read_text()


def test_the_learning_load_stays_within_what_the_smallest_can_serve():
    crowded = replace(PAPER_PROFILE, latencies=(PAPER_PROFILE.latencies[-1],) * 6)
    rates = [rate for _, rate in learning_load(crowded, 4)["steps"]]

    assert max(rates) <= 0.7 * 4 * crowded.peak_rate


def test_the_command_refuses_a_wrong_policy_in_one_line(tmp_path):
    file = tmp_path / "e.toml"
    file.write_text(
        '[server]\ndevices = ["emulated"]\nprofile = "paper"\n'
        '[[policies]]\nname = "nobody"\n'
        '[[workloads]]\nkind = "poisson"\nrate = 5\nseconds = 1\n'
    )
    found = CliRunner().invoke(app, ["experiment", str(file), "-o", str(tmp_path / "out")])

    assert isinstance(found.exception, ConfigError)
    assert "nobody" in str(found.exception)
