"""Every example runs, as its first lines say, and prints what a reader is led to expect."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import superserve

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """One cache for all: the profile is measured once."""
    return {**os.environ, "SUPERSERVE_CACHE": str(tmp_path_factory.mktemp("cache"))}


def run(name, environment, *arguments):
    result = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=180,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_no_example_is_left_out():
    tested = {
        "01_classify.py",
        "02_own_policy.py",
        "03_own_supernet.py",
        "04_elastic_model.py",
        "05_new_supernet.py",
    }

    assert {path.name for path in EXAMPLES.glob("*.py")} == tested


def test_classify(environment, monkeypatch):
    monkeypatch.setenv("SUPERSERVE_CACHE", environment["SUPERSERVE_CACHE"])
    with superserve.serve("digits", in_process=True) as server:
        printed = run("01_classify.py", environment, server.url)

    assert "seven.png: 7, by subnet" in printed
    assert "three-on-white.jpg: 3, by subnet" in printed


def test_own_policy(environment):
    printed = run("02_own_policy.py", environment)

    assert printed.count(": 7 with ") == 2


def test_own_supernet(environment):
    assert "%" in run("03_own_supernet.py", environment)


def test_elastic_model(environment):
    printed = run("04_elastic_model.py", environment)

    assert "d=1 w=0.5: 2.6 M parameters" in printed
    assert "d=2 w=1.0: 11.2 M parameters" in printed


def test_new_supernet(environment):
    printed = run("05_new_supernet.py", environment)

    assert printed.count("ms for eight images") == 3
    assert "a 8 looks like a" in printed
