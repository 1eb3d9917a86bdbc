"""Whole Locust runs as child processes, against a tiny server that answers at once."""

import sys
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from loadtest.locusts import run as running
from loadtest.locusts.outcome import INVALID, VALID
from loadtest.locusts.run import LocustSettings, run_locust
from loadtest.records import read_records
from loadtest.server_process import running_server
from loadtest.workloads import make_arrivals
from superserve.client import Client
from superserve.errors import ConfigError

SERVER = [sys.executable, str(Path(__file__).with_name("locust_server.py"))]
PATIENCE = 60.0
WORKLOAD = {"kind": "gamma", "rate": 100, "cv2": 2.0, "seconds": 2}
IMAGES = [(b"image %d" % digit, digit) for digit in range(10)]
LONG = 10.0  # seconds: 5 % of so long an SLO is more than any machine is late


@contextmanager
def serving(*arguments: str):
    with running_server(arguments, patience=PATIENCE, command=SERVER) as url:
        yield url


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """A run over two processes that send, its record file, and the server's policy afterwards."""
    file = tmp_path_factory.mktemp("records") / "records.jsonl"
    with serving() as url:
        settings = LocustSettings(
            url=url, workload=WORKLOAD, slo=LONG, seed=3, policy="maxacc", payloads=IMAGES,
            processes=2, records=file,
        )  # fmt: skip
        result = run_locust(settings)
        with Client(url) as client:
            return result, file, client.policy().policy


def test_every_query_of_the_workload_has_its_record_at_its_intended_time(sharded):
    result, _, _ = sharded

    np.testing.assert_array_equal([r.arrival for r in result.records], make_arrivals(WORKLOAD, 3))


def test_a_run_whose_sender_was_in_time_is_valid(sharded):
    result, _, _ = sharded

    assert (result.valid, result.complaints, result.exit_code) == (True, (), VALID)


def test_the_work_is_shared_by_the_processes(sharded):
    result, _, _ = sharded

    assert result.header.config["senders"] == 2
    assert len(result.header.config["connections"]) == 2


def test_measured_accuracy_stands_beside_the_profiled_one(sharded):
    """The server gives every tenth answer wrong, whatever its subnets' cards say."""
    result, _, _ = sharded
    wrong = sum(not record.correct for record in result.records)

    assert wrong == len(result.records) // 10
    assert result.report.correctness == pytest.approx(100 * (1 - wrong / len(result.records)))
    assert result.report.mean_accuracy == pytest.approx(94.0, abs=0.1)


def test_the_policy_is_set_for_the_run_and_restored(sharded):
    result, _, after = sharded

    assert result.header.config["policy"] == "maxacc"
    assert after == "slackfit"


def test_the_record_file_is_of_the_form_of_all_runs(sharded):
    result, file, _ = sharded

    assert read_records(file) == (result.header, list(result.records))


def test_locusts_own_table_counts_the_queries_and_the_subnets(sharded):
    result, _, _ = sharded
    table = result.output.split("Response time percentiles")[0]
    rows = [line.split() for line in table.splitlines()]
    counts = {row[1]: int(row[2]) for row in rows if row[:1] in (["POST"], ["subnet"])}

    assert counts["/v1/classify"] == len(result.records)
    assert counts["small"] == result.report.subnets["small"]


def test_a_late_sender_makes_the_run_invalid_in_its_exit_code_and_its_records():
    """No sender is in time to within 5 % of a tenth of a millisecond."""
    with serving() as url:
        settings = LocustSettings(url=url, workload={**WORKLOAD, "seconds": 0.5}, slo=1e-4)
        result = run_locust(settings)

    assert (result.valid, result.exit_code) == (False, INVALID)
    assert "sent late" in result.complaints[0]
    assert result.header.config["valid"] is False
    assert "INVALID RUN" in result.output


def test_a_run_that_cannot_be_made_is_refused_with_the_reason():
    with serving() as url:
        settings = LocustSettings(url=url, workload=WORKLOAD, slo=1.0, model="imagenet")
        with pytest.raises(ConfigError, match="no model 'imagenet', only digits"):
            run_locust(settings)


def test_without_locust_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(running, "find_spec", lambda name: None)

    with pytest.raises(ConfigError, match=r"superserve\[loadtest\]"):
        run_locust(LocustSettings(url="http://nobody", workload=WORKLOAD, slo=1.0))


def test_the_command_line_says_all_that_the_settings_say():
    settings = LocustSettings(
        url="http://host:1", workload={"kind": "phases", "steps": [[1, 2]]}, slo=0.036,
        min_accuracy=95.0, policy_options={"reading": "s42"},
    )  # fmt: skip
    line = running.command(settings, Path("file"))
    again = running.command(replace(settings, seed=4), Path("file"))

    said = dict(pairwise(line))
    assert said["--workload-options"] == '{"steps":[[1,2]]}'
    assert said["--policy-options"] == '{"reading":"s42"}'
    assert float(said["--slo-ms"]) == pytest.approx(36.0)
    assert float(said["--min-accuracy"]) == 95.0
    assert [b for a, b in zip(line, again, strict=True) if a != b] == ["4"]
