"""Attainment against accuracy: one picture for each setting, and what no policy can exceed."""

from collections.abc import Sequence
from itertools import pairwise
from math import ceil, floor, log10
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from loadtest.compare.marks import (
    DPI,
    MUTED,
    SHADE,
    Box,
    Mark,
    marks,
    new_figure,
    place_labels,
    quiet,
    write_title,
)
from loadtest.compare.results import Ceiling, Interval, Results, Row
from loadtest.compare.study import PENALTY, Setting
from loadtest.compare.tables import NEAR, title_of

Floats = npt.NDArray[np.float64]


def plot_pareto(path: Path, results: Results, setting: Setting) -> bool:
    """Mean accuracy against attainment, as Fig. 8 to 11 of SuperServe (NSDI'25).

    The horizontal axis opens up towards 1: each unit is ten times fewer misses. Where the policies
    that hardly miss lie close together, a second panel shows them alone. Whiskers go from the
    lowest to the highest seed. Gives False, and no picture, where no policy met any deadline.
    """
    rows = [row for row in results.rows(setting) if row.mean_accuracy is not None]
    ceiling = results.ceiling(setting)
    if not rows:
        return False
    look = marks([policy.label for policy in results.prepared.study.policies])
    queries = max(results.queries(setting), default=1)
    clip = float(min(max(ceil(log10(queries)), 2), 6))
    close = _close(rows)
    figure = new_figure(12.0 if close else 8.0, 5.0)
    write_title(
        figure, title_of(results, setting), "SLO attainment and mean accuracy; top right is best"
    )
    panels = figure.subplots(1, 2, width_ratios=(1, 1)) if close else [figure.subplots()]
    every = [row for row in rows if row not in close]
    _draw_pareto(panels[0], rows, every, ceiling, look, clip)
    framed: list[Box] = []
    if close:
        panels[0].set_title("all policies", loc="left", fontsize=10, color=MUTED)
        _draw_pareto(panels[1], close, close, ceiling, look, clip)
        panels[1].set_title("those in the frame on the left", loc="left", fontsize=10, color=MUTED)
        (left, right), (low, high) = panels[1].get_xlim(), panels[1].get_ylim()
        corners = ([left, right, right, left, left], [low, low, high, high, low])
        panels[0].plot(*corners, color=MUTED, linewidth=0.8, zorder=2)
        framed = [(*a, *b) for a, b in pairwise(zip(*corners, strict=True))]
    walls = [*_whiskers(rows, clip), *framed]
    if ceiling is not None:
        line = zip(*(each.tolist() for each in _ceiling_line(ceiling, clip, 40)), strict=True)
        walls += [(*a, *b) for a, b in pairwise(line)]
    for panel, shown in zip(panels, (every, close), strict=False):
        place_labels(
            panel,
            [
                (_nines(row.attainment.mean, clip), _mean(row.mean_accuracy), row.policy,
                 look[row.policy].color)
                for row in shown
            ],
            walls,
        )  # fmt: skip
    figure.savefig(path, dpi=DPI, facecolor="white")
    return True


def _nines(attainment: float, clip: float) -> float:
    """Where an attainment stands: 0.99 near 2, 0.999 near 3, and 1 at ``clip``."""
    least = 10.0**-clip
    return -log10((1.0 - attainment) * (1.0 - least) + least)


def _mean(interval: Interval | None) -> float:
    return float("nan") if interval is None else interval.mean


def _close(rows: Sequence[Row]) -> list[Row]:
    """Those near the best that hardly miss, if a panel of their own shows them better."""
    hardly = [row for row in rows if row.attainment.mean >= NEAR]
    best = max((_mean(row.mean_accuracy) for row in hardly), default=0.0)
    spread = [_mean(row.mean_accuracy) for row in rows]
    reach = 0.2 * (max(spread, default=0.0) - min(spread, default=0.0))
    close = [row for row in hardly if best - _mean(row.mean_accuracy) <= reach]
    return close if 1 < len(close) < len(rows) else []


