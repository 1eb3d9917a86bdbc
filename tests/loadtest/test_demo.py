"""The whole demonstration, over a real server whose workers are emulated: no torch, few queries.

Whether a run is valid depends on how busy the machine is, so these tests leave it open.
"""

import io
import signal
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from rich.console import Console

from loadtest import demo
from loadtest.demo import DemoOptions, run_demo
from loadtest.demo_plan import make_plan
from loadtest.server_process import running_server
from superserve.client import Client
from superserve.errors import SuperServeError
from tests.loadtest.demo_on_emulation import EMULATED, emulated, grey_png
from tests.loadtest.emulated_server import PROFILE

PAYLOADS = [(grey_png(), 3)]
SECONDS = 2.4
PATIENCE = 60.0


@pytest.fixture(autouse=True)
def _servers_are_emulated(monkeypatch):
    monkeypatch.setattr(demo, "running_server", emulated)


def console(*, terminal: bool = False) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, width=100, height=50, force_terminal=terminal), file


def test_both_policies_get_the_same_queries_and_every_one_is_accounted_for(tmp_path):
    options = DemoOptions(seconds=SECONDS, seed=5, output=str(tmp_path / "demo.png"),
                          json=str(tmp_path / "demo.json"))  # fmt: skip
    out, _ = console()
    assert run_demo(options, PAYLOADS, out) in {0, 1}
    found = orjson.loads((tmp_path / "demo.json").read_bytes())
    queries = len(make_plan(PROFILE, seconds=SECONDS).arrivals(5))
    assert [run["policy"] for run in found["runs"]] == ["default", "slackfit", "fixed"]
    for run in found["runs"]:
        report = run["report"]
        assert report["queries"] == queries
        assert report["met"] + report["late"] + sum(report["dropped"].values()) == queries
        assert sum(window["queries"] for window in run["windows"]) == queries
    assert set(found["runs"][2]["report"]["subnets"]) <= {"large"}
    assert found["device_type"] == "emulated"
    assert (tmp_path / "demo.png").stat().st_size > 0


def test_in_a_terminal_the_picture_is_live(tmp_path):
    options = DemoOptions(seconds=0.6, compare=False, output=str(tmp_path / "demo.png"))
    out, file = console(terminal=True)
    run_demo(options, PAYLOADS, out)
    assert "largest subnet can serve 80/s" in file.getvalue()


def test_without_a_terminal_there_are_plain_lines(tmp_path):
    options = DemoOptions(seconds=1.2, compare=False, output=str(tmp_path / "demo.png"))
    out, file = console()
    run_demo(options, PAYLOADS, out)
    assert "queries/s, accuracy" in file.getvalue()
    assert "\x1b" not in file.getvalue()


def test_a_running_server_is_used_and_left_with_the_policy_it_had(tmp_path):
    with (
        running_server(["--policy", "maxbatch"], patience=PATIENCE, command=EMULATED) as url,
        Client(url) as client,
    ):
        options = DemoOptions(url=url, policy="maxacc", seconds=0.6,
                              output=str(tmp_path / "demo.png"))  # fmt: skip
        out, file = console()
        run_demo(options, PAYLOADS, out)
        assert client.policy().policy == "maxbatch"
    assert "maxacc" in file.getvalue()


def test_labels_are_used_only_for_the_supernet_that_the_images_show(tmp_path):
    """The emulated server predicts nothing, so we look at what would be sent."""
    with running_server(patience=PATIENCE, command=EMULATED) as url, Client(url) as client:
        for supernet, label in (("digits", 3), ("photos", None)):
            options = DemoOptions(supernet=supernet, output=str(tmp_path / "demo.png"))
            planned = demo._Demo(options, PAYLOADS, console()[0], url, client)
            assert [payload.label for payload in planned._payloads] == [label]


@pytest.mark.parametrize(
    "options",
    [
        DemoOptions(url="http://127.0.0.1:1"),
        DemoOptions(seconds=-1.0),
        DemoOptions(output="/no such folder/demo.png"),
    ],
    ids=["nobody there", "no time", "no folder"],
)
def test_what_cannot_be_done_is_refused_before_any_load(options):
    with pytest.raises(SuperServeError):
        run_demo(options, PAYLOADS, console()[0])


def hear_interrupts():
    """Also where whoever runs the tests ignores them, as shells do for what runs behind."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_ends_the_load_and_the_server_and_shows_what_there_is(tmp_path):
    program = Path(__file__).with_name("demo_on_emulation.py")
    with subprocess.Popen([sys.executable, str(program), "600", str(tmp_path / "demo.png")],
                          stdout=subprocess.PIPE, text=True,
                          preexec_fn=hear_interrupts) as process:  # noqa: PLW1509  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            if "queries/s, accuracy" in line:
                break
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "interrupted at" in rest
    assert (tmp_path / "demo.png").stat().st_size > 0
