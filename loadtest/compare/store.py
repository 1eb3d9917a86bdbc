"""The file of finished cells: a header, then one JSON line per cell, in the order of finishing."""

import shutil
import subprocess
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import platform, processor, python_version
from typing import Any, Self

import orjson

import loadtest
from loadtest.compare.cells import Finished
from loadtest.compare.study import Cell, Prepared
from loadtest.compare.study_file import document_of
from superserve.errors import ConfigError
from superserve.profile_store import device_name

FORMAT = "superserve.compare/1"
PACKAGES = ("superserve", "numpy", "scipy")


@dataclass(frozen=True, slots=True)
class Provenance:
    """What computed cells: the software, its commit where it is a checkout, and the machine."""

    versions: dict[str, str]
    commit: str
    machine: str

    @classmethod
    def here(cls) -> Self:
        versions = {"python": python_version()}
        for package in PACKAGES:
            try:
                versions[package] = version(package)
            except PackageNotFoundError:
                versions[package] = "not installed"
        machine = f"{device_name('cpu') or processor()}, {platform(terse=True)}"
        return cls(versions, commit(), machine)


def commit() -> str:
    """Of the checkout that this file lies in; empty where it is none, or git is missing."""
    root, git = Path(loadtest.__file__).parent.parent, shutil.which("git")
    if git is None or not (root / ".git").exists():
        return ""

    def ask(*arguments: str) -> str:
        found = subprocess.run(
            [git, "--no-optional-locks", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        return found.stdout.strip()

    changed = " (with changes)" if ask("status", "--porcelain", "--untracked-files=no") else ""
    head = ask("rev-parse", "HEAD")
    return head + changed if head else ""


class Store:
    """Appends cells as they finish; what was written survives whatever happens next."""

    def __init__(self, path: Path, prepared: Prepared, *, resume: bool = False) -> None:
        """With ``resume`` goes on with what is there; else that is kept as ``*.previous``.

        Raises `ConfigError` if the file belongs to another study, or cannot be written.
        """
        self.path = path
        self.finished: dict[Cell, Finished] = {}
        self.provenance: list[Provenance] = []
        self._study = {"study": document_of(prepared.study), "profile": asdict(prepared.profile)}
        here = Provenance.here()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists() and not resume:
                path.replace(path.with_suffix(".previous"))
            if path.exists():
                self._read(set(prepared.study.cells()))
            self._file = path.open("ab")
        except OSError as error:
            raise ConfigError(f"cannot write {path}: {error}") from error
        if here not in self.provenance:
            self.provenance.append(here)
            self._write({"format": FORMAT, **asdict(here), **self._study})

    def add(self, finished: Finished) -> None:
        self.finished[finished.cell] = finished
        self._write(finished.document())

    def close(self) -> None:
        self._file.close()

    def _write(self, document: dict[str, Any]) -> None:
        self._file.write(orjson.dumps(document) + b"\n")
        self._file.flush()

    def _read(self, wanted: set[Cell]) -> None:
        lines = self.path.read_bytes().splitlines(keepends=True)
        whole = 0
        for number, line in enumerate(lines, start=1):
            if not line.endswith(b"\n"):
                break  # the run was killed while it wrote this one
            try:
                document = orjson.loads(line)
                if "format" in document:
                    self._check(document)
                else:
                    found = Finished.read(document)
                    if found.cell in wanted:
                        self.finished[found.cell] = found
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigError(f"{self.path}, line {number}: {error}") from error
            whole += len(line)
        with self.path.open("rb+") as file:
            file.truncate(whole)

    def _check(self, header: dict[str, Any]) -> None:
        # Through JSON as well, so that tuples and lists are the same.
        ours = orjson.loads(orjson.dumps(self._study))
        if {name: header.get(name) for name in ours} != ours or header["format"] != FORMAT:
            raise ConfigError(
                f"{self.path} holds cells of another study: leave out --resume, or give another -o"
            )
        self.provenance.append(Provenance(header["versions"], header["commit"], header["machine"]))
