"""Pictures of runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from loadtest.report import Window

# Okabe and Ito's palette: told apart with every kind of colour vision. Markers and line styles
# differ as well, so that the picture also survives a black-and-white printer.
# Sizes grow, and earlier runs lie on top: where runs coincide, all still show.
_STYLES = (
    ("#0072B2", "o", 4.0, "-"),
    ("#D55E00", "s", 6.0, "--"),
    ("#009E73", "^", 7.5, ":"),
    ("#CC79A7", "D", 9.0, "-."),
)  # colour, marker, its size, line
_INK, _MUTED, _FILL, _SHADE = "#222222", "#666666", "#c4cad4", "#f7f1e1"


@dataclass(frozen=True, slots=True)
class Series:
    """One run, to be drawn under this name."""

    name: str
    windows: tuple[Window, ...]


def plot_timeline(
    path: Path,
    runs: Sequence[Series],
    *,
    title: str,
    subtitle: str = "",
    capacity: float | None = None,
    shaded: tuple[float, float] | None = None,
) -> None:
    """Arrival rate, accuracy served and SLO attainment over one time axis, as a picture file.

    The runs must have got the same arrivals: the rate is drawn once, from the first. ``capacity``
    is that of the largest subnet, in queries per second; ``shaded`` a stretch of time in seconds.
    """
    end = runs[0].windows[-1].start + runs[0].windows[-1].seconds
    if shaded is not None:  # as far as an interrupted run has come
        shaded = (shaded[0], min(shaded[1], end)) if shaded[0] < end else None
    figure = Figure(figsize=(9.0, 7.2), layout=ConstrainedLayoutEngine(h_pad=0.06, hspace=0.04))
    figure.suptitle(
        f"{title}\n", x=0.01, ha="left", fontsize=13, fontweight="bold", color=_INK
    )  # the empty line is the subtitle's place
    figure.text(0.01, 0.953, subtitle, va="center", fontsize=9.5, color=_MUTED)
    rate, accuracy, attainment = figure.subplots(3, sharex=True)
    for axes, name in (
        (rate, "Arrival rate (queries/s)"),
        (accuracy, "Accuracy served (%), mean over the queries that met the SLO"),
        (attainment, "SLO attainment (%), of all queries"),
    ):
        _prepare(axes, name, shaded)
    _draw_rate(rate, runs[0].windows, capacity)
    if shaded is not None:
        rate.annotate("burst", (sum(shaded) / 2, 0.97), xycoords=("data", "axes fraction"),
                      ha="center", va="top", fontsize=9, color=_MUTED)  # fmt: skip
    for depth, (run, style) in enumerate(zip(runs, cycle(_STYLES), strict=False)):
        _draw_run(accuracy, run, [w.mean_accuracy for w in run.windows], style, depth)
        shares = [None if w.attainment is None else 100 * w.attainment for w in run.windows]
        _draw_run(attainment, run, shares, style, depth)
    accuracy.margins(y=0.15)
    attainment.set_ylim(-4, 104)
    attainment.set_xlabel("Time (s)", color=_INK)
    attainment.set_xlim(0, end)
    if len(runs) > 1:
        figure.legend(*accuracy.get_legend_handles_labels(), loc="outside lower center",
                      frameon=False, ncols=len(runs), labelcolor=_INK)  # fmt: skip
    figure.savefig(path, dpi=160, facecolor="white")


def _prepare(axes: Axes, name: str, shaded: tuple[float, float] | None) -> None:
    axes.set_title(name, loc="left", fontsize=10.5, color=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_MUTED)
    axes.tick_params(colors=_MUTED)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    if shaded is not None:
        axes.axvspan(*shaded, color=_SHADE, linewidth=0, zorder=0)


def _draw_rate(axes: Axes, windows: Sequence[Window], capacity: float | None) -> None:
    edges = [w.start for w in windows] + [windows[-1].start + windows[-1].seconds]
    axes.stairs([w.rate for w in windows], edges, fill=True, color=_FILL)
    axes.set_ylim(0, 1.15 * max(*(w.rate for w in windows), capacity or 1.0))
    if capacity is not None:
        axes.axhline(capacity, color=_INK, linewidth=1.2, linestyle=(0, (5, 3)))
        axes.annotate(
            f"capacity of the largest subnet: {capacity:.0f}/s",
            (1.0, capacity),
            xycoords=("axes fraction", "data"),
            xytext=(0, 4),
            textcoords="offset points",
            ha="right",
            fontsize=9,
            color=_INK,
        )


def _draw_run(
    axes: Axes,
    run: Series,
    values: Sequence[float | None],
    style: tuple[str, str, float, str],
    depth: int,
) -> None:
    """One point per window, in its middle; a gap where there is no value."""
    times = [w.start + w.seconds / 2 for w in run.windows]
    points = np.array([np.nan if value is None else value for value in values])
    color, marker, size, line = style
    axes.plot(
        times, points, color=color, marker=marker, linestyle=line, label=run.name, zorder=9 - depth,
        linewidth=1.4, markersize=size, markeredgecolor="white", markeredgewidth=0.6, clip_on=False,
    )  # fmt: skip
