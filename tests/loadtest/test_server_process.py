"""A server as a child: ready when the block begins, gone when it ends, its last words kept."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest.server_process import running_server
from superserve.client import Client
from superserve.errors import ConfigError

EMULATED = [sys.executable, str(Path(__file__).with_name("emulated_server.py"))]
PATIENCE = 60.0


def says(*statements: str) -> list[str]:
    return [sys.executable, "-c", "; ".join(statements)]


def test_the_server_is_ready_inside_the_block_and_gone_after_it():
    with (
        running_server(["--policy", "maxacc"], patience=PATIENCE, command=EMULATED) as url,
        Client(url) as client,
    ):
        assert client.ready()
        assert client.policy().policy == "maxacc"
    with Client(url) as client:
        assert not client.ready()


def test_a_server_that_ends_early_is_reported_with_its_last_words():
    command = says("print('the weights are missing')", "raise SystemExit(3)")
    with (
        pytest.raises(ConfigError, match=r"(?s)ended with status 3.*the weights are missing"),
        running_server(patience=PATIENCE, command=command),
    ):
        pytest.fail("no server is there")


def test_a_server_that_is_not_ready_in_time_is_given_up():
    with (
        pytest.raises(ConfigError, match="not ready within 0 s"),
        running_server(patience=0.0, command=says("import time", "time.sleep(600)")),
    ):
        pytest.fail("no server is there")


def test_the_latest_line_of_a_starting_server_is_passed_on_and_a_failure_then_ends_it():
    class Enough(Exception):
        pass

    def listen(line: str) -> None:
        if line.startswith("two "):
            raise Enough(line.removeprefix("two "))

    command = says("import os, time", "print('one')", "print('two', os.getpid(), flush=True)",
                   "time.sleep(600)")  # fmt: skip
    with (
        pytest.raises(Enough) as raised,
        running_server(patience=PATIENCE, command=command, on_output=listen),
    ):
        pytest.fail("no server is there")
    with pytest.raises(ProcessLookupError):
        os.kill(int(str(raised.value)), 0)


def test_a_server_does_not_outlive_the_program_that_is_told_to_terminate():
    program = (
        "from loadtest.server_process import running_server; import signal\n"
        f"with running_server(patience={PATIENCE}, command={EMULATED!r}) as url:\n"
        "    print(url, flush=True)\n"
        "    signal.pause()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True) as process:  # fmt: skip
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)
    with Client(url) as client:
        assert not client.ready()
