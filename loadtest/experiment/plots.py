"""The picture that only a live experiment has: the simulator against the server."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes

from loadtest.compare.marks import DPI, INK, MUTED, Mark, marks, new_figure, quiet, write_title
from loadtest.experiment.fidelity import Error, Pair, error

Points = Sequence[tuple[str, tuple[float, float]]]  # policy, (live, simulated)


def plot_fidelity(path: Path, found: Sequence[Pair], policies: Sequence[str]) -> bool:
    """Live over simulated, attainment and accuracy; on the diagonal both agree.

    Gives False, and no picture, where there is nothing to compare.
    """
    if not found:
        return False
    look = marks(policies)
    figure = new_figure(10.5, 5.6)
    write_title(
        figure,
        "The server against its simulation",
        f"{len(found)} configurations: a policy in a setting, mean over the seeds",
    )
    panels = figure.subplots(1, 2)
    attainment = [(pair.policy, pair.attainment) for pair in found]
    accuracy = [(pair.policy, pair.accuracy) for pair in found if pair.accuracy is not None]
    _draw(panels[0], attainment, look, "SLO attainment (%)")
    _draw(panels[1], accuracy, look, "Accuracy over the queries that met the SLO (%)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center",
                  frameon=False, ncols=4, labelcolor=INK, fontsize=9)  # fmt: skip
    figure.savefig(path, dpi=DPI, facecolor="white")
    return True


def error_text(found: Error | None, unit: str = "points") -> str:
    if found is None:
        return "nothing to compare"
    return (
        f"mean error {found.mean:.2f} {unit}, worst {found.worst:.2f}, "
        f"bias {found.bias:+.2f}, of {found.count}"
    )


def _draw(axes: Axes, points: Points, look: dict[str, Mark], title: str) -> None:
    quiet(axes, f"{title}\n{error_text(error([both for _, both in points]))}")
    axes.set_xlabel("simulated")
    axes.set_ylabel("live")
    values = [value for _, both in points for value in both]
    low, high = min(values, default=0.0), max(values, default=1.0)
    pad = max(0.05 * (high - low), 0.2)
    axes.plot([low - pad, high + pad], [low - pad, high + pad], color=MUTED, linewidth=0.9)
    axes.set_xlim(low - pad, high + pad)
    axes.set_ylim(low - pad, high + pad)
    axes.set_aspect("equal")
    named: set[str] = set()
    for policy, (live, simulated) in points:
        mark = look[policy]
        axes.plot(
            simulated, live, mark.marker, color=mark.color, markersize=7, markerfacecolor="none",
            markeredgewidth=1.5, linestyle="none", label=None if policy in named else policy,
        )  # fmt: skip
        named.add(policy)
