"""The pictures of a comparison, but for the accuracies: over time, utilities, decisions."""

from math import ceil, isfinite
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from loadtest.compare.marks import (
    DPI,
    INK,
    MUTED,
    Mark,
    few_ticks,
    marks,
    new_figure,
    quiet,
    write_title,
)
from loadtest.compare.results import Interval, Results, Row
from loadtest.compare.study import PENALTY, Cell, Setting
from loadtest.compare.summary import Timeline
from loadtest.compare.tables import title_of
from loadtest.simulation_workers import Fail

MOST_TIMELINES = 6
_ROUNDING = 5e-4  # accuracy points that say nothing
_LEAST_GAP = 0.01  # accuracy points; the distance axis begins here


def plot_timelines(path: Path, results: Results, setting: Setting) -> bool:
    """One run of each policy over time: load, accuracy, batch size, slack, attainment.

    Gives False, and no picture, where there are no timelines.
    """
    study = results.prepared.study
    look = marks([policy.label for policy in results.prepared.study.policies])
    wanted = study.timelines or tuple(policy.label for policy in study.policies)[:MOST_TIMELINES]
    drawn = {
        label: results.timelines[cell]
        for label in wanted
        if (cell := Cell(setting, study.seeds[0], label)) in results.timelines
    }
    if not drawn:
        return False
    figure = new_figure(9.0, 10.5)
    write_title(figure, title_of(results, setting), f"One run over time, seed {study.seeds[0]}")
    first = next(iter(drawn.values()))
    panels = figure.subplots(5, sharex=True)
    rate, accuracy, batch, slack, attainment = panels
    quiet(rate, "Arrival rate (queries/s)", grid="y")
    edges = first.window * np.arange(len(first.rate) + 1)
    rate.stairs(first.rate, edges, fill=True, color="#c4cad4")
    rate.set_ylim(0, 1.12 * max(first.rate))
    for axes, name, pick in (
        (accuracy, "Accuracy (%), mean over the queries that met the SLO", _accuracy),
        (batch, "Batch size, mean", _batch),
        (slack, "Slack of the most urgent query when its batch starts (ms), mean", _slack),
        (attainment, "SLO attainment (%)", _attainment),
    ):
        quiet(axes, name, grid="y")
        for depth, (label, timeline) in enumerate(drawn.items()):
            _draw_run(axes, look[label], label, timeline, pick(timeline), len(drawn) - depth)
    batch.set_ylim(bottom=0)
    low, _ = attainment.get_ylim()
    attainment.set_ylim(min(low, 98.0), 100.0 + 0.04 * (100.0 - min(low, 98.0)))
    attainment.set_xlabel("Time (s)")
    attainment.set_xlim(0, edges[-1])
    for axes in panels:
        few_ticks(axes)
        _draw_failures(axes, results, setting, float(edges[-1]), named=axes is rate)
    figure.legend(*accuracy.get_legend_handles_labels(), loc="outside lower center",
                  frameon=False, ncols=3, labelcolor=INK, fontsize=9.5)  # fmt: skip
    figure.savefig(path, dpi=DPI, facecolor="white")
    return True


def plot_utility(path: Path, results: Results) -> None:
    """How far each policy's utility stays below the bound, setting by setting."""
    settings = [s for s in results.prepared.study.settings() if results.ceiling(s) is not None]
    if not settings:
        return
    look = marks([policy.label for policy in results.prepared.study.policies])
    labels = list(look)
    columns = 2 if len(settings) in {2, 4} else min(3, len(settings))
    lines = ceil(len(settings) / columns)
    height = 0.9 + lines * (0.75 + 0.27 * len(labels))
    figure = new_figure(3.0 + 3.1 * columns, height)
    miss = f"a miss counts −{PENALTY:g}"
    write_title(
        figure, "Distance of the utility to the bound", f"accuracy points, {miss}; left is best"
    )
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[len(settings) :]:
        axes.set_visible(False)
    furthest = 1.0
    for axes, setting in zip(grid.flat, settings, strict=False):
        quiet(axes, title_of(results, setting), grid="x")
        axes.title.set_fontsize(9.5)
        for row in results.rows(setting):
            if row.gap is not None:
                furthest = max(furthest, row.gap.most)
                _draw_gap(axes, labels.index(row.policy), row.gap, look[row.policy])
    corner = grid[0, 0]
    corner.set_xscale("log")
    corner.set_xlim(_LEAST_GAP, furthest * 8)  # room for the number behind the longest
    corner.xaxis.set_major_locator(LogLocator(10.0))
    corner.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    corner.xaxis.set_minor_formatter(NullFormatter())
    corner.set_yticks(range(len(labels)), labels)
    corner.set_ylim(len(labels) - 0.5, -0.5)
    for place, axes in enumerate(grid.flat):
        last = place + columns >= len(settings)
        axes.tick_params(axis="x", which="major", labelbottom=last)
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.tick_params(axis="x", which="minor", length=0)
    figure.savefig(path, dpi=DPI, facecolor="white")


