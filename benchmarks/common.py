"""What every benchmark shares: fair timing, a header that makes it repeatable, a table, a file."""

import argparse
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from superserve.profile_store import device_name, now_utc, versions

RESULTS = Path(__file__).parent / "results"


def interleaved(
    contenders: Mapping[str, Callable[[], object]], rounds: int, *, warm_up: int = 2
) -> dict[str, list[float]]:
    """Seconds of each contender, visited in turn, round after round: drift hits all alike."""
    for call in contenders.values():
        for _ in range(warm_up):
            call()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, call in contenders.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return times


def median_ratio(slow: Sequence[float], quick: Sequence[float]) -> float:
    """The median over rounds of slow / quick: paired, so that a disturbed round is one vote."""
    return statistics.median(a / b for a, b in zip(slow, quick, strict=True))


def header(seed: int, **more: Any) -> dict[str, Any]:
    """Everything that is needed to run it again, and to judge what it is worth."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return {
        "created": now_utc(),
        "commit": commit or "unknown",
        "seed": seed,
        "how": f"measured on {device_name('cpu')}",
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "versions": versions(),
        **more,
    }


def write(name: str, document: Mapping[str, Any], folder: Path = RESULTS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(document, indent=1) + "\n")
    return path


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    table = Table(title=title)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*(f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row))
    Console(width=150).print(table)


def arguments(description: str, *, rounds: int) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--rounds", type=int, default=rounds, help="timed rounds (default %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the JSON file")
    return parser.parse_args()
