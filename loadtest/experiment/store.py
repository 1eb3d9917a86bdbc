"""What an experiment keeps in its folder while it runs, so that it can go on after anything."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from loadtest.compare.study import Cell, Setting
from loadtest.experiment.outcomes import LiveFacts
from superserve.errors import ConfigError

DESIGN = "experiment.json"
FACTS = "facts.jsonl"


class FactsStore:
    """One line for each live run: its facts, or why it was rejected."""

    def __init__(self, path: Path) -> None:
        """Reads what is there. Raises `ConfigError` for lines of another kind."""
        self.facts: dict[Cell, LiveFacts] = {}
        self.rejected: dict[Cell, tuple[str, ...]] = {}
        self._path = path
        if path.exists():
            for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
                if line.endswith(b"\n"):  # else the run was killed while it wrote this one
                    self._read(number, line)

    def add(self, cell: Cell, facts: LiveFacts) -> None:
        self.facts[cell] = facts
        self.rejected.pop(cell, None)
        self._write({"cell": asdict(cell), "facts": asdict(facts)})

    def reject(self, cell: Cell, complaints: Iterable[str]) -> None:
        self.rejected[cell] = tuple(complaints)
        self._write({"cell": asdict(cell), "rejected": self.rejected[cell]})

    def _write(self, document: dict[str, Any]) -> None:
        with self._path.open("ab") as file:
            file.write(orjson.dumps(document) + b"\n")

    def _read(self, number: int, line: bytes) -> None:
        try:
            document = orjson.loads(line)
            described = dict(document["cell"])
            cell = Cell(Setting(**described.pop("setting")), **described)
            if "facts" in document:
                self.facts[cell] = LiveFacts(**document["facts"])
                self.rejected.pop(cell, None)
            else:
                self.rejected[cell] = tuple(document["rejected"])
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{self._path}, line {number}: {error}") from error


def keep_design(folder: Path, document: dict[str, Any], *, resume: bool) -> None:
    """Write down what the folder's experiment is.

    Raises `ConfigError` where another one lies there already, or the same one without ``resume``.
    """
    path = folder / DESIGN
    text = orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n"
    if path.exists():
        if not resume:
            raise ConfigError(
                f"{folder} holds an experiment: go on with --resume, or give another -o"
            )
        if orjson.loads(path.read_bytes()) != orjson.loads(text):
            raise ConfigError(f"{folder} holds another experiment: give another -o")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error}") from error
