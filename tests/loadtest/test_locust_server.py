"""A Locust run against a whole server over emulated workers: HTTP, scheduler and policies."""

import sys
from pathlib import Path

import pytest

from loadtest.locusts.run import LocustSettings, run_locust
from loadtest.server_process import running_server
from superserve.client import Client

SERVER = [sys.executable, str(Path(__file__).with_name("emulated_server.py"))]
SLO = 1.0  # seconds: long for this server, so that a busy machine changes nothing


@pytest.fixture(scope="module")
def found():
    """A burst beyond what the largest subnet can serve, and the server's policy afterwards."""
    with running_server([], patience=60.0, command=SERVER) as url:
        burst = {"kind": "phases", "steps": [[1, 20], [3, 240], [1, 20]]}
        settings = LocustSettings(url=url, workload=burst, slo=SLO, policy="dualfit", seed=1)
        with Client(url) as client:
            before = client.policy().policy
            return run_locust(settings), before, client.policy().policy


def test_both_clocks_tell_of_the_same_run(found):
    result, _, _ = found

    # A busy machine may make the sender late; then the run says so, and nothing else is wrong.
    assert all("sent late" in complaint for complaint in result.complaints), result.complaints
    assert len(result.records) == result.report.queries > 400
    assert result.report.attainment > 0.5
    assert result.report.server_attainment >= result.report.attainment


def test_the_burst_was_served_by_more_than_one_subnet(found):
    result, _, _ = found

    assert set(result.report.subnets) <= {"small", "middle", "large"}
    assert len(result.report.subnets) > 1
    assert 90.0 <= result.report.mean_accuracy <= 98.0


def test_the_servers_own_policy_comes_back(found):
    result, before, after = found

    assert result.header.config["policy"] == "dualfit"
    assert after == before != "dualfit"
