"""Measured against the roofline: whole subnets against their floor, ops under the two roofs."""

from pathlib import Path
from typing import Any

from benchmarks.gpu.budget import Deadline
from benchmarks.gpu.documents import Document, read
from benchmarks.gpu.environment import peaks
from benchmarks.gpu.roofline import Peaks
from benchmarks.gpu.settings import Settings

FILE = "gpu-roofline.png"
_MARKS = "osv^D<>p*X"


def run(settings: Settings, document: Document, deadline: Deadline) -> None:
    """One picture of what is there; nothing where there is no matplotlib or no figure."""
    del deadline
    try:
        import matplotlib as mpl
    except ImportError as error:
        document.leave_out("the plot", f"matplotlib is not installed ({error})")
        return
    mpl.use("Agg")
    known = peaks(settings)
    whole, ops = (_cells(settings.output, f"gpu-{name}.json") for name in ("subnets", "ops"))
    whole += _cells(settings.output, "gpu-compiled.json")
    if known is None or not (whole or ops):
        document.leave_out("the plot", "there is nothing to show")
        return
    draw(whole, ops, known, document.header["how"], settings.output / FILE)


def draw(
    whole: list[dict[str, Any]], ops: list[dict[str, Any]], known: Peaks, how: str, path: Path
) -> None:
    """``whole`` and ``ops`` are cells of the two tables; ``how`` stands above them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 5.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    points: dict[str, list[tuple[float, float]]] = {}
    for cell in whole:
        for who, times in cell["times"].items():
            points.setdefault(who, []).append((cell["floor_us"], times["warm"]["median_us"]))
    for mark, (who, found) in zip(_MARKS, points.items(), strict=False):
        left.plot(*zip(*found, strict=True), mark, label=who, alpha=0.8, markersize=5)
    floors = [floor for found in points.values() for floor, _ in found]
    if floors:
        ends = [min(floors), max(floors)]
        left.plot(ends, ends, "k-", label="roofline")
        left.legend(fontsize=8)
    left.set(xscale="log", yscale="log", xlabel="least time by the roofline, us",
             ylabel="measured, warm, median, us", title="Whole subnets")  # fmt: skip
    for mark, kind in zip(_MARKS, sorted({cell["kind"] for cell in ops}), strict=False):
        found = [_achieved(c) for c in ops if c["kind"] == kind and "ours" in c["times"]]
        right.plot([i for i, _ in found], [r for _, r in found], mark, label=kind, alpha=0.7,
                   markersize=4)  # fmt: skip
    intensities = [0.1, known.matrix / known.bandwidth, 10_000]
    roof = [min(known.matrix, known.bandwidth * i) for i in intensities]
    right.plot(intensities, roof, "k-", label=f"roofs, {known.source}")
    right.legend(fontsize=8)
    right.set(xscale="log", yscale="log", xlabel="operations per byte", ylabel="operations per s",
              title="Ours, op by op, warm")  # fmt: skip
    figure.suptitle(how)
    figure.savefig(path, dpi=110)


def _achieved(cell: dict[str, Any]) -> tuple[float, float]:
    """(operations per byte, operations per second)."""
    seconds = cell["times"]["ours"]["warm"]["median_us"] / 1e6
    return 2 * cell["macs"] / cell["bytes"], 2 * cell["macs"] / seconds


def _cells(folder: Path, name: str) -> list[dict[str, Any]]:
    found = read(folder / name)
    return found["cells"] if found else []
