"""An open-loop Locust run as a child process, for programs: all arguments in, its records out."""

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import orjson

from loadtest.locusts.images import write_images
from loadtest.locusts.options import (
    CONNECTIONS,
    IMAGE_COUNT,
    SHORTEST_TIMEOUT,
    TIMEOUT_SLOS,
)  # fmt: skip
from loadtest.records import Header, Record, read_records
from loadtest.report import Report, summarise
from loadtest.server_process import DRAIN, LAST_WORDS, free_port
from superserve.errors import ConfigError

LOCUSTFILE = Path(__file__).parent.parent / "locustfile.py"
MISSING = "Locust is not installed: pip install 'superserve[loadtest]'"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocustSettings:
    """One run against a server that is ready. Seconds."""

    url: str
    workload: Mapping[str, Any]  # as `loadtest.workloads` takes it
    slo: float
    seed: int = 0
    timeout: float | None = None  # None: 5 SLOs, at least 1 s
    policy: str = ""  # empty: the server's
    policy_options: Mapping[str, str] = field(default_factory=dict)
    model: str = ""  # empty: the server's first
    min_accuracy: float | None = None  # percent
    images: Path | None = None  # a folder of images for each class; else `payloads`, else a blank
    payloads: Sequence[tuple[bytes, int]] = ()  # image files with the index of their label
    image_count: int = IMAGE_COUNT
    pixels: bool = False  # raw grey ones, in place of images: the server decodes nothing
    connections: int = CONNECTIONS  # at once, of each process
    processes: int = 0  # that send, beside one that leads; 0: one does both
    records: Path | None = None  # to keep them


@dataclass(frozen=True, slots=True)
class LocustResult:
    """``valid`` says whether the run counts, ``complaints`` why not."""

    header: Header
    records: tuple[Record, ...]
    report: Report | None  # None where nothing came back
    valid: bool
    complaints: tuple[str, ...]
    exit_code: int
    output: str  # what Locust said


def run_locust(settings: LocustSettings) -> LocustResult:
    """Run it to its end.

    Raises `ConfigError` where Locust is not installed or the run was refused, with its last words;
    an invalid or interrupted run is a result that says so.
    """
    if find_spec("locust") is None:
        raise ConfigError(MISSING)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = settings.images
        if images is None and settings.payloads:
            images = folder / "images"
            write_images(images, settings.payloads)
        records = settings.records or folder / "records.jsonl"
        records.unlink(missing_ok=True)  # those of another run must not pass for this one's
        line = [*command(settings, records), *(("--images", str(images)) if images else ())]
        exit_code, output = _run(line)
        if not records.exists():
            raise ConfigError(f"Locust made no run. Its last words:\n{output[-LAST_WORDS:]}")
        header, found = read_records(records)
    return LocustResult(
        header=header,
        records=tuple(found),
        report=summarise(found) if found else None,
        valid=bool(header.config["valid"]),
        complaints=tuple(header.config["complaints"]),
        exit_code=exit_code,
        output=output,
    )


def _run(line: Sequence[str]) -> tuple[int, str]:
    """Exit code and output of a child that is stopped in order where we are interrupted."""
    process = subprocess.Popen(
        line,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,  # Ctrl-C in the terminal reaches us alone
    )
    try:
        output, _ = process.communicate()
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.communicate(timeout=DRAIN)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
    return process.returncode, output


def command(settings: LocustSettings, records: Path) -> list[str]:
    """The command line of a run without web UI, but for the images."""
    timeout = settings.timeout or max(TIMEOUT_SLOS * settings.slo, SHORTEST_TIMEOUT)
    kind = settings.workload.get("kind")
    rest = {name: value for name, value in settings.workload.items() if name != "kind"}
    line = [
        sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--only-summary",
        "--host", settings.url, "--records", str(records),
        "--workload", str(kind), "--workload-options", orjson.dumps(rest).decode(),
        "--seed", str(settings.seed), "--slo-ms", repr(1000 * settings.slo),
        "--timeout-ms", repr(1000 * timeout), "--policy", settings.policy,
        "--policy-options", orjson.dumps(dict(settings.policy_options)).decode(),
        "--model", settings.model, "--image-count", str(settings.image_count),
        "--connections", str(settings.connections),
    ]  # fmt: skip
    if settings.min_accuracy is not None:
        line += ["--min-accuracy", repr(settings.min_accuracy)]
    if settings.pixels:
        line.append("--pixels")
    if settings.processes:
        port = str(free_port())
        line += [
            "--processes", str(settings.processes), "--master-bind-host", "127.0.0.1",
            "--master-bind-port", port, "--master-port", port,
        ]  # fmt: skip
    return line
