"""``python -m benchmarks.gpu``: all that a GPU is needed for, within a budget of seconds.

Phases in the order of what matters, each a process with an end; every finding is on disk at once.
``--dry-run --output FOLDER`` goes through the same on a CPU, with nets of a few channels: it shows
that the benchmark works, and says so in every file. docs/gpu.md has the whole story.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.gpu.budget import GRACE, Outcome, Phase, Status, run_phases
from benchmarks.gpu.documents import CHECK, RESULTS, Document, check_output, header
from benchmarks.gpu.phase import CODES, WORK, run_here
from benchmarks.gpu.settings import Settings
from benchmarks.gpu.tables import show

BUDGET = 540.0


def main(arguments: list[str] | None = None) -> None:
    """Exits with 0 where nothing was wrong, 1 where something was, 2 where there is no GPU."""
    options = _options(arguments)
    settings = Settings(device="cuda", seed=options.seed, output=options.output)
    if options.dry_run:
        settings = Settings.dry(options.output, options.seed)
        torch.set_num_threads(1)  # more would wait for each other longer than they work
    elif not torch.cuda.is_available():
        print("there is no CUDA device; --dry-run --output FOLDER goes through it on a CPU")
        sys.exit(2)
    check_output(settings.output, settings.place)
    print(f"kernels, {'a dry run' if settings.is_dry else torch.cuda.get_device_name()}")
    wanted = options.only or [work.phase.name for work in WORK]
    phases = [
        work.phase
        for work in WORK
        if work.phase.name in wanted and work.phase.name not in options.without
    ]
    if not options.add:
        for file in {work.file for work in WORK}:
            (settings.output / file).unlink(missing_ok=True)
    launch = in_process(settings) if settings.is_dry else in_child(settings)
    outcomes: list[Outcome] = []

    def report(outcome: Outcome) -> None:
        outcomes.append(outcome)
        print(f"== {outcome.phase}: {outcome.status}, {outcome.seconds:.0f} s {outcome.reason}")
        head = header("check", settings.place, settings.to_json())
        document = Document(settings.output / CHECK, head, keep=True)
        document.more["phases"] = [asdict(one) for one in outcomes]
        document.save()

    run_phases(phases, options.budget, launch, time.monotonic, report)
    show(settings.output)
    sys.exit(any(one.status in {"wrong", "failed", "ended"} for one in outcomes))


def in_process(settings: Settings) -> Callable[[Phase, float], tuple[Status, str]]:
    """On a CPU there is no context to lose."""
    return lambda phase, seconds: run_here(phase.name, settings, seconds - GRACE)


def in_child(settings: Settings) -> Callable[[Phase, float], tuple[Status, str]]:
    """Each phase in a process, which is ended when its time is up."""

    def launch(phase: Phase, seconds: float) -> tuple[Status, str]:
        command = [sys.executable, "-m", "benchmarks.gpu.phase", phase.name]
        command += ["--seconds", str(seconds - GRACE), "--seed", str(settings.seed)]
        command += ["--output", str(settings.output)]
        code = run_and_end(command, seconds)
        if code is None:
            return "ended", f"after {seconds:.0f} s"
        status = CODES.get(code, "failed")
        why = {"done": "", "wrong": "its file says what", "failed": f"code {code}: see the output"}
        return status, why[status]

    return launch


def run_and_end(command: list[str], seconds: float) -> int | None:
    """The exit code; None where it had to be ended, with all that it had started."""
    child = subprocess.Popen(command, start_new_session=True)
    try:
        return child.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def _options(arguments: list[str] | None) -> argparse.Namespace:
    names = [work.phase.name for work in WORK]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds, %(default)s")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the JSON files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dry-run", action="store_true", help="on a CPU, measuring nothing")
    parser.add_argument("--only", action="append", choices=names, help="a phase; several times")
    parser.add_argument("--without", action="append", choices=names, default=[])
    parser.add_argument(
        "--add", action="store_true", help="keep what was measured already with these kernels"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
