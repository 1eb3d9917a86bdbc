"""``python -m benchmarks.live``: the live experiments, their reports, and the tables of the docs.

Each study is a `superserve experiment`; what is finished is kept, so that it can be interrupted.
Real traces are used where SUPERSERVE_TRACES names a folder that has them.
"""

import argparse
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
from PIL import Image

from benchmarks.common import RESULTS
from benchmarks.study_runs import STUDIES, markdown
from loadtest.experiment.command import ExperimentOptions, run_command
from loadtest.experiment.definition_file import read_experiment
from loadtest.experiment.report import PLOTS
from loadtest.experiment.report import RESULTS as FIGURES
from loadtest.traces import find_traces
from supernets.data.digits_data import sample_images

STUDY_NAMES = ("live-digits", "live-emulated", "live-fidelity", "live-peers")
TRACES = "live-traces"
FOLDER = Path("build") / "live"
COLOURS = 48  # of a committed picture
ROUNDED = 6  # significant digits of a committed figure

Document = Mapping[str, Any]


def main() -> None:
    options = _options()
    names = [*STUDY_NAMES, *((TRACES,) if find_traces() else ())]
    for name in options.only or names:
        folder = options.folder / name
        experiment = read_experiment(STUDIES / f"{name}.toml")
        if not options.tables_only:
            resume = (folder / "experiment.json").exists()
            run_command(experiment, ExperimentOptions(folder, resume), sample_images)
        document = orjson.loads((folder / FIGURES).read_bytes())
        options.output.mkdir(parents=True, exist_ok=True)
        path = options.output / f"{name}.json"
        path.write_bytes(orjson.dumps(_short(document), option=orjson.OPT_INDENT_2) + b"\n")
        print(path)
        tables = {f"{name} {what}": text for what, text in tables_of(document).items()}
        for title, text in tables.items():
            print(f"\n{title}\n\n{text}")
        if options.docs is not None:
            put(options.docs, tables)
        if options.reports is not None:
            copy_report(folder, options.reports / name)


def tables_of(document: Document) -> dict[str, str]:
    """By name, as the docs show them: the policies in each setting, and the simulation's errors."""
    settings = list(dict.fromkeys(_setting(line) for line in document["live"]))
    tables = {str(n): _table(document, setting) for n, setting in enumerate(settings, 1)}
    return {**tables, "fidelity": _fidelity(document)}


def _fidelity(document: Document) -> str:
    """The errors of the simulation, live less simulated, over the configurations."""
    rows = [
        [what, f"{found['mean']:.2f}", f"{found['worst']:.2f}", f"{found['bias']:+.2f}",
         found["count"]]
        for what in ("attainment", "accuracy")
        if (found := document["fidelity"][what]) is not None
    ]  # fmt: skip
    return markdown(["points of", "mean error", "worst", "bias", "configurations"], rows)


def _table(document: Document, setting: tuple[str, int]) -> str:
    live = [line for line in document["live"] if _setting(line) == setting]
    simulated = [line for line in document["simulated"] if _setting(line) == setting]
    rows = []
    for policy in dict.fromkeys(line["cell"]["policy"] for line in live):
        ours = [line for line in live if line["cell"]["policy"] == policy]
        theirs = [line for line in simulated if line["cell"]["policy"] == policy]
        rows.append(
            [
                policy,
                _mean(ours, "attainment", 2, 100),
                _mean(theirs, "attainment", 2, 100),
                _mean(ours, "mean_accuracy", 2),
                _mean(theirs, "mean_accuracy", 2),
                _mean(ours, "latency_p99", 0, 1e3),
                _mean(ours, "mean_batch", 1),
                len(ours),
            ]
        )
    columns = ["policy", "met, %", "simulated", "accuracy, %", "simulated", "p99, ms",
               "mean batch", "runs"]  # fmt: skip
    return markdown(columns, rows)


def copy_report(folder: Path, there: Path) -> None:
    """The report in Markdown with its pictures, in few colours: a repository keeps them long."""
    shutil.rmtree(there / PLOTS, ignore_errors=True)
    (there / PLOTS).mkdir(parents=True)
    shutil.copy(folder / "report.md", there)
    for picture in (folder / PLOTS).glob("*.png"):
        with Image.open(picture) as image:
            image.convert("RGB").quantize(COLOURS).save(there / PLOTS / picture.name, optimize=True)


def put(page: Path, tables: Mapping[str, str]) -> None:
    """Each between ``<!-- name -->`` and ``<!-- /name -->``."""
    text = page.read_text()
    for name, table in tables.items():
        before, found, rest = text.partition(f"<!-- {name} -->")
        _, closed, after = rest.partition(f"<!-- /{name} -->")
        if found and closed:
            text = f"{before}<!-- {name} -->\n{table}<!-- /{name} -->{after}"
    page.write_text(text)


def _setting(line: Document) -> tuple[str, int]:
    setting = line["cell"]["setting"]
    return setting["workload"], setting["workers"]


def _mean(lines: Sequence[Document], name: str, digits: int, scale: float = 1.0) -> str:
    """With the lowest and highest seed, where they differ in the digits that are shown."""
    values = [scale * line[name] for line in lines if line[name] is not None]
    if not values:
        return "-"
    mean, low, high = (
        f"{v:.{digits}f}" for v in (sum(values) / len(values), min(values), max(values))
    )
    return mean if low == high else f"{mean} ({low} to {high})"


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{ROUNDED}g}")
    if isinstance(value, dict):
        return {name: _short(each) for name, each in value.items()}
    return [_short(each) for each in value] if isinstance(value, list) else value


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="records, reports, plots")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the JSON files")
    parser.add_argument("--docs", type=Path, help="a page of docs/ to write the tables into")
    parser.add_argument("--reports", type=Path, help="a folder of docs/ to copy the reports into")
    parser.add_argument("--only", nargs="*", help="some of the studies")
    parser.add_argument("--tables-only", action="store_true", help="of runs that are there")
    return parser.parse_args()


if __name__ == "__main__":
    main()
