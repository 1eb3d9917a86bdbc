"""The experiment as a command: run it, show how far it is, end with a table and the report."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from loadtest.compare.results import Interval
from loadtest.compare.study import Setting
from loadtest.compare.tables import NOTHING, title_of
from loadtest.experiment.design import Experiment
from loadtest.experiment.report import write_report
from loadtest.experiment.run import ExperimentResults, Payloads, run_experiment

COLUMNS = (("attainment", 2, 100.0), ("mean_accuracy", 2, 1.0), ("latency_p99", 1, 1e3))


@dataclass(frozen=True, slots=True)
class ExperimentOptions:
    """How to run an experiment, beside what it is."""

    folder: Path
    resume: bool = False


def run_command(
    experiment: Experiment,
    options: ExperimentOptions,
    payloads: Payloads | None = None,
    console: Console | None = None,
) -> None:
    """Raises `ConfigError` as `run_experiment` does; after Ctrl-C it says how to go on."""
    console = console or Console(highlight=False)
    study = experiment.study
    console.print(
        f"Experiment {study.name}: policies {len(study.policies)}, other servers "
        f"{len(experiment.peers)}, settings {len(study.settings())}, seeds {len(study.seeds)}.",
        markup=False,
    )
    try:
        with _progress(console) as progress:
            # Not shown before there is something to show: a wrong experiment ends in one line.
            task = progress.add_task("", total=None, visible=False)
            results = run_experiment(
                experiment,
                options.folder,
                payloads=payloads,
                resume=options.resume,
                show=lambda done, total, what: progress.update(
                    task, completed=done, total=total, description=what, visible=True
                ),
            )
    except KeyboardInterrupt:
        console.print(
            f"What is finished lies in {options.folder}: --resume goes on with it.", markup=False
        )
        raise
    page = write_report(results, options.folder)
    console.print(result_table(results))
    for cell, complaints in results.rejected.items():
        console.print(f"NOT COUNTED, {cell}: {complaints[0]}", style="bold red", markup=False)
    console.print(f"Report: {page}", markup=False, soft_wrap=True)


def result_table(results: ExperimentResults) -> Group:
    """Live against simulated, one line per configuration."""
    parts = [_setting_table(results, s) for s in results.experiment.study.settings()]
    return Group(*parts)


def _setting_table(results: ExperimentResults, setting: Setting) -> Table:
    simulated = {row.policy: row for row in results.simulated.rows(setting)}
    live = results.live.rows(setting)
    title = Text(f"\n{title_of(results.simulated, setting)}", style="bold")
    table = Table(box=None, pad_edge=False, title=title, title_justify="left")
    table.add_column("Policy", no_wrap=True)
    for head in ("Met %", "simulated", "Acc. %", "simulated", "p99 ms", "simulated"):
        table.add_column(head, justify="right", no_wrap=True)
    for row in live:
        other = simulated.get(row.policy)
        cells = []
        for name, digits, scale in COLUMNS:
            cells += [
                _number(None if each is None else getattr(each, name), digits, scale)
                for each in (row, other)
            ]
        table.add_row(Text(row.policy), *cells)
    return table


def _number(found: Interval | None, digits: int, scale: float) -> str:
    return NOTHING if found is None else f"{scale * found.mean:.{digits}f}"


def _progress(console: Console) -> Progress:
    return Progress(
        MofNCompleteColumn(),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
        console=console,
    )