def plot_cost(path: Path, results: Results) -> None:
    """What one decision costs in real time: its median, and its 99th percentile."""
    look = marks([policy.label for policy in results.prepared.study.policies])
    labels = list(look)
    figure = new_figure(8.0, 1.3 + 0.3 * len(labels))
    write_title(
        figure, "Time per decision", "filled: median, hollow: 99th percentile; worst setting"
    )
    axes = figure.subplots()
    quiet(axes, grid="x")
    found: dict[str, list[Row]] = {label: [] for label in labels}
    for setting in results.prepared.study.settings():
        for row in results.rows(setting):
            found[row.policy].append(row)
    for place, label in enumerate(labels):
        medians = [1e6 * row.decision_median.mean for row in found[label] if row.decision_median]
        tails = [1e6 * row.decision_p99.mean for row in found[label] if row.decision_p99]
        if medians and tails:
            mark, ends = look[label], (max(medians), max(tails))
            axes.plot(ends, (place, place), color=mark.color, linewidth=1.2)
            axes.plot(ends[0], place, mark.marker, color=mark.color, markersize=7)
            axes.plot(ends[1], place, mark.marker, color=mark.color, markersize=7,
                      markerfacecolor="white")  # fmt: skip
            axes.annotate(f"{ends[0]:.1f}", (ends[0], place), xytext=(-8, 0), fontsize=8.5,
                          textcoords="offset points", ha="right", va="center",
                          color=INK)  # fmt: skip
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlim(low / 2, high * 1.3)
    fine = (1.0, 2.0, 5.0) if high / low < 500 else (1.0,)
    axes.xaxis.set_major_locator(LogLocator(10.0, subs=fine))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.set_xlabel("µs per decision (measured while other cells ran)")
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    figure.savefig(path, dpi=DPI, facecolor="white")


def _draw_run(
    axes: Axes,
    mark: Mark,
    label: str,
    timeline: Timeline,
    values: npt.NDArray[np.float64],
    depth: int,
) -> None:
    times = timeline.window * (np.arange(len(values)) + 0.5)
    axes.plot(times, values, color=mark.color, linestyle=mark.line, linewidth=1.5, label=label,
              marker=mark.marker, markevery=(3 * depth % 7, 7), markersize=5.0,
              markeredgecolor="white", markeredgewidth=0.5, zorder=3 + depth)  # fmt: skip


def _accuracy(timeline: Timeline) -> npt.NDArray[np.float64]:
    return np.array(timeline.accuracy)


def _batch(timeline: Timeline) -> npt.NDArray[np.float64]:
    return np.array(timeline.batch)


def _slack(timeline: Timeline) -> npt.NDArray[np.float64]:
    return 1e3 * np.array(timeline.slack)


def _attainment(timeline: Timeline) -> npt.NDArray[np.float64]:
    return 100.0 * np.array(timeline.attainment)


def _draw_failures(
    axes: Axes, results: Results, setting: Setting, end: float, *, named: bool
) -> None:
    failures = results.prepared.study.workload(setting.workload).failures
    if failures is None:
        return
    deaths = [e.at for e in failures.script(setting.workers, end) if isinstance(e, Fail)]
    for number, at in enumerate(deaths):
        axes.axvline(at, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)), zorder=1)
        if named and number == 0:
            axes.annotate("a worker dies", (at, 1.0), xycoords=("data", "axes fraction"),
                          xytext=(3, -2), textcoords="offset points", va="top", fontsize=8.5,
                          color=MUTED)  # fmt: skip


def _draw_gap(axes: Axes, place: int, gap: Interval, mark: Mark) -> None:
    shown = max(gap.mean, _LEAST_GAP)
    axes.barh(place, shown - _LEAST_GAP / 2, left=_LEAST_GAP / 2, height=0.62, color=mark.color,
              alpha=0.85, linewidth=0)  # fmt: skip
    end = shown
    if isfinite(gap.half):
        end = gap.mean + gap.half
        low = max(gap.mean - gap.half, _LEAST_GAP / 2)
        axes.plot((low, end), (place, place), color=INK, linewidth=0.9)
    text = f"{gap.mean:.3g}" if abs(gap.mean) >= _ROUNDING else "0"
    axes.annotate(text, (max(end, shown), place), xytext=(4, 0), textcoords="offset points",
                  va="center", fontsize=8.5, color=INK)  # fmt: skip
