"""The evidence: one JSON file per phase, whole after every cell, so that a cut-off run leaves some.

``how`` says what a file is worth: "measured on NAME", or that it was a dry run and is no figure.
"""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from kernels.source_hash import kernel_hash

FORMAT = "superserve.gpu/1"
CHECK = "gpu-check.json"
"""The file of what is no table: the environment, tests, how each phase went."""
NO_TIME = "no time"
RESULTS = Path(__file__).parent.parent / "results"
DRY = "dry run on a CPU: no figure in here is one of a GPU"
KERNELS = kernel_hash()
"""Of the sources as they were when this process began, which is what it runs."""
_PACKAGES = ("torch", "triton", "numpy", "timm", "torchvision", "ofa", "cuda-bindings")


class Document:
    """A phase's findings: ``cells`` that were measured, and what was ``refused`` or ``left_out``.

    Every addition writes the file anew. Nothing is refused in a phase that went well.
    """

    def __init__(self, path: Path, header: Mapping[str, Any], *, keep: bool = False) -> None:
        """With ``keep``, cells stay that the file has already from the same kernels and device."""
        self.path = path
        self.header = dict(header)
        self.cells: list[dict[str, Any]] = []
        self.refused: list[dict[str, str]] = []
        self.left_out: list[dict[str, str]] = []
        self.more: dict[str, Any] = {}
        old = read(path) if keep else None
        if old is not None and comparable(old, self.header):
            self.cells, self.refused, self.more = old["cells"], old["refused"], old["more"]
            self.left_out = [entry for entry in old["left_out"] if entry["why"] != NO_TIME]
        self.save()

    def add(self, cell: Mapping[str, Any]) -> None:
        self.cells.append(dict(cell))
        self.save()

    def refuse(self, what: str, why: str) -> None:
        """Something is wrong; it was not timed."""
        print(f"REFUSED {what}: {why}", flush=True)
        self.refused.append({"what": what, "why": why})
        self.save()

    def leave_out(self, what: str, why: str) -> None:
        """Something cannot be measured here, or there was no time."""
        print(f"left out {what}: {why}", flush=True)
        self.left_out.append({"what": what, "why": why})
        self.save()

    def has(self, **key: object) -> bool:
        """Whether there is a cell with these entries."""
        return any(all(cell.get(k) == v for k, v in key.items()) for cell in self.cells)

    def save(self) -> None:
        """As a whole or not at all, one cell a line."""
        lists = {"cells": self.cells, "refused": self.refused, "left_out": self.left_out}
        head = {**self.header, "more": self.more}
        parts = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
        for key, items in lists.items():
            lines = ",\n".join(json.dumps(item) for item in items)
            parts.append(f"{json.dumps(key)}: [\n{lines}\n]" if items else f"{json.dumps(key)}: []")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        partial.write_text("{\n" + ",\n".join(parts) + "\n}\n")
        partial.replace(self.path)


def read(path: Path) -> dict[str, Any] | None:
    """A document's content; None where there is none that is whole."""
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return found if isinstance(found, dict) and found.get("format") == FORMAT else None


def comparable(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether figures of both may stand side by side."""
    return all(one.get(k) == other.get(k) for k in ("how", "kernel_hash", "versions", "settings"))


def header(phase: str, device: torch.device, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What it takes to run it again, and to judge what it is worth."""
    dry = device.type != "cuda"
    return {
        "format": FORMAT,
        "phase": phase,
        "how": DRY if dry else f"measured on {torch.cuda.get_device_name(device)}",
        "kernel_hash": KERNELS,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": _commit(),
        "machine": {"cpus": os.cpu_count(), "platform": platform.platform()},
        "device": {} if dry else device_properties(device),
        "versions": versions(),
        "settings": dict(settings),
    }


def device_properties(device: torch.device) -> dict[str, Any]:
    """What the driver says of the GPU."""
    found: Any = torch.cuda.get_device_properties(device)
    names = (
        "name", "major", "minor", "multi_processor_count", "total_memory", "L2_cache_size",
        "clock_rate", "memory_clock_rate", "memory_bus_width",
    )  # fmt: skip
    return {name: getattr(found, name, None) for name in names}


def versions() -> dict[str, str]:
    """Of everything that a figure depends on."""
    found = {"python": platform.python_version(), "cuda": str(torch.version.cuda)}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def _commit() -> str:
    """With a mark where the tree is not as it was committed; empty outside a checkout."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return ""
    return done.stdout.strip()


def check_output(folder: Path, device: torch.device) -> None:
    """``SystemExit`` for a dry run that would write where figures are kept."""
    if device.type != "cuda" and folder.resolve() == RESULTS.resolve():
        sys.exit("a dry run writes no results: give it a folder of its own, --output FOLDER")
