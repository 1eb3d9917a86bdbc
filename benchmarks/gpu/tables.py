"""The findings as text: ``python -m benchmarks.gpu.tables FOLDER``. Pure but for reading files."""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.documents import CHECK, RESULTS, read

MOST = 24  # rows of a long table: the end of the output is what one sees


def show(folder: Path) -> None:
    """Everything that is there, the whole subnets last."""
    for line in lines(folder):
        print(line)


def lines(folder: Path) -> Iterator[str]:
    """All tables of a folder's documents."""
    tables = (
        ("gpu-ops.json", ops),
        ("gpu-actuation.json", actuation),
        ("gpu-l2.json", l2),
        ("gpu-compiled.json", subnets),
        ("gpu-subnets.json", subnets),
        ("gpu-correctness.json", correctness),
        (CHECK, check),
    )
    for name, make in tables:
        document = read(folder / name)
        if document is None:
            continue
        yield f"\n{name}: {document['how']}, kernels {document['kernel_hash']}"
        yield from make(document)
        for kind in ("left_out", "refused"):
            entries = document[kind]
            for entry in entries[:MOST]:
                yield f"  {kind.replace('_', ' ')}: {entry['what']}: {entry['why'][:200]}"
            if len(entries) > MOST:
                yield f"  and {len(entries) - MOST} more {kind.replace('_', ' ')}"


def subnets(document: Mapping[str, Any]) -> Iterator[str]:
    """Medians by contender, how much longer the others take, and the share of the roofline."""
    rows = []
    for cell in document["cells"]:
        first = True
        for who, measured in cell["times"].items():
            ratios = cell["ours_is_faster_by"].get(who, {})
            floor = cell.get("floor_us")
            warm = measured["warm"]["median_us"]
            rows.append(
                [
                    f"{cell['net']} {cell['subnet']}, batch {cell['batch']}" if first else "",
                    who,
                    *(measured[state]["median_us"] for state in ("latency", "warm", "cold")),
                    *(ratios.get(state, "") for state in ("latency", "warm", "cold")),
                    f"{100 * floor / warm:.0f} %" if floor and warm else "",
                ]
            )
            first = False
    micro, times = ["latency us", "warm us", "cold us"], ["x latency", "x warm", "x cold"]
    yield from table(["", "", *micro, *times, "roofline"], rows)


def ops(document: Mapping[str, Any]) -> Iterator[str]:
    """The slowest shapes of each kind of step."""
    cells = [cell for cell in document["cells"] if "ours" in cell["times"]]
    cells.sort(key=lambda cell: -cell["times"]["ours"]["warm"]["median_us"])
    rows = []
    for cell in cells[:MOST]:
        warm = cell["times"]["ours"]["warm"]["median_us"]
        floor = cell.get("floor_us")
        ratios = {who: states["warm"] for who, states in cell["ours_is_faster_by"].items()}
        rows.append(
            [
                cell["op"].split("/")[0][:60],
                cell["batch"],
                warm,
                cell["times"]["ours"]["cold"]["median_us"],
                f"{100 * floor / warm:.0f} %" if floor and warm else "",
                ", ".join(f"{who} {ratio:.2f}" for who, ratio in ratios.items()),
            ]
        )
    yield f"  {len(cells)} ops; the slowest:"
    yield from table(["op", "batch", "warm us", "cold us", "roofline", "x warm"], rows)


def l2(document: Mapping[str, Any]) -> Iterator[str]:
    """By policy: how many times as long as doing nothing."""
    rows = []
    for cell in document["cells"]:
        for policy, measures in cell["times"].items():
            ratios = cell["times_default"].get(policy, {})
            entries = [
                f"{times['median_us']:.1f} {f'({ratios[name]:.3f})' if name in ratios else ''}"
                for name, times in measures.items()
            ]
            rows.append([f"{cell['net']}, batch {cell['batch']}", policy, *entries])
    names = [
        name for cell in document["cells"][:1] for name in next(iter(cell["times"].values()), {})
    ]
    yield from table(["us (x default)", "policy", *names], rows)


def actuation(document: Mapping[str, Any]) -> Iterator[str]:
    """Switches, host times and memory."""
    rows = [
        [
            cell["net"],
            what,
            *(f"{state} {times['median_us']:.1f}" for state, times in states.items()),
        ]
        for cell in document["cells"]
        for what, states in cell.get("times", {}).items()
    ]
    yield from table(["net", "", "median us", ""], [(row + [""] * 4)[:4] for row in rows])
    for cell in document["cells"]:
        if cell["kind"] == "memory":
            held, own = cell["arena"]["total"] / 1e6, cell["extracted_bytes"] / 1e6
            yield (
                f"  {cell['net']}: arena {held:.1f} MB, {cell['subnets']} extracted subnets "
                f"{own:.1f} MB, {cell['graphs']['count']} graphs "
                f"{cell['graphs']['bytes'] / 1e6:.1f} MB"
            )


def correctness(document: Mapping[str, Any]) -> Iterator[str]:
    """How many comparisons passed, of each kind."""
    total = Counter(cell["kind"] for cell in document["cells"])
    passed = Counter(cell["kind"] for cell in document["cells"] if cell["passed"])
    rows = [[kind, count, passed[kind]] for kind, count in total.items()]
    yield from table(["comparisons", "made", "passed"], rows)


def check(document: Mapping[str, Any]) -> Iterator[str]:
    """The device at its best, the tests, and how each phase went."""
    for cell in document["cells"]:
        shown = {k: v for k, v in cell.items() if k not in {"output", "kind"}}
        yield f"  {cell['kind']}: {shown}"
    phases = document["more"].get("phases", [])
    rows = [[p["phase"], p["status"], f"{p['seconds']:.0f}", p["reason"][:80]] for p in phases]
    yield from table(["phase", "", "s", ""], rows)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """Columns as wide as they need to be."""
    cells = [[_text(cell) for cell in row] for row in (columns, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    for row in cells:
        parts = [
            text.ljust(width) if i < 2 else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield f"  {'  '.join(parts)}".rstrip()


def _text(cell: object) -> str:
    return f"{cell:.2f}" if isinstance(cell, float) else str(cell)


if __name__ == "__main__":
    show(Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS)