def _draw_pareto(
    axes: Axes,
    rows: Sequence[Row],
    named: Sequence[Row],
    ceiling: Ceiling | None,
    look: dict[str, Mark],
    clip: float,
) -> None:
    quiet(axes)
    for depth, row in enumerate(rows):
        accuracy = row.mean_accuracy
        if accuracy is None:
            continue
        x, mark = _nines(row.attainment.mean, clip), look[row.policy]
        for left, low, right, high in _whiskers([row], clip):
            axes.plot((left, right), (low, high), color=mark.color, linewidth=0.9, alpha=0.8,
                      zorder=4)  # fmt: skip
        axes.plot(x, accuracy.mean, mark.marker, color=mark.color, markersize=7.5 if row in named
                  else 5.0, markeredgecolor="white", markeredgewidth=0.7, zorder=9 - 0.01 * depth,
                  clip_on=False)  # fmt: skip
    xs = [_nines(row.attainment.least, clip) for row in rows]
    ys = [_mean(row.mean_accuracy) for row in rows]
    top = max([*ys, *([ceiling.utility.mean] if ceiling else [])])
    height = max(top - min(ys), 0.05)
    left = max(min(floor(min(xs)), clip - 2.0), 0.0)
    right = min(max(ceil(max(_nines(row.attainment.most, clip) for row in rows)), left + 2.0), clip)
    axes.set_xlim(left - 0.06 * (right - left), right + 0.1 * (right - left))
    axes.set_ylim(min(ys) - 0.14 * height, top + 0.2 * height)
    shares = [*(1.0 - 10.0 ** -np.arange(left, clip)).tolist(), 1.0]
    # Ticks beyond the limits would move them.
    shares = [share for share in shares if _nines(share, clip) <= right]
    axes.set_xticks(
        [_nines(share, clip) for share in shares], [f"{100 * s:.10g} %" for s in shares]
    )
    axes.set_xlabel("SLO attainment")
    axes.set_ylabel("Mean accuracy (%)")
    if ceiling is not None:
        _draw_ceiling(axes, ceiling, clip)


def _whiskers(rows: Sequence[Row], clip: float) -> list[Box]:
    """From the lowest to the highest seed, across and up."""
    found: list[Box] = []
    for row in rows:
        share, accuracy = row.attainment, row.mean_accuracy
        if accuracy is not None:
            x, y = _nines(share.mean, clip), accuracy.mean
            found.append((_nines(share.least, clip), y, _nines(share.most, clip), y))
            found.append((x, accuracy.least, x, accuracy.most))
    return found


def _ceiling_line(ceiling: Ceiling, clip: float, count: int) -> tuple[Floats, Floats]:
    """Accuracy A at attainment a has utility aA - `PENALTY` (1 - a), which the bound is above."""
    share = np.append(1.0 - np.logspace(-0.01, -clip, count), 1.0)
    nines = np.array([_nines(each, clip) for each in share.tolist()])
    return nines, (ceiling.utility.mean + PENALTY * (1.0 - share)) / share


def _draw_ceiling(axes: Axes, ceiling: Ceiling, clip: float) -> None:
    (_, right), (_, top) = axes.get_xlim(), axes.get_ylim()
    nines, most = _ceiling_line(ceiling, clip, 400)
    line = np.append(nines, max(right, clip)), np.append(most, most[-1])
    inside = line[1] <= top
    axes.fill_between(line[0], line[1], top, where=inside.tolist(), color=SHADE, linewidth=0,
                      zorder=0.5)  # fmt: skip
    axes.plot(*line, color=MUTED, linewidth=1.2, linestyle=(0, (5, 3)), zorder=3)
    if inside.any():
        axes.annotate("beyond the bound", (right, top), xytext=(-6, -6), ha="right", va="top",
                      textcoords="offset points", fontsize=8.5, color=MUTED)  # fmt: skip
