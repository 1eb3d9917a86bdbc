"""The same cells whatever computes them, kept whatever happens, and none of them twice."""

from dataclasses import fields, replace

import orjson
import pytest

from loadtest.compare import PolicySpec, WorkloadSpec, run, run_study
from loadtest.compare.study import Cell, Setting
from loadtest.compare.summary import RunSummary
from loadtest.records import read_records
from loadtest.report import summarise
from superserve.errors import ConfigError
from tests.loadtest.compare.small_study import POISSON, small_study

MEASURED = {"decision_median", "decision_p99"}


def found_in(results):
    """All that was found, but for what is measured in real time."""
    kept = [field.name for field in fields(RunSummary) if field.name not in MEASURED]
    runs = {c: [getattr(found, name) for name in kept] for c, found in results.runs.items()}
    return list(runs.items()), list(results.bounds.items()), repr(results.timelines)


def count_cells(monkeypatch):
    """The cells that are computed from now on, in this process."""
    computed = []

    def counting(prepared, cell, records):
        computed.append(cell)
        return whole(prepared, cell, records)

    whole = run.run_cell
    monkeypatch.setattr(run, "run_cell", counting)
    return computed


def test_two_processes_find_what_one_finds(tmp_path):
    study = small_study()
    alone = run_study(study, tmp_path / "alone", processes=1)
    together = run_study(study, tmp_path / "together", processes=2)

    assert len(alone.runs) == 4
    assert len(alone.bounds) == 2
    assert found_in(alone) == found_in(together)


def test_a_cell_does_not_depend_on_the_rest_of_the_study(tmp_path):
    first = small_study()
    other = replace(first, policies=first.policies[:1], seeds=(1,), bounds=False)
    cell = Cell(Setting("calm", 2), 1, "slackfit")
    runs = [run_study(study, tmp_path / name, processes=1).runs[cell]
            for study, name in ((first, "a"), (other, "b"))]  # fmt: skip

    assert replace(runs[0], decision_median=0.0, decision_p99=0.0) == replace(
        runs[1], decision_median=0.0, decision_p99=0.0
    )


def test_resuming_computes_only_what_is_missing(tmp_path, monkeypatch):
    study = small_study()
    whole = run_study(study, tmp_path, processes=1)
    file = tmp_path / "cells.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:4]) + lines[4][:20])  # killed while it wrote the fourth cell
    computed = count_cells(monkeypatch)
    resumed = run_study(study, tmp_path, processes=1, resume=True)

    assert len(lines) == 1 + 6
    assert computed == list(study.cells())[3:]
    assert found_in(resumed) == found_in(whole)
    assert len(file.read_bytes().splitlines()) == len(lines)


def test_without_resume_the_cells_are_put_aside(tmp_path, monkeypatch):
    study = small_study(bounds=False)
    run_study(study, tmp_path, processes=1)
    before = (tmp_path / "cells.jsonl").read_bytes()
    computed = count_cells(monkeypatch)
    run_study(study, tmp_path, processes=1)

    assert len(computed) == 4
    assert (tmp_path / "cells.previous").read_bytes() == before


def test_cells_of_another_study_are_not_mixed_in(tmp_path):
    run_study(small_study(bounds=False), tmp_path, processes=1)
    with pytest.raises(ConfigError, match="cells of another study"):
        run_study(small_study(bounds=False, seeds=(0,)), tmp_path, processes=1, resume=True)


def test_a_file_that_holds_no_cells_is_named(tmp_path):
    (tmp_path / "cells.jsonl").write_text('{"cell": 3}\n')
    with pytest.raises(ConfigError, match=r"cells.jsonl, line 1"):
        run_study(small_study(), tmp_path, processes=1, resume=True)


@pytest.mark.parametrize("processes", [1, 2])
def test_an_interrupt_keeps_what_is_finished(tmp_path, processes, monkeypatch):
    study = small_study(bounds=False)

    def interrupt(done, _total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(study, tmp_path, processes=processes, on_progress=interrupt)
    kept = (tmp_path / "cells.jsonl").read_bytes().splitlines()
    computed = count_cells(monkeypatch)
    run_study(study, tmp_path, processes=1, resume=True)

    assert len(kept) == 1 + 2
    assert len(computed) == 2


def test_progress_starts_with_what_is_there_and_ends_with_all(tmp_path):
    study, seen = small_study(bounds=False), []
    run_study(study, tmp_path, processes=1, on_progress=lambda *counts: seen.append(counts))
    run_study(study, tmp_path, resume=True, on_progress=lambda *counts: seen.append(counts))

    assert seen == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4), (4, 4)]


def test_records_are_those_of_live_runs_and_repeat_from_their_header(tmp_path):
    results = run_study(small_study(), tmp_path, processes=1, records=True)
    files = sorted((tmp_path / "records").iterdir())
    cell, found = next(iter(results.runs.items()))
    read = {path: read_records(path) for path in files}
    header, records = next(
        (h, r) for h, r in read.values()
        if h.config["cell"]["policy"] == cell.policy and h.seed == cell.seed
    )  # fmt: skip

    assert len(files) == 4
    assert summarise(records).attainment == pytest.approx(found.attainment)
    assert header.config["study"]["name"] == "small"


def test_the_header_holds_what_repeats_the_study(tmp_path):
    run_study(small_study(bounds=False), tmp_path, processes=1)
    header = orjson.loads((tmp_path / "cells.jsonl").read_bytes().splitlines()[0])

    assert header["study"]["workloads"][0]["rate"] == POISSON["rate"]
    assert header["profile"]["subnets"][-1] == "80.16"
    assert {"python", "numpy", "scipy", "superserve"} <= header["versions"].keys()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policies": (PolicySpec("best"),)}, "policy best: no policy 'best'"),
        ({"policies": (PolicySpec("fixed", {"subnet": "9"}),)}, "no subnet '9'"),
        ({"policies": (PolicySpec("no.such:Thing"),)}, "cannot load the policy"),
        ({"profile": "missing.json"}, "missing.json is no latency profile"),
    ],
)
def test_what_cannot_work_is_said_before_anything_runs(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        run_study(small_study(**changes), tmp_path)
    assert not (tmp_path / "cells.jsonl").exists()


class Broken:
    """A policy whose faults show only when it is asked."""

    def __init__(self, profile):
        pass

    def choose(self, view, now):
        raise RuntimeError("no idea")


@pytest.mark.parametrize("processes", [1, 2])
def test_a_failing_policy_names_its_cell(tmp_path, processes):
    broken = PolicySpec(f"{__name__}:Broken", label="mine")
    study = small_study(policies=(broken,), workloads=(WorkloadSpec(POISSON, label="calm"),))
    with pytest.raises(ConfigError, match=r"mine, calm, 2 workers, seed 0: .*no idea"):
        run_study(replace(study, bounds=False, seeds=(0,)), tmp_path, processes=processes)
