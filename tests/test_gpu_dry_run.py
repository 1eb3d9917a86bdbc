"""The GPU benchmarks from end to end on a CPU: a dry run, and kernels that are wrong."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import __main__ as runner
from benchmarks.gpu import documents, phase, tables
from benchmarks.gpu.documents import DRY
from benchmarks.gpu.settings import Settings
from kernels import execute as execute_module
from kernels.ops.pointwise import pointwise

ROOT = Path(__file__).parent.parent


def one_channel_is_wrong(x, weight, *more):
    answer = pointwise(x, weight, *more)
    answer[..., -1] += answer.std()
    return answer


def one_row_is_not_written(x, weight, *more):
    answer = pointwise(x, weight, *more)
    left = torch.empty_like(answer)
    left[:, :-1] = answer[:, :-1]
    return left


class TestBrokenKernels:
    """A kernel that is wrong in one way is found, and is not timed."""

    def run(self, name, tmp_path, monkeypatch, kernel):
        monkeypatch.setitem(execute_module._FAST, "pointwise", kernel)
        settings = replace(Settings.dry(tmp_path), nets=("tiny-mobilenetv3",), batches=(2,))
        status, _ = phase.run_here(name, settings, 1000)
        return status, documents.read(tmp_path / phase.named(name).file)

    @pytest.mark.parametrize("kernel", [one_channel_is_wrong, one_row_is_not_written])
    def test_the_check_of_ops_and_that_of_subnets_find_it(self, tmp_path, monkeypatch, kernel):
        status, found = self.run("correctness", tmp_path, monkeypatch, kernel)
        assert status == "wrong"
        failed = {(c["kind"], c.get("op")) for c in found["cells"] if not c["passed"]}
        assert {("subnet", None), ("op", "Pointwise")} <= failed
        assert ("op", "Depthwise") not in failed

    def test_ours_has_no_time_and_the_others_have(self, tmp_path, monkeypatch):
        status, found = self.run("subnets", tmp_path, monkeypatch, one_channel_is_wrong)
        assert status == "wrong"
        (cell,) = found["cells"]
        assert set(cell["times"]) == {"extracted, eager", "extracted, graph"}
        assert cell["ours_is_faster_by"] == {}
        refused = {entry["what"].split(":")[0] for entry in found["refused"]}
        assert refused == {"ours, graph", "ours, as served", "ours, one by one"}

    def test_an_op_has_no_time_either(self, tmp_path, monkeypatch):
        status, found = self.run("ops", tmp_path, monkeypatch, one_channel_is_wrong)
        assert status == "wrong"
        timed = {cell["kind"] for cell in found["cells"] if "ours" in cell["times"]}
        assert "Depthwise" in timed
        assert "Pointwise" not in timed

    def test_an_answer_that_moves_is_found(self, tmp_path, monkeypatch):
        calls = []

        def moving(x, weight, *more):
            calls.append(1)
            return pointwise(x, weight, *more) * (1 + 1e-6 * len(calls))

        status, found = self.run("correctness", tmp_path, monkeypatch, moving)
        assert status == "wrong"
        assert any("moves by" in entry["why"] for entry in found["refused"])

    def test_a_kernel_that_does_not_run_fails_no_other_contender(self, tmp_path, monkeypatch):
        def broken(*_):
            raise RuntimeError("out of shared memory")

        status, found = self.run("subnets", tmp_path, monkeypatch, broken)
        assert status == "wrong"
        assert set(found["cells"][0]["times"]) == {"extracted, eager", "extracted, graph"}
        assert all("out of shared memory" in entry["why"] for entry in found["refused"])


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory):
    """A whole dry run in this process, without starting pytest in pytest."""
    folder = tmp_path_factory.mktemp("gpu")
    arguments = ["--dry-run", "--output", str(folder), "--without", "tests"]
    with pytest.raises(SystemExit) as ended:
        runner.main([*arguments, "--budget", "1000"])
    return folder, ended.value.code


class TestDryRun:
    def test_it_goes_through_every_phase_and_finds_nothing_wrong(self, dry_run):
        folder, code = dry_run
        check = documents.read(folder / documents.CHECK)
        assert code == 0
        assert {p["phase"]: p["status"] for p in check["more"]["phases"]} == {
            work.phase.name: "done" for work in phase.WORK if work.phase.name != "tests"
        }

    def test_every_file_says_that_it_measured_nothing(self, dry_run):
        folder, _ = dry_run
        files = {work.file for work in phase.WORK}
        assert {path.name for path in folder.iterdir()} == {*files, "gpu-roofline.png"}
        for name in files:
            assert documents.read(folder / name)["how"] == DRY

    def test_every_contender_was_judged_before_it_was_timed(self, dry_run):
        folder, _ = dry_run
        for name in ("gpu-subnets.json", "gpu-compiled.json", "gpu-ops.json"):
            cells = documents.read(folder / name)["cells"]
            assert cells
            for cell in cells:
                assert cell["times"]
                assert set(cell["times"]) <= set(cell["errors"])
                assert all(cell["errors"][who]["passed"] for who in cell["times"])

    def test_every_kind_of_comparison_was_made(self, dry_run):
        folder, _ = dry_run
        cells = documents.read(folder / "gpu-correctness.json")["cells"]
        assert {cell["kind"] for cell in cells} == {"reference", "subnet", "graph", "replay", "op"}
        assert all(cell["passed"] for cell in cells)

    def test_the_tables_can_be_made_again_from_the_files(self, dry_run):
        folder, _ = dry_run
        text = "\n".join(tables.lines(folder))
        for word in ("ours, graph", "ours, as served", "extracted, graph", "default", "arena"):
            assert word in text
        assert DRY in text


def test_it_needs_nothing_that_a_gpu_machine_may_lack():
    """A plain checkout, PyTorch, Triton, numpy and safetensors."""
    lacking = ["fastapi", "starlette", "pydantic", "uvicorn", "httpx", "orjson", "typer", "rich",
               "scipy", "sklearn", "simplejpeg", "matplotlib", "PIL", "ofa"]  # fmt: skip
    modules = [f"benchmarks.gpu.{work.module}" for work in phase.WORK] + ["benchmarks.gpu.__main__"]
    script = (
        f"import sys, importlib\n"
        f"sys.modules.update(dict.fromkeys({lacking}))\n"
        f"for name in {sorted(set(modules))}: importlib.import_module(name)\n"
        "from benchmarks.gpu import nets\n"
        "from benchmarks.gpu.settings import Settings\n"
        "from pathlib import Path\n"
        "settings = Settings.dry(Path())\n"
        "for name in settings.nets: nets.subject(name, settings, theirs=True).resident(settings)\n"
        "assert not any(n == 'superserve' or n.startswith('superserve.') for n in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env={"PYTHONPATH": ".", "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
