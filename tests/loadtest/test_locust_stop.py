"""A Locust run that is told to stop: what it has is kept, and nobody takes it for a whole run."""

import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from loadtest.locusts.outcome import INTERRUPTED
from loadtest.locusts.run import LocustSettings, command
from loadtest.records import read_records
from loadtest.server_process import running_server

SERVER = [sys.executable, str(Path(__file__).with_name("locust_server.py"))]


@pytest.mark.parametrize("processes", [0, 1], ids=["in one process", "with a worker"])
def test_a_run_that_is_stopped_keeps_its_records_and_says_that_it_is_not_whole(tmp_path, processes):
    file = tmp_path / "records.jsonl"
    with running_server([], patience=60.0, command=SERVER) as url:
        settings = LocustSettings(
            url=url, workload={"kind": "constant", "rate": 100, "seconds": 300}, slo=4.0,
            processes=processes,
        )  # fmt: skip
        process = subprocess.Popen(
            command(settings, file), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        httpx.get(f"{url}/after/150", timeout=60.0)  # the first batch of records has left
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate()

    header, records = read_records(file)
    assert process.returncode == INTERRUPTED, output
    assert (header.config["valid"], header.config["interrupted"]) == (False, True)
    assert "it was interrupted" in header.config["complaints"][0]
    assert 0 < len(records) < header.config["queries"] == 30_000
