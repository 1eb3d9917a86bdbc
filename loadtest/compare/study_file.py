"""From a study's file (TOML, or the JSON that a run leaves) to a `Study`, and back to a document.

People type milliseconds and shares; every complaint names the key, where it stands, and what fits.
"""

import json
import tomllib
from collections.abc import Mapping
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Any

from loadtest.compare.settings_file import (
    CONDITIONS,
    SERVING,
    conditions_in,
    failures_of,
    noise_of,
    serving_in,
    serving_of,
    slo_of,
)
from loadtest.compare.study import PAPER, PolicySpec, Study, WorkloadSpec
from loadtest.compare.table import Table, is_whole
from loadtest.traces import find_trace
from loadtest.workloads import describe
from superserve.errors import ConfigError

STUDY = ("name", "profile", "policies", "workloads", "seeds", "workers", "bounds", "timelines")
POLICY = ("name", "options", "label")
WORKLOAD = ("label", "tuned_on", "workers")

Document = Mapping[str, Any]


def read_study(path: Path) -> Study:
    """Files that it names are looked for beside it. Raises `ConfigError` for what is wrong."""
    return parse_study(read_document(path, "study"), path.parent)


def read_document(path: Path, what: str) -> dict[str, Any]:
    """The settings in a file, TOML or JSON, named after it unless they have a name."""
    try:
        text = path.read_text()
        document = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the {what} {path}: {error}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{path} holds no table of settings")
    return {"name": path.stem, **document}


def quick_study() -> Study:
    """The study that ships with the package: edit ``quick.toml`` to change it."""
    return parse_study(tomllib.loads(files("loadtest.compare").joinpath("quick.toml").read_text()))


def parse_study(document: Document, folder: Path | None = None) -> Study:
    """``folder`` is where relative paths start; by default the current one."""
    folder = folder or Path()
    top = Table("the study", document, (*STUDY, *SERVING, *CONDITIONS))
    profile = top.text("profile", PAPER)
    common = {name: document[name] for name in (*SERVING, *CONDITIONS) if name in document}
    serving_in(Table("the study", common, tuple(common)))
    conditions_in(Table("the study", common, tuple(common)))
    return Study(
        name=top.text("name", "study"),
        policies=tuple(_policy(each, common) for each in top.tables("policies")),
        workloads=tuple(parse_workload(each, common, folder) for each in top.tables("workloads")),
        profile=profile if profile == PAPER else str(folder / profile),
        seeds=_seeds(top),
        workers=_counts(top, "workers", (8,)),
        bounds=top.truth("bounds", default=True),
        timelines=tuple(top.texts("timelines")),
    )


def parse_workload(given: Document, common: Document, folder: Path | None = None) -> WorkloadSpec:
    """A table of ``[[workloads]]``; ``common`` are the study's own conditions."""
    where = f"workload {given.get('label') or given.get('kind') or '?'}"
    own = {name: given[name] for name in (*WORKLOAD, *CONDITIONS) if name in given}
    inherited = {name: common[name] for name in CONDITIONS if name in common}
    table = Table(where, {**inherited, **own}, (*WORKLOAD, *CONDITIONS))
    spec = {name: _plain(value) for name, value in given.items() if name not in own}
    if "path" in spec:
        spec["path"] = str((folder or Path()) / str(spec["path"]))
    try:
        label = table.text("label", "") or describe(spec)
        if spec.get("kind") == "trace":
            _find(spec)
    except ValueError as error:
        keys = f", and {', '.join((*WORKLOAD, *CONDITIONS))}" if "its keys" in str(error) else ""
        raise ConfigError(f"{where}: {error}{keys}") from error
    return WorkloadSpec(
        spec,
        *conditions_in(table),
        _counts(table, "workers", ()),
        label,
        table.truth("tuned_on", default=False),
    )


def document_of(study: Study) -> dict[str, Any]:
    """What `parse_study` reads as the same study, in plain lists, texts and numbers."""
    return {
        "name": study.name,
        "profile": study.profile,
        "seeds": list(study.seeds),
        "workers": list(study.workers),
        "bounds": study.bounds,
        "timelines": list(study.timelines),
        "policies": [
            {"name": p.name, "label": p.label, "options": dict(p.options)} | serving_of(p.serving)
            for p in study.policies
        ],
        "workloads": [
            {**w.spec, "label": w.label, "slo_ms": slo_of(w.slo), "tuned_on": w.tuned_on}
            | ({"workers": list(w.workers)} if w.workers else {})
            | ({} if w.noise is None else {"noise": noise_of(w.noise)})
            | ({} if w.failures is None else {"failures": failures_of(w.failures)})
            for w in study.workloads
        ],
    }


def _policy(given: Any, common: Document) -> PolicySpec:
    if isinstance(given, str):
        given = {"name": given}
    inherited = {name: common[name] for name in SERVING if name in common}
    named = given.get("label") or given.get("name") if isinstance(given, Mapping) else None
    table = Table(f"policy {named or '?'}", given, (*POLICY, *SERVING))
    if not table.text("name", ""):
        raise table.bad("name", "the name of a policy")
    options = Table(f"options of {table.where}", given.get("options", {}))
    wrong = [n for n, v in options.values.items() if not isinstance(v, str | int | float | bool)]
    if wrong:
        raise options.bad(wrong[0], "a text, a number, true or false")
    return PolicySpec(
        table.text("name", ""),
        {name: str(value) for name, value in options.values.items()},
        table.text("label", ""),
        serving_in(Table(table.where, {**inherited, **given}, (*POLICY, *SERVING))),
    )


def _seeds(table: Table) -> tuple[int, ...]:
    given = table.values.get("seeds", 3)
    if is_whole(given) and given > 0:
        return tuple(range(given))
    if isinstance(given, list) and given and all(map(is_whole, given)):
        return tuple(given)
    raise table.bad("seeds", "how many, or a list of whole numbers")


def _counts(table: Table, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    given = table.values.get(name, list(default))
    numbers = given if isinstance(given, list) else [given]
    if not all(is_whole(number) and number > 0 for number in numbers):
        raise table.bad(name, "a whole number from 1, or a list of them")
    return tuple(numbers)


def _find(spec: Document) -> None:
    """``ValueError`` where a workload's trace is not there: better now than after an hour."""
    if "path" in spec and not Path(spec["path"]).is_file():
        raise ValueError(f"there is no trace {spec['path']}")
    if "name" in spec:
        find_trace(spec["name"])


def _plain(value: Any) -> Any:
    """Dates of TOML as text, which workloads read too and JSON can hold."""
    return value.isoformat() if isinstance(value, date) else value
