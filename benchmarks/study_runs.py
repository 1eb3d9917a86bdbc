"""What the simulated tables share: studies from files, their cells as rows, markdown, JSON."""

import argparse
import json
import multiprocessing
import os
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from math import isnan
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.common import RESULTS, header, write
from loadtest.compare import Results, Setting, Study, WorkloadSpec, parse_study, run_study
from loadtest.compare.results import Interval
from loadtest.compare.run import CELLS as CELLS_FILE
from loadtest.compare.study_file import document_of
from loadtest.compare.summary import RunSummary
from loadtest.traces import find_traces

STUDIES = Path(__file__).parent / "studies"
CELLS = Path(__file__).parent.parent / "build" / "studies"
QUICK_SECONDS = 2.0
# Ramps and failures need their time: shortened, they would be something else.
_UNHURRIED = ("time_varying",)

Job = TypeVar("Job")
Found = TypeVar("Found")
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Options:
    """``quick``: one seed and short loads, to see that everything works. ``resume``: keep the
    finished cells of an earlier run of the same studies, whatever has changed in the code since,
    but for those of the policies with the labels ``again``.
    """

    quick: bool
    resume: bool
    again: tuple[str, ...]
    processes: int
    cells: Path
    output: Path
    docs: Path | None  # a page whose tables are replaced by the new ones


def options(description: str) -> Options:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="one seed, short loads, no claims")
    parser.add_argument("--resume", action="store_true", help="keep cells that are finished")
    parser.add_argument(
        "--again", nargs="*", default=(), metavar="LABEL",
        help="as --resume, but compute the cells of these policies again",
    )  # fmt: skip
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--cells", type=Path, default=CELLS, help="folder of finished cells")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the JSON file")
    parser.add_argument("--docs", type=Path, help="a page of docs/ to write the tables into")
    given = vars(parser.parse_args())
    again = tuple(given.pop("again"))
    return Options(**{**given, "resume": given["resume"] or bool(again)}, again=again)


def study(name: str, *, quick: bool = False) -> Study:
    """``benchmarks/studies/<name>.toml``, without the loads whose trace is not there."""
    document = tomllib.loads((STUDIES / f"{name}.toml").read_text())
    traces = [each.lower() for each in find_traces()]

    def there(workload: Mapping[str, Any]) -> bool:
        wanted = str(workload.get("name", "")).lower()
        return workload["kind"] != "trace" or any(wanted in trace for trace in traces)

    workloads = [each for each in document["workloads"] if there(each)]
    for left_out in (each for each in document["workloads"] if not there(each)):
        print(f"left out, for SUPERSERVE_TRACES has no trace of it: {left_out['label']}")
    read = parse_study({**document, "workloads": workloads}, STUDIES)
    if not quick:
        return read
    return replace(
        read, seeds=read.seeds[:1], workloads=tuple(_shortened(each) for each in read.workloads)
    )


def _shortened(workload: WorkloadSpec) -> WorkloadSpec:
    if workload.failures is not None or workload.spec["kind"] in _UNHURRIED:
        return workload
    seconds = min(QUICK_SECONDS, workload.spec["seconds"])
    return replace(workload, spec={**workload.spec, "seconds": seconds})


def run(name: str, chosen: Options) -> Results:
    """All cells of a study, in parallel."""
    folder = chosen.cells / (f"{name}-quick" if chosen.quick else name)
    forget(folder / CELLS_FILE, chosen.again)

    def progress(done: int, total: int) -> None:
        if done == total or done % 20 == 0:
            print(f"\r{name}: {done} of {total} cells", end="", file=sys.stderr, flush=True)

    results = run_study(
        study(name, quick=chosen.quick),
        folder,
        processes=chosen.processes,
        resume=chosen.resume,
        on_progress=progress,
    )
    print(file=sys.stderr)
    return results


def forget(file: Path, labels: Sequence[str]) -> None:
    """Take the cells of these policies, and of their variants, out of a file of finished ones."""
    if not labels or not file.exists():
        return

    def stays(line: str) -> bool:
        label = str(json.loads(line).get("cell", {}).get("policy"))
        return not any(label == each or label.startswith(f"{each},") for each in labels)

    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(line for line in lines if stays(line)))


def parallel(work: Callable[[Job], Found], jobs: Sequence[Job], processes: int) -> list[Found]:
    """``[work(job) for job in jobs]``, in processes; ``work`` is a function of a module."""
    if processes <= 1:
        return [work(job) for job in jobs]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(jobs)), context) as pool:
        return list(pool.map(work, jobs))


def runs_of(results: Results, setting: Setting, policy: str) -> dict[int, RunSummary]:
    """By seed."""
    return {
        cell.seed: found
        for cell, found in results.runs.items()
        if cell.setting == setting and cell.policy == policy
    }


