"""The tables of a comparison: which columns there are, which cell is best, how numbers look."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Literal

from loadtest.compare.results import Interval, Results, Row
from loadtest.compare.study import Setting

NEAR = 0.99  # attainment from which accuracy and latency are worth a comparison
NOTHING = "–"


@dataclass(frozen=True, slots=True)
class TableCell:
    """``small`` is what a reader may skip, line by line."""

    text: str
    small: tuple[str, ...] = ()
    best: bool = False


@dataclass(frozen=True, slots=True)
class Column:
    """``better`` is None where neither more nor less is; ``near`` compares only policies with an
    attainment of at least `NEAR`, since who answers few queries may answer those well.
    """

    title: str
    pick: Callable[[Row], Interval | None]
    digits: int
    scale: float = 1.0
    better: Literal["more", "less"] | None = None
    near: bool = False
    worst: bool = False  # show the worst seed too
    spread: bool = True  # show the interval


COLUMNS = (
    Column("SLO attainment (%)", lambda r: r.attainment, 3, 100.0, "more", worst=True),
    Column("Mean accuracy (%)", lambda r: r.mean_accuracy, 3, 1.0, "more", near=True, worst=True),
    Column("Effective accuracy (%)", lambda r: r.effective_accuracy, 3, 1.0, "more", worst=True),
    Column("Utility", lambda r: r.utility, 3, 1.0, "more", worst=True),
    Column("Below the bound", lambda r: r.gap, 3, 1.0, "less"),
    Column("p50 (ms)", lambda r: r.latency_p50, 2, 1e3, "less", near=True),
    Column("p99 (ms)", lambda r: r.latency_p99, 2, 1e3, "less", near=True),
    Column("Dropped (%)", lambda r: r.dropped, 3, 100.0, spread=False),
    Column("Late (%)", lambda r: r.late, 3, 100.0, spread=False),
    Column("Mean batch", lambda r: r.mean_batch, 2, spread=False),
    Column("Batches", lambda r: r.batches, 0, spread=False),
    Column("Decisions", lambda r: r.decisions, 0, spread=False),
    Column("µs per decision", lambda r: r.decision_median, 1, 1e6, "less", spread=False),
)
SHORT = {  # for terminals: these columns, under shorter names
    "SLO attainment (%)": "Met %",
    "Mean accuracy (%)": "Acc. %",
    "Utility": "Utility",
    "Below the bound": "Gap",
    "p99 (ms)": "p99 ms",
    "Mean batch": "Batch",
    "µs per decision": "µs",
}


def setting_table(
    results: Results, setting: Setting, titles: Collection[str] = ()
) -> tuple[list[str], list[list[TableCell]]]:
    """Heads and lines, the policy's name first; only the columns of these ``titles``, or all."""
    rows = results.rows(setting)
    everywhere = [row for each in results.prepared.study.settings() for row in results.rows(each)]
    columns = [
        column
        for column in COLUMNS
        if (not titles or column.title in titles) and any(map(column.pick, everywhere))
    ]
    cells = [column_cells(column, rows) for column in columns]
    lines = [[TableCell(row.policy), *line] for row, *line in zip(rows, *cells, strict=True)]
    return ["Policy", *(column.title for column in columns)], lines


def column_cells(column: Column, rows: Sequence[Row]) -> list[TableCell]:
    """The best are those that nobody beats in the digits that are shown."""
    found = [column.pick(row) for row in rows]
    shown = [None if each is None else round(each.mean * column.scale, column.digits) + 0.0
             for each in found]  # fmt: skip
    judged = [
        value
        for value, row in zip(shown, rows, strict=True)
        if value is not None and (not column.near or row.attainment.mean >= NEAR)
    ]
    best: float | None = None
    if column.better is not None and judged:
        best = max(judged) if column.better == "more" else min(judged)
    cells = []
    for value, interval, row in zip(shown, found, rows, strict=True):
        eligible = not column.near or row.attainment.mean >= NEAR
        cells.append(
            TableCell(
                NOTHING if value is None else f"{value:.{column.digits}f}",
                _spread(interval, column),
                best is not None and value == best and eligible,
            )
        )
    return cells


def overview(results: Results) -> tuple[list[str], list[list[TableCell]]]:
    """One line per policy, and one for the bounds: over all settings, and the utility in each."""
    study = results.prepared.study
    settings = study.settings()
    tuned = {workload.label for workload in study.workloads if workload.tuned_on}
    by_setting = {s: {row.policy: row for row in results.rows(s)} for s in settings}
    labels = [policy.label for policy in study.policies]
    groups = [("Below the bound, mean", settings)] if results.bounds else []
    fresh = [s for s in settings if s.workload not in tuned]
    if groups and tuned and fresh:
        groups.append(("… of those not tuned on", fresh))
    heads = ["Policy", *(title for title, _ in groups), "Lowest attainment (%)"]
    columns = [
        _plain([_mean_gap([by_setting[s].get(label) for s in group]) for label in labels], 3, min)
        for _, group in groups
    ]
    lowest = [
        min((by_setting[s][label].attainment.least for s in settings if label in by_setting[s]),
            default=None)
        for label in labels
    ]  # fmt: skip
    columns.append(_plain([None if v is None else 100 * v for v in lowest], 3, max))
    for setting in settings:
        rows = by_setting[setting]
        utilities = [rows[label].utility.mean if label in rows else None for label in labels]
        columns.append(_plain(utilities, 3, max))
        heads.append(f"Utility: {title_of(results, setting)}")
    lines = [[TableCell(label), *line] for label, *line in zip(labels, *columns, strict=True)]
    if results.bounds:
        blanks = [TableCell("") for _ in range(len(heads) - 1 - len(settings))]
        ceilings = map(results.ceiling, settings)
        shown = [NOTHING if each is None else f"{each.utility.mean:.3f}" for each in ceilings]
        lines.append([TableCell("bound"), *blanks, *map(TableCell, shown)])
    return heads, lines


def title_of(results: Results, setting: Setting) -> str:
    """With the number of workers where that tells settings apart."""
    several = len({each.workers for each in results.prepared.study.settings()}) > 1
    workers = f"{setting.workers} worker{'s' if setting.workers > 1 else ''}"
    return f"{setting.workload}, {workers}" if several else setting.workload


def spread_text(interval: Interval, digits: int, scale: float = 1.0) -> str:
    """``± half``, or nothing for a single seed."""
    return f"± {interval.half * scale:.{digits}f}" if isfinite(interval.half) else ""


def _spread(interval: Interval | None, column: Column) -> tuple[str, ...]:
    if interval is None or not column.spread:
        return ()
    parts = [spread_text(interval, column.digits, column.scale)]
    if column.worst and interval.count > 1:
        parts.append(f"min {interval.least * column.scale:.{column.digits}f}")
    return tuple(filter(None, parts))


def _mean_gap(rows: Sequence[Row | None]) -> float | None:
    gaps = [row.gap.mean for row in rows if row is not None and row.gap is not None]
    return sum(gaps) / len(gaps) if gaps and len(gaps) == len(rows) else None


def _plain(
    values: Sequence[float | None], digits: int, choose: Callable[[list[float]], float]
) -> list[TableCell]:
    shown = [None if value is None else round(value, digits) + 0.0 for value in values]
    known = [value for value in shown if value is not None]
    best = choose(known) if known else None
    return [
        TableCell(NOTHING if value is None else f"{value:.{digits}f}", best=value == best)
        for value in shown
    ]
