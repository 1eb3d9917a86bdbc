"""The tests that need a GPU, and the tools that look for races, each as a process of its own."""

import os
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.budget import Deadline
from benchmarks.gpu.documents import NO_TIME, Document
from benchmarks.gpu.settings import Settings

ROOT = Path(__file__).parents[2]
TESTS = "tests/kernels/gpu"
TAIL = 4000  # characters of output that are kept
WRONG = 9  # what the sanitizer exits with when it found something
NOTHING = 5  # what pytest exits with where there are no tests
PLACES = ("/usr/local/cuda/bin", "/opt/cuda/bin")


def run_tests(settings: Settings, document: Document, deadline: Deadline) -> None:
    """``pytest -m gpu``; its counts and the end of its output."""
    del settings
    document.add(run_folder(TESTS, document, deadline))


def run_folder(folder: str, document: Document, deadline: Deadline) -> dict[str, Any]:
    """The tests marked ``gpu`` in a folder. A cell, whatever becomes of them."""
    with tempfile.TemporaryDirectory() as place:
        report = Path(place) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", folder, "-rs", "--tb=short"]
        command += ["-p", "no:cacheprovider", f"--junitxml={report}"]
        code, output = _output(command, deadline.left)
        counts = counts_of(report)
    if code == NOTHING or (not counts and "No module named pytest" in output):
        document.leave_out(folder, output.strip().splitlines()[-1])
    elif code is None:
        document.refuse(folder, "did not end in time")
    elif code:
        document.refuse(folder, f"{counts.get('failed', 'some')} tests failed")
    elif counts.get("passed", 0) == 0:
        document.leave_out(folder, "all tests were skipped")
    return {"kind": "tests", "folder": folder, "code": code, **counts, "output": output[-TAIL:]}


def counts_of(report: Path) -> dict[str, int]:
    """Passed, failed and skipped of a JUnit file; empty where there is none."""
    if not report.exists():
        return {}
    cases = list(ET.parse(report).getroot().iter("testcase"))  # noqa: S314 - pytest wrote it
    failed = sum(bool({"failure", "error"} & {part.tag for part in case}) for case in cases)
    skipped = sum("skipped" in {part.tag for part in case} for case in cases)
    return {"passed": len(cases) - failed - skipped, "failed": failed, "skipped": skipped}


def run_sanitizer(settings: Settings, document: Document, deadline: Deadline) -> None:
    """compute-sanitizer over small nets: races in shared memory, then accesses out of bounds."""
    tool = find("compute-sanitizer", PLACES)
    if tool is None or settings.is_dry:
        why = "it is not installed" if tool is None else "there is no GPU"
        document.leave_out("compute-sanitizer", why)
        return
    for kind in ("racecheck", "memcheck"):
        if not deadline.allows(kind, 20.0):
            document.leave_out(f"compute-sanitizer {kind}", NO_TIME)
            continue
        command = [tool, "--tool", kind, "--error-exitcode", str(WRONG)]
        command += [sys.executable, "-m", "benchmarks.gpu.sanitized"]
        alone = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}  # neighbours in memory would hide overruns
        code, output = _output(command, deadline.left, alone)
        if code == WRONG:
            document.refuse(f"compute-sanitizer {kind}", output[-TAIL:])
        elif code != 0:
            last = output.strip().splitlines()[-1] if output.strip() else ""
            why = "did not end in time" if code is None else f"ended with code {code}: {last}"
            document.leave_out(f"compute-sanitizer {kind}", why)
        document.add({"kind": kind, "code": code, "output": output[-TAIL:]})


def find(program: str, places: Sequence[str]) -> str | None:
    """On the path, or where CUDA puts its tools."""
    return shutil.which(program) or shutil.which(program, path=os.pathsep.join(places))


def _output(
    command: Sequence[str], seconds: float, more: dict[str, str] | None = None
) -> tuple[int | None, str]:
    """Exit code, None where it was ended, and all that it said."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, **(more or {})}
    with tempfile.TemporaryFile("w+") as said:
        try:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env=environment,
                stdout=said,
                stderr=subprocess.STDOUT,
                timeout=max(1.0, seconds),
                check=False,
            )
            code: int | None = done.returncode
        except subprocess.TimeoutExpired:
            code = None
        said.seek(0)
        return code, said.read()
