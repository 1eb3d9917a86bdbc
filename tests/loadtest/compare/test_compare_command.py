"""The command ends with a table and the report, or with one line that says what is wrong."""

import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from superserve.cli.app import app
from superserve.errors import ConfigError

SMALL = ("--quick", "--seeds", "1", "--workload", "poisson,rate=600,seconds=0.3", "--workers", "2",
         "--processes", "1")  # fmt: skip


def compare(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "superserve.cli", "compare", *arguments],
        cwd=cwd, capture_output=True, text=True, check=False, timeout=120,
        env=os.environ | {"COLUMNS": "100"},
    )  # fmt: skip


def test_it_ends_with_a_table_and_the_report_also_for_a_policy_of_ones_own(tmp_path):
    (tmp_path / "mine.py").write_text("from policies.fixed import Fixed as Mine\n")
    result = compare(*SMALL, "--policies", "slackfit,mine:Mine:subnet=1", cwd=tmp_path)
    lines = result.stdout.splitlines()

    assert result.returncode == 0, result.stderr
    assert lines[-1] == "Report: compare-quick/report.html"
    assert (tmp_path / "compare-quick" / "report.html").is_file()
    assert any(line.startswith("mine:Mine subnet=1 ") and " 73.820 " in line for line in lines)


def test_wrong_input_is_one_line(tmp_path):
    result = compare("--policies", "best", cwd=tmp_path)

    assert result.returncode == 1
    assert "error: policy best: no policy 'best'; there are " in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.toml"], "cannot read the study missing.toml"),
        (["--profile", "none.json"], "none.json is no latency profile"),
        (["--workload", "trace,name=wc98"], "set SUPERSERVE_TRACES"),
        (["--workers", "none"], "--workers must be whole numbers"),
    ],
)
def test_wrong_input_is_the_operators_error(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SUPERSERVE_TRACES", raising=False)
    result = CliRunner().invoke(app, ["compare", *arguments])

    assert isinstance(result.exception, ConfigError)
    assert message in str(result.exception)


def test_a_file_and_the_quick_study_exclude_each_other():
    result = CliRunner().invoke(app, ["compare", "study.toml", "--quick"])

    assert result.exit_code == 2
    assert "leave out the file" in result.output
