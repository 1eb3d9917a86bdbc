"""One phase in a process of its own: ``python -m benchmarks.gpu.phase NAME``.

A kernel that goes wrong can take its process's whole CUDA context with it; the next phase has
another one. The exit code says how it went, and the phase's document why.
"""

import argparse
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.gpu.budget import Deadline, Phase, Status
from benchmarks.gpu.documents import CHECK, Document, header
from benchmarks.gpu.settings import Settings

CODES: dict[int, Status] = {0: "done", 3: "wrong"}
WRONG = 3


@dataclass(frozen=True, slots=True)
class Work:
    """What a phase runs, where it writes, and how long it may take."""

    phase: Phase
    module: str
    function: str
    file: str


# In the order in which they run. What is written into one file is told apart by the cells' kinds.
WORK: tuple[Work, ...] = (
    Work(Phase("environment", 5, 60), "environment", "run", CHECK),
    Work(Phase("tests", 15, 150), "suite", "run_tests", CHECK),
    Work(Phase("compilation", 15, 90), "warm", "run", CHECK),
    Work(Phase("correctness", 20, 100), "correctness", "run", "gpu-correctness.json"),
    Work(Phase("subnets", 20, 80), "subnets", "run", "gpu-subnets.json"),
    Work(Phase("compiled", 100, 150), "subnets", "run_compiled", "gpu-compiled.json"),
    Work(Phase("ops", 20, 70), "ops", "run", "gpu-ops.json"),
    Work(Phase("l2", 20, 60), "l2", "run", "gpu-l2.json"),
    Work(Phase("actuation", 15, 45), "actuation", "run", "gpu-actuation.json"),
    Work(Phase("sanitizer", 20, 60), "suite", "run_sanitizer", CHECK),
    Work(Phase("compiled, more", 100, 600), "subnets", "run_compiled", "gpu-compiled.json"),
    Work(Phase("compiled ops", 20, 600), "ops", "run_compiled", "gpu-ops.json"),
    Work(Phase("plots", 10, 30, kept=True), "plots", "run", CHECK),
)


def named(name: str) -> Work:
    """``KeyError`` for one that there is not."""
    return {work.phase.name: work for work in WORK}[name]


def run_here(name: str, settings: Settings, seconds: float) -> tuple[Status, str]:
    """Run a phase in this process; how it went, and why."""
    work = named(name)
    # Other phases have written into the same file, in this run.
    head = header(name, settings.place, settings.to_json())
    document = Document(settings.output / work.file, head, keep=True)
    before = len(document.refused)
    function: Callable[..., Any]
    function = getattr(import_module(f"benchmarks.gpu.{work.module}"), work.function)
    try:
        function(settings, document, Deadline(seconds, time.monotonic))
    except Exception as error:
        traceback.print_exc()
        document.refuse(f"phase {name}", f"{type(error).__name__}: {error}")
        return "failed", f"{type(error).__name__}: {error}"
    wrong = len(document.refused) - before
    return ("wrong", f"{wrong} refused") if wrong else ("done", "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=[work.phase.name for work in WORK])
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    settings = Settings(seed=options.seed, output=options.output)
    status, _ = run_here(options.name, settings, options.seconds)
    sys.exit({"done": 0, "wrong": WRONG}.get(status, 1))


if __name__ == "__main__":
    main()
