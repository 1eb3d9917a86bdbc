"""Coordinated omission: open-loop figures show a frozen server, closed-loop ones hide it."""

import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from loadtest.locusts.run import LocustSettings, run_locust
from loadtest.server_process import running_server

CLOSED_LOOP = Path(__file__).parents[2] / "loadtest" / "locusts" / "closed_loop.py"
SERVER = [sys.executable, str(Path(__file__).with_name("locust_server.py"))]
RATE, SECONDS, FREEZE, SLO = 100, 4, 1.0, 0.25
# Whoever arrives in the freeze and is not within an SLO of its end misses the deadline.
TRUTH = (FREEZE - SLO) / SECONDS


@contextmanager
def freezing_server():
    """It stands still for a second, a second after its first query."""
    arguments = ["--freeze-at", "1.0", "--freeze", str(FREEZE)]
    with running_server(arguments, patience=60.0, command=SERVER) as url:
        yield url


@pytest.fixture(scope="module")
def open_loop():
    with freezing_server() as url:
        workload = {"kind": "constant", "rate": RATE, "seconds": SECONDS}
        return run_locust(LocustSettings(url=url, workload=workload, slo=SLO, timeout=5.0)).report


@pytest.fixture(scope="module")
def closed_loop(tmp_path_factory):
    """Locust's own summary of ordinary users that ask as often, if the server lets them."""
    file = tmp_path_factory.mktemp("closed") / "stats.json"
    stem = str(file.with_suffix(""))  # Locust adds the ending
    with freezing_server() as url:
        line = [
            sys.executable, "-m", "locust", "-f", str(CLOSED_LOOP), "--headless", "--only-summary",
            "--host", url, "--workload", "constant", "--rate", str(RATE),
            "--seconds", str(SECONDS), "--slo-ms", str(1000 * SLO), "--json-file", stem,
        ]  # fmt: skip
        subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    (row,) = json.loads(file.read_text())
    return row


def test_the_open_loop_reports_the_freeze(open_loop):
    assert 1 - open_loop.attainment == pytest.approx(TRUTH, abs=0.06)
    assert open_loop.latency.p90 > SLO


def test_the_closed_loop_hides_it(open_loop, closed_loop):
    missed = closed_loop["num_failures"] / closed_loop["num_requests"]

    assert 0 < missed < TRUTH / 3
    assert closed_loop["num_requests"] < 0.9 * open_loop.queries  # the load was less, too


def test_the_freeze_is_the_servers_and_not_the_senders_lateness(open_loop):
    assert open_loop.lateness.p99 < FREEZE / 2
    assert open_loop.latency.max > 0.9 * FREEZE