def rows(results: Results) -> list[Row]:
    """One for each setting and policy; attainment and shares in percent, mean and half interval."""
    return [
        {
            "workload": setting.workload,
            "workers": setting.workers,
            "policy": row.policy,
            "attainment": percent(row.attainment),
            "accuracy": spread(row.mean_accuracy),
            "utility": spread(row.utility),
            "late": percent(row.late),
            "dropped": percent(row.dropped),
            "mean_batch": spread(row.mean_batch),
            "decision_us": spread(row.decision_median, 1e6),
            "seeds": row.attainment.count,
        }
        for setting in results.prepared.study.settings()
        for row in results.rows(setting)
    ]


def spread(found: Interval | None, unit: float = 1.0) -> dict[str, float | None] | None:
    """For JSON, which has no nan: ``half`` is None for a single seed."""
    if found is None:
        return None
    half = None if isnan(found.half) else _short(found.half * unit)
    values = {"mean": found.mean, "least": found.least, "most": found.most}
    return {name: _short(value * unit) for name, value in values.items()} | {"half": half}


def percent(found: Interval | None) -> dict[str, float | None] | None:
    return spread(found, 100.0)


def _short(value: float) -> float:
    return float(f"{value:.7g}")


def number(found: Mapping[str, float | None] | None, digits: int) -> str:
    """``mean ± half`` as text, without the half where it rounds to nothing."""
    if found is None or found["mean"] is None:
        return "-"
    half = found.get("half")
    text = f"{found['mean']:.{digits}f}"
    return f"{text} ± {half:.{digits}f}" if half and f"{half:.{digits}f}".strip("0.") else text


def cell(row: Row) -> str:
    """Attainment / accuracy, without intervals: tables are wide enough."""
    accuracy = row["accuracy"]
    return f"{row['attainment']['mean']:.3f} / " + (f"{accuracy['mean']:.2f}" if accuracy else "-")


def pivot(found: Sequence[Row], text: Callable[[Row], str] = cell) -> str:
    """Policies down, workloads across, as markdown."""
    across = list(dict.fromkeys(row["workload"] for row in found))
    down = list(dict.fromkeys(row["policy"] for row in found))
    by_place = {(row["policy"], row["workload"]): row for row in found}
    lines = [
        [policy, *(text(by_place[policy, w]) if (policy, w) in by_place else "-" for w in across)]
        for policy in down
    ]
    return markdown(["policy", *across], lines)


def in_parts(found: Sequence[Row], most: int, text: Callable[[Row], str] = cell) -> str:
    """As `pivot`, in as many tables as keep each from having more than so many workloads."""
    across = list(dict.fromkeys(row["workload"] for row in found))
    parts = [across[begin : begin + most] for begin in range(0, len(across), most)]
    return "\n".join(pivot([r for r in found if r["workload"] in part], text) for part in parts)


def records(lines: Sequence[Row]) -> str:
    """Rows that have the same keys, as markdown."""
    shown = [["-" if value is None else value for value in row.values()] for row in lines]
    return markdown(list(lines[0]), shown)


def markdown(columns: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    def line(cells: Sequence[object]) -> str:
        return "| " + " | ".join(map(str, cells)) + " |"

    return "\n".join([line(columns), line(["---"] * len(columns)), *map(line, lines)]) + "\n"


def show(tables: Mapping[str, str], chosen: Options) -> None:
    """Print them, and put each into the page between ``<!-- name -->`` and ``<!-- /name -->``."""
    for name, text in tables.items():
        print(f"\n{name}\n\n{text}")
    if chosen.docs is None:
        return
    page = chosen.docs.read_text()
    for name, text in tables.items():
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        before, found, rest = page.partition(begin)
        _, closed, after = rest.partition(end)
        if found and closed:
            page = f"{before}{begin}\n{text}{end}{after}"
    chosen.docs.write_text(page)


def kept(results: Results) -> Row:
    """A study for the JSON file: what it was, what computed it, what came out."""
    return {
        "study": document_of(results.prepared.study),
        "computed_by": [asdict(each) for each in results.provenance],
        "rows": rows(results),
    }


def save(name: str, chosen: Options, tables: Mapping[str, Any], seed: int) -> Path:
    """Raises nothing of its own; a quick run gets a name of its own, for it proves nothing."""
    document = {**header(seed, how="simulated", quick=chosen.quick), "tables": tables}
    path = write(f"{name}-quick" if chosen.quick else name, document, chosen.output)
    # One line per row: thousands of numbers, each on its own, nobody could read.
    path.write_text(_compact(document) + "\n")
    return path


def _compact(value: Any, depth: int = 0) -> str:
    text = json.dumps(value, ensure_ascii=False)
    if len(text) <= 400 or not value or not isinstance(value, dict | list):
        return text
    pad = " " * (depth + 1)
    if isinstance(value, list):
        inner = [pad + _compact(each, depth + 1) for each in value]
        return "[\n" + ",\n".join(inner) + "\n" + " " * depth + "]"
    inner = [f"{pad}{json.dumps(k)}: {_compact(v, depth + 1)}" for k, v in value.items()]
    return "{\n" + ",\n".join(inner) + "\n" + " " * depth + "}"
