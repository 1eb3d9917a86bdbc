"""The name that measured kernels have changes with everything that a figure depends on."""

import shutil

import pytest

from kernels.source_hash import FOLDER, kernel_hash, sources


@pytest.fixture
def copied(tmp_path):
    """The kernels' folder somewhere else."""
    return shutil.copytree(FOLDER, tmp_path / "kernels", ignore=shutil.ignore_patterns("*.so"))


def test_it_is_the_same_wherever_the_folder_lies(copied):
    assert kernel_hash(copied) == kernel_hash(copied)
    assert kernel_hash(shutil.copytree(copied, copied.parent / "other")) == kernel_hash(copied)


@pytest.mark.parametrize(
    "name",
    [
        "ops/pointwise/kernel.py",
        "ops/depthwise_project/__init__.py",
        "epilogue.py",
        "execute.py",
        "fusion.py",
        "graphs.py",
        "residency.py",
        "configs/default.json",
        "configs/__init__.py",
    ],
)
def test_one_byte_more_of_what_runs_on_a_gpu_changes_it(copied, name):
    before = kernel_hash(copied)
    with (copied / name).open("a") as file:
        file.write("\n")
    assert kernel_hash(copied) != before


@pytest.mark.parametrize(
    "name", ["native/plan.py", "ops/conv/cpu.py", "configs/cpu.json", "auditing/cases.py"]
)
def test_what_no_gpu_runs_does_not_change_it(copied, name):
    before = kernel_hash(copied)
    with (copied / name).open("a") as file:
        file.write("\n")
    assert kernel_hash(copied) == before


def test_a_new_table_for_a_device_changes_it(copied):
    before = kernel_hash(copied)
    (copied / "configs" / "h200.json").write_text("{}")
    assert kernel_hash(copied) != before


def test_moving_text_from_one_file_to_another_changes_it(copied):
    one, other = copied / "epilogue.py", copied / "execute.py"
    before = kernel_hash(copied)
    text = one.read_text() + other.read_text()
    cut = len(one.read_text()) - 1
    one.write_text(text[:cut])
    other.write_text(text[cut:])
    assert kernel_hash(copied) != before


def test_every_op_has_its_kernel_among_the_sources():
    found = {path.relative_to(FOLDER).as_posix() for path in sources()}
    kernels = {path.relative_to(FOLDER).as_posix() for path in FOLDER.glob("ops/*/kernel.py")}
    assert kernels
    assert kernels <= found
