"""The comparison as a command: run it, show how far it is, end with a table and the report."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from loadtest.compare.report import PLOTS, write_report
from loadtest.compare.results import Results
from loadtest.compare.run import run_study
from loadtest.compare.study import Study
from loadtest.compare.tables import SHORT, setting_table, title_of


@dataclass(frozen=True, slots=True)
class CompareOptions:
    """How to run a study, beside what it is."""

    folder: Path
    processes: int | None = None  # None: one for each CPU
    resume: bool = False
    records: bool = False


def run_compare(study: Study, options: CompareOptions, console: Console | None = None) -> None:
    """Raises `ConfigError` as `run_study` does; after Ctrl-C it says how to go on, and raises."""
    console = console or Console(highlight=False)
    console.print(
        f"Study {study.name}: policies {len(study.policies)}, settings {len(study.settings())}, "
        f"seeds {len(study.seeds)}.",
        markup=False,
    )
    try:
        with _progress(console) as progress:
            # Not shown before there is something to show: a wrong study ends in one line.
            task = progress.add_task("Simulating", total=None, visible=False)
            results = run_study(
                study,
                options.folder,
                processes=options.processes,
                resume=options.resume,
                records=options.records,
                on_progress=lambda done, total: progress.update(
                    task, completed=done, total=total, visible=True
                ),
            )
    except KeyboardInterrupt:
        console.print(
            f"What is finished lies in {options.folder}: --resume goes on with it.", markup=False
        )
        raise
    page = write_report(results, options.folder)
    console.print(result_table(results))
    if results.bounds:
        console.print("\nGap: how far the utility is below what any schedule can have.")
    console.print(f"Plots:  {options.folder / PLOTS}", markup=False, soft_wrap=True)
    console.print(f"Report: {page}", markup=False, soft_wrap=True)


def result_table(results: Results) -> Group:
    """The main columns, setting by setting; the best of each is bold."""
    names = [policy.label for policy in results.prepared.study.policies]
    width = max(map(len, names))
    parts: list[Table] = []
    for setting in results.prepared.study.settings():
        heads, lines = setting_table(results, setting, SHORT)
        title = Text(f"\n{title_of(results, setting)}", style="bold")
        table = Table(box=None, pad_edge=False, title=title, title_justify="left")
        table.add_column("Policy", min_width=width, no_wrap=True)
        for head in heads[1:]:
            table.add_column(SHORT[head], justify="right", min_width=len("100.000"))
        for first, *rest in lines:
            cells = [Text(cell.text, style="bold green" if cell.best else "") for cell in rest]
            table.add_row(Text(first.text), *cells)
        parts.append(table)
    return Group(*parts)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
    )
