"""How the pictures of a comparison look: one mark per policy, quiet axes, labels that do not touch.

Colours are Okabe and Ito's, told apart with every kind of colour vision; markers differ as well.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import cos, hypot, pi, sin
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

DPI = 160  # of the pictures
INK, MUTED, GRID, SHADE = "#222222", "#666666", "#e6e6e6", "#f1f1ee"
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#222222")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p", "<", ">", "h")  # prime to the colours
_LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
_RADII = (9, 16, 26, 40, 58, 80, 106, 136)  # points from a mark to its label
_ANGLES = 24
_GAP = 3.0  # pixels between two labels
_SAME = 5.0  # points; what is closer is one spot

Box = tuple[float, float, float, float]  # left, bottom, right, top in pixels


@dataclass(frozen=True, slots=True)
class Mark:
    """The look of one policy in every picture of a study."""

    color: str
    marker: str
    line: Any


def marks(labels: Sequence[str]) -> dict[str, Mark]:
    """By label; all labels of a study, so that a policy looks the same everywhere."""
    return {
        label: Mark(_COLORS[i % len(_COLORS)], _MARKERS[i % len(_MARKERS)], _LINES[i % len(_LINES)])
        for i, label in enumerate(labels)
    }


def new_figure(width: float, height: float) -> Figure:
    """In inches; drawn without a display and without the global state of pyplot."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def write_title(figure: Figure, title: str, subtitle: str) -> None:
    """At the top left; call it before the panels are drawn, for it makes room."""
    height = figure.get_size_inches()[1]
    figure.suptitle(
        title,
        x=0.012,
        y=1 - 0.08 / height,
        ha="left",
        va="top",
        fontsize=13,
        fontweight="bold",
        color=INK,
    )
    figure.text(0.012, 1 - 0.36 / height, subtitle, va="top", fontsize=9.5, color=MUTED)
    # The engine leaves room for what it lays out: the subtitle is not among that.
    figure.set_layout_engine(ConstrainedLayoutEngine(rect=(0, 0, 1, 1 - 0.6 / height)))


def quiet(axes: Axes, title: str = "", *, grid: str = "both") -> None:
    axes.set_title(title, loc="left", fontsize=10.5, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(colors=MUTED, labelsize=9)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.grid(axis=grid, color=GRID, linewidth=0.8)  # type: ignore[arg-type]
    axes.set_axisbelow(True)


def few_ticks(axes: Axes) -> None:
    axes.yaxis.set_major_locator(MaxNLocator(5))


def place_labels(
    axes: Axes,
    points: Sequence[tuple[float, float, str, str]],
    walls: Sequence[Box] = (),
    fontsize: float = 9.0,
) -> None:
    """Write each (x, y, text, color) near its point, where it covers neither labels nor points.

    It keeps off the ``walls`` too, lines from (x, y) to (x, y). From the top down, each label takes
    the best place around its point, and a thin line joins the two where they are apart. Points on
    the same spot share one label, line by line.
    """
    canvas = axes.figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    # Drawing settles the layout, which the places in pixels depend on.
    canvas.draw()  # type: ignore[no-untyped-call]
    renderer = canvas.get_renderer()  # type: ignore[no-untyped-call]
    scale = renderer.points_to_pixels(1.0)
    frame: Box = axes.get_window_extent(renderer).extents
    spots = _spots(axes, points, _SAME * scale)
    taken = [_around(x, y, 5.0 * scale, 5.0 * scale) for x, y, *_ in spots]
    ends = [axes.transData.transform((wall[:2], wall[2:])).ravel().tolist() for wall in walls]
    lines: list[Box] = [(left, low, right, high) for left, low, right, high in ends]
    for x, y, text, color in sorted(spots, key=lambda spot: (-spot[1], spot[0])):
        probe = axes.text(0, 0, text, fontsize=fontsize, linespacing=1.15)
        extent = probe.get_window_extent(renderer)
        probe.remove()
        width, height = extent.width / 2 + _GAP, extent.height / 2 + _GAP
        best_x, best_y = min(
            _places(x, y, width, height, scale),
            key=lambda place: _cost(
                _around(place[0], place[1], width, height),
                (x, y, *place),
                taken,
                lines,
                frame,
                scale,
            ),
        )
        taken.append(_around(best_x, best_y, width, height))
        lines.append((x, y, best_x, best_y))
        apart = max(abs(best_x - x) - width, abs(best_y - y) - height) > 10 * scale
        axes.annotate(
            text, axes.transData.inverted().transform((x, y)).tolist(), color=color,
            xytext=((best_x - x) / scale, (best_y - y) / scale), textcoords="offset points",
            fontsize=fontsize, ha="center", va="center", multialignment="left",
            linespacing=1.15, zorder=12, annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.6, "alpha": 0.7,
                        "shrinkA": 0.0, "shrinkB": 4.0} if apart else None,
        )  # fmt: skip


