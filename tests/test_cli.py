"""Commands end with one clear line where the user's input is wrong, and never with a traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

IMAGES = Path(__file__).parent.parent / "examples" / "images"


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "superserve.cli", *arguments],
        cwd=cwd, capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serve", "--supernet", "nothing", "--port", "0"], "no supernet is named 'nothing'"),
        (["serve", "--config", "missing.toml"], "missing.toml"),
        (["serve", "--devices", "", "--port", "0"], "at least one device"),
        (["serve", "--late", "never"], "late must be drop or serve"),
        (["serve", "--policy", "best", "--port", "0"], "no policy 'best'"),
        (["serve", "--log-level", "loud"], "no log level 'loud'"),
        (["serve", "--checkpoint", "none.safetensors", "--port", "0"], "cannot read"),
        (["serve", "--latency-profile", "none.json", "--port", "0"], "no latency profile"),
        (["classify", "none.png"], "none.png"),
        (["classify", __file__], "not an image"),
        (["classify", str(IMAGES / "seven.png"), "--url", "http://127.0.0.1:9"], "127.0.0.1:9"),
        (["models", "--url", "http://127.0.0.1:9"], "127.0.0.1:9"),
        (["models", "--plugins", "no_such_module"], "no_such_module"),
        (["train", "imagenet"], "digits only"),
        (["profile", "--device", "cuda:9"], "no cuda:9 here"),
        (["demo", "--url", "http://127.0.0.1:9"], "127.0.0.1:9"),
        (["demo", "--seconds", "-1"], "Invalid value"),
        (["classify", "none.png", "--url", "http://127.0.0.1:9"], "cannot read none.png"),
        (["classify", "[a]none.png"], "cannot read [a]none.png"),
        (["train", "digits", "--scale", "-1"], "Invalid value"),
    ],
)
def test_wrong_input_is_one_clear_message(arguments, message, tmp_path):
    result = run(*arguments, cwd=tmp_path)

    assert result.returncode not in {0, None}
    assert message in result.stderr + result.stdout
    assert "Traceback" not in result.stderr


def test_classify_without_a_server():
    files = [str(IMAGES / name) for name in ("seven.png", "three-on-white.jpg")]
    result = run("classify", *files)
    labels = [line.split(": ")[1].split()[0] for line in result.stdout.splitlines()]

    assert labels == ["7", "3"]


def test_models_lists_what_can_be_served():
    lines = run("models").stdout.splitlines()

    assert any(line.startswith("digits: comes with weights") for line in lines)
    assert "ofa_mobilenetv3: needs --checkpoint FILE" in lines


def test_help_lists_every_command():
    text = run("--help").stdout

    for command in ("serve", "train", "profile", "models", "classify", "demo"):
        assert command in text
