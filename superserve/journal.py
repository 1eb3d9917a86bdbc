"""What a server decided and when, one JSON line per command: the server's side of an experiment.

The first line is a header. Times are seconds on the monotonic clock, as in the scheduler. Nothing
is remembered between lines, so whatever happens to the server the file says what had happened.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import orjson

from superserve.errors import ConfigError
from superserve.messages import BatchResult, Command, Complete, Dispatch, Drop, Fail, Query

FORMAT = "superserve.journal/1"
_BUFFER = 1 << 18  # bytes: writing must not hold up the event loop
_FLUSH = 1.0  # seconds


class Journal:
    """Writes a file; used as a context manager, which closes it."""

    def __init__(self, path: Path) -> None:
        """Raises `ConfigError` if the file cannot be written."""
        try:
            self._file: BinaryIO = path.open("wb", buffering=_BUFFER)
        except OSError as error:
            raise ConfigError(f"cannot write the journal {path}: {error.strerror}") from error
        self._flushed = time.monotonic()
        self._write({"format": FORMAT, "monotonic": self._flushed, "unix": time.time()})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self._file.close()

    def note(self, now: float, commands: Iterable[Command], result: BatchResult | None) -> None:
        """Write what the scheduler commanded at ``now``; ``result`` belongs to a `Complete`."""
        for command in commands:
            line = _line(command, result)
            if line is not None:
                self._write({"at": now, **line})
        if now - self._flushed > _FLUSH:
            self._file.flush()
            self._flushed = now

    def _write(self, document: dict[str, Any]) -> None:
        self._file.write(orjson.dumps(document) + b"\n")


def _line(command: Command, result: BatchResult | None) -> dict[str, Any] | None:
    match command:
        case Dispatch():
            return {
                "dispatch": command.id,
                "worker": command.worker,
                "model": command.model,
                "subnet": command.subnet,
                "accuracy": command.accuracy,
                "start": command.start,
                "finish": command.finish,
                "queries": [_query(query) for query in command.queries],
            }
        case Complete(dispatch) if result is not None:
            return {
                "complete": dispatch.id,
                "inference": result.inference,
                "loading": result.loading,
            }
        case Fail(dispatch):
            return {"fail": dispatch.id}
        case Drop(query, reason):
            return {"drop": reason.value, "query": _query(query)}
    return None


def _query(query: Query) -> tuple[int, float, float]:
    return query.id, query.arrival, query.deadline


@dataclass(frozen=True, slots=True)
class ServedBatch:
    """One dispatch. Seconds on the server's clock; ``finish`` is None where it never came back."""

    decided: float
    finish: float | None
    worker: str
    model: str
    subnet: str
    accuracy: float  # percent
    planned: tuple[float, float]  # start and finish
    arrivals: tuple[float, ...]
    deadlines: tuple[float, ...]
    inference: float = 0.0
    loading: float = 0.0

    @property
    def size(self) -> int:
        return len(self.arrivals)


@dataclass(frozen=True, slots=True)
class Unserved:
    """A query without an answer, and why."""

    at: float
    arrival: float
    deadline: float
    reason: str


@dataclass(frozen=True, slots=True)
class JournalEntries:
    """The batches in the order of the decisions, the others in the order of their end."""

    batches: tuple[ServedBatch, ...]
    unserved: tuple[Unserved, ...]


def read_journal(path: Path) -> JournalEntries:
    """Raises `ConfigError` for a file that is none; a last line that is cut off is left out."""
    try:
        lines = path.read_bytes().splitlines(keepends=True)
        whole: Sequence[dict[str, Any]] = [
            orjson.loads(line) for line in lines if line.endswith(b"\n")
        ]
        if not whole or whole[0].get("format") != FORMAT:
            raise ConfigError(f"{path} is no journal of format {FORMAT}")
        return _entries(whole[1:])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"cannot read the journal {path}: {error}") from error


def _entries(lines: Sequence[dict[str, Any]]) -> JournalEntries:
    ends = {line["complete"]: line for line in lines if "complete" in line}
    batches = []
    for line in lines:
        if "dispatch" not in line:
            continue
        end = ends.get(line["dispatch"])
        batches.append(
            ServedBatch(
                decided=line["at"],
                finish=None if end is None else end["at"],
                worker=line["worker"],
                model=line["model"],
                subnet=line["subnet"],
                accuracy=line["accuracy"],
                planned=(line["start"], line["finish"]),
                arrivals=tuple(query[1] for query in line["queries"]),
                deadlines=tuple(query[2] for query in line["queries"]),
                inference=0.0 if end is None else end["inference"],
                loading=0.0 if end is None else end["loading"],
            )
        )
    unserved = [
        Unserved(line["at"], line["query"][1], line["query"][2], line["drop"])
        for line in lines
        if "drop" in line
    ]
    return JournalEntries(tuple(batches), tuple(unserved))