def _spots(
    axes: Axes, points: Sequence[tuple[float, float, str, str]], same: float
) -> list[tuple[float, float, str, str]]:
    """In pixels; points no further than ``same`` from the first of them are one."""
    spots: list[tuple[float, float, str, str]] = []
    for data_x, data_y, text, color in points:
        x, y = axes.transData.transform((data_x, data_y)).tolist()
        for place, (there_x, there_y, texts, _) in enumerate(spots):
            if hypot(x - there_x, y - there_y) <= same:
                spots[place] = there_x, there_y, f"{texts}\n{text}", INK
                break
        else:
            spots.append((x, y, text, color))
    return spots


def _places(
    x: float, y: float, width: float, height: float, scale: float
) -> Iterator[tuple[float, float]]:
    """Centres for a box of these half sizes, the near ones and those beside the point first."""
    for radius in _RADII:
        for step in range(_ANGLES):
            angle = 2 * pi * step / _ANGLES
            yield (
                x + cos(angle) * (radius * scale + width),
                y + sin(angle) * (radius * scale + height),
            )


def _around(x: float, y: float, width: float, height: float) -> Box:
    return x - width, y - height, x + width, y + height


def _cost(
    box: Box,
    line: Box,
    taken: Sequence[Box],
    lines: Sequence[Box],
    frame: Box,
    scale: float,
) -> float:
    """Overlaps weigh most, then lines that cross, then the distance."""
    inside = _shared(box, frame)
    area = (box[2] - box[0]) * (box[3] - box[1])
    covered = sum(_shared(box, other) for other in taken) + (area - inside)
    crossed = sum(_cross(line, other) for other in lines) + sum(
        _through(other, box) for other in lines
    )
    # From edge to point; beside it is read more easily than above or below.
    across = max(abs(line[2] - line[0]) - (box[2] - box[0]) / 2, 0.0)
    along = max(abs(line[3] - line[1]) - (box[3] - box[1]) / 2, 0.0)
    distance = hypot(across, 1.8 * along)
    return 100.0 * covered + 120.0 * scale * crossed + distance


def _shared(one: Box, other: Box) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0.0) * max(height, 0.0)


def _cross(one: Box, other: Box) -> bool:
    def side(line: Box, x: float, y: float) -> float:
        return (line[2] - line[0]) * (y - line[1]) - (line[3] - line[1]) * (x - line[0])

    return (
        side(one, *other[:2]) * side(one, *other[2:]) < 0
        and side(other, *one[:2]) * side(other, *one[2:]) < 0
    )


def _through(line: Box, box: Box) -> bool:
    """Does a line of another label run through this box?"""
    corners = ((box[0], box[1]), (box[2], box[1]), (box[2], box[3]), (box[0], box[3]))
    edges = pairwise((*corners, corners[0]))
    return any(_cross(line, (*a, *b)) for a, b in edges)
