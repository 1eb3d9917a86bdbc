"""The wheel works outside the checkout: nothing that a user needs stays behind."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The Python of a new environment that has the wheel; only the dependencies are shared.

    They are found through a plain path entry, which does not activate the editable install of the
    checkout that lies beside them.
    """
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    ).stdout.split("\n")  # fmt: skip
    for name in filter(None, files):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(source)],
        check=True, capture_output=True, cwd=folder,
    )  # fmt: skip
    (wheel,) = folder.glob("superserve-*.whl")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    site = next((folder / "venv" / "lib").glob("python*")) / "site-packages"
    subprocess.run(
        [*pip, "install", "--no-deps", "--target", str(site), str(wheel)],
        check=True, capture_output=True, cwd=folder,
    )  # fmt: skip
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return python


def run(python: Path, *arguments: str, cwd: Path) -> str:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    result = subprocess.run(
        [str(python), *arguments], cwd=cwd, env=clean, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_every_package_comes_from_the_wheel(installed, tmp_path):
    code = (
        "import superserve, supernets, kernels, policies, loadtest, superserve.server.app\n"
        "for m in (superserve, supernets, kernels, policies, loadtest): print(m.__file__)"
    )
    for line in run(installed, "-c", code, cwd=tmp_path).splitlines():
        assert Path(line).is_relative_to(installed.parent.parent)


def test_the_embedded_supernet_classifies_from_the_wheel(installed, tmp_path):
    seven = ROOT / "examples" / "images" / "seven.png"
    output = run(installed, "-m", "superserve.cli", "classify", str(seven), cwd=tmp_path)

    assert output.strip().split(": ")[1].startswith("7 ")


def test_the_wheel_says_that_it_is_typed(installed):
    site = next((installed.parent.parent / "lib").glob("python*")) / "site-packages"
    for package in ("superserve", "supernets", "kernels", "policies", "loadtest"):
        assert (site / package / "py.typed").exists()
