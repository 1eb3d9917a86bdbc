"""What became of each query, one record per query, and the file form: JSON lines with a header.

Live runs and simulations write the same records, so that one report compares them.
"""

import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import Any

import orjson

FORMAT = 1
PACKAGES = ("superserve", "numpy")


@dataclass(frozen=True, slots=True)
class Record:
    """One query. Times are seconds from the start of the run; ``accuracy`` is in percent.

    ``arrival`` is the intended time, also where the generator was late by ``lateness``.
    ``finish`` is None where no result came, and ``dropped`` then says why.
    """

    arrival: float
    deadline: float
    finish: float | None
    subnet: str | None = None
    accuracy: float | None = None
    dropped: str | None = None
    lateness: float = 0.0
    correct: bool | None = None  # the first prediction against the label, where there is one
    status: int | None = None  # of HTTP; None in a simulation or if no answer came
    server_met: bool | None = None  # did the server, by its own clock, meet the deadline?

    @property
    def met(self) -> bool:
        """Was the result there by the deadline?"""
        return self.finish is not None and self.finish <= self.deadline

    @property
    def latency(self) -> float | None:
        """Seconds from the intended arrival to the result."""
        return None if self.finish is None else self.finish - self.arrival


@dataclass(frozen=True, slots=True)
class Header:
    """What a run can be repeated from."""

    seed: int
    config: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, seed: int, config: dict[str, Any]) -> "Header":
        """A header with the versions of this environment."""
        versions = {"python": platform.python_version()}
        return cls(seed, config, versions | {name: metadata.version(name) for name in PACKAGES})


def write_records(path: Path, header: Header, records: Iterable[Record]) -> None:
    """The header on the first line, then one record per line."""
    with path.open("wb") as file:
        first = {"format": FORMAT, "seed": header.seed, "config": header.config,
                 "versions": header.versions}  # fmt: skip
        file.write(orjson.dumps(first) + b"\n")
        file.writelines(orjson.dumps(record) + b"\n" for record in records)


def read_records(path: Path) -> tuple[Header, list[Record]]:
    """Read what `write_records` wrote; ``ValueError`` names the line that is wrong."""
    lines = path.read_bytes().splitlines()
    first = _line(path, 1, lines[0] if lines else b"", ("format", "seed", "config", "versions"))
    if first.pop("format", None) != FORMAT:
        raise ValueError(f"{path}: the first line is no header of record format {FORMAT}")
    names = tuple(f.name for f in fields(Record))
    records = [
        Record(**_line(path, number, line, names)) for number, line in enumerate(lines[1:], start=2)
    ]
    return Header(**first), records


def _line(path: Path, number: int, line: bytes, names: Sequence[str]) -> dict[str, Any]:
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"{path}, line {number}: {error}") from error
    if not isinstance(found, dict) or set(found) != set(names):
        raise ValueError(f"{path}, line {number}: expected the keys {', '.join(names)}")
    return found
