"""What does elasticity buy in a vision transformer? Accuracy against time of its subnets.

``python -m benchmarks.elastic_vit`` trains a small `elastic_vit` on scikit-learn's distorted digits
(the data and the three splits of the embedded supernet; sandwich rule, no calibration: there are no
norm statistics), chooses the front on the select split and measures every candidate on the report
split. About ten minutes of one CPU core, one seed; ``--scale 0.01`` only shows that it works. A
killed run goes on where it was.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from benchmarks.common import RESULTS, header, show, write
from supernets import ResidentForm, Subnet, TrainOptions, create_supernet, train
from supernets.accuracy_card import AccuracyEntry
from supernets.cost import cost
from supernets.data.digits_data import DISTORTION, SOURCE, split
from supernets.digits import PREPROCESSING
from supernets.elastic_vit import ElasticViT
from supernets.evaluation import measure
from supernets.learning.digits_recipe import BATCH, batches, labelled
from supernets.learning.training import Step
from supernets.searching.pareto import Candidate, pareto_front

STEPS, LEARNING_RATE, WEIGHT_DECAY = 3000, 2e-3, 0.05
COPIES = 16  # fixed distortions of each held-out digit
BATCHES = (1, 32)
DEFINITION: dict[str, Any] = {
    "num_classes": 10,
    "in_channels": 1,
    "image_size": 32,
    "patch": 8,
    "dim": 64,
    "depth": 8,
    "heads": 4,
    "depths": (2, 3, 4, 6, 8),
    "head_counts": (2, 4),
    "mlp_ratios": (1.0, 2.0, 4.0),
    "class_token": False,
    "pool": "avg",
}
DOCS = Path(__file__).parent.parent / "docs"
INK, MUTED, FRONT = "#222222", "#666666", "#0072B2"


@dataclass(frozen=True, slots=True)
class Row:
    """One subnet; accuracies and standard errors in percent.

    ``cpu_ms`` is what is shown, the CPU time of the one thread that computes: what a call takes
    when nothing interrupts it. On a busy machine every longer call is interrupted.
    """

    subnet: str
    settings: dict[str, Any]
    macs: int
    parameters: int
    accuracy: float
    standard_error: float
    select_accuracy: float
    front: bool  # by the select split's accuracy and MACs
    front_by_time: dict[int, bool]  # the same with CPU time for MACs, by batch size
    cpu_ms: dict[int, float]  # of one call, median over rounds; by batch size
    fastest_ms: dict[int, float]  # wall clock


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    net = create_supernet("elastic_vit", **DEFINITION)
    assert isinstance(net, ElasticViT)
    net.preprocessing = PREPROCESSING
    steps = max(1, round(options.scale * STEPS))
    cpu_seconds = learn(net, steps, options)
    rows = judge(net, options.rounds)
    table(rows)
    document = {
        **header(options.seed, rounds=options.rounds),
        "dataset": f"{SOURCE}; accuracies on its report split: {len(split('report')[1])} digits, "
        f"{COPIES} fixed distortions of each, never used to train or to choose",
        "distortion": asdict(DISTORTION),
        "training": {
            "steps": steps,
            "batch": BATCH,
            "learning_rate": LEARNING_RATE,
            "weight_decay": WEIGHT_DECAY,
            "rule": "sandwich: largest, smallest, one of the candidates; in-place distillation",
            "cpu_seconds": round(cpu_seconds),
        },
        "definition": net.definition(),
        "subnets_in_the_space": net.space.size,
        "time": "resident form, float32, one thread; all subnets in turn in every round",
        "subnets": [asdict(row) for row in rows],
    }
    print(write("elastic-vit", document, options.output))
    picture = options.docs / "elastic-vit.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    draw(rows, picture)
    print(picture)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0, help="of the training steps")
    parser.add_argument("--rounds", type=int, default=60, help="timed rounds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the JSON file")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of the picture")
    parser.add_argument("--folder", type=Path, default=Path("runs/elastic-vit"),
                        help="folder of the training state")  # fmt: skip
    return parser.parse_args()


def candidates(net: ElasticViT) -> list[Subnet]:
    """The same heads and MLP ratio in all layers, every depth; a small part of the space."""
    spec = net.spec
    settings = product(spec.depths, spec.head_counts, spec.mlp_ratios)
    return [net.space.subnet(d=d, h=h, m=m) for d, h, m in settings]


def learn(net: ElasticViT, steps: int, options: argparse.Namespace) -> float:
    """Train, or go on training, and return the CPU seconds of all runs since the beginning."""
    state = options.folder / f"state-{steps}-{options.seed}.pt"
    clock = options.folder / f"cpu-seconds-{steps}-{options.seed}.txt"
    before = float(clock.read_text()) if state.exists() and clock.exists() else 0.0
    started = time.process_time()
    options.folder.mkdir(parents=True, exist_ok=True)
    chosen = TrainOptions(
        steps=steps,
        learning_rate=LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
        favourites=tuple(candidates(net)[1:-1]),  # the two ends are trained in every step
        seed=options.seed,
        save_every=100,
    )

    def seconds() -> float:
        return before + time.process_time() - started

    def progress(step: Step) -> None:
        if (step.index + 1) % 50 == 0:
            clock.write_text(str(seconds()))  # so that a killed run is counted too
            print(
                f"step {step.index + 1}/{steps}: loss {step.largest_loss:.3f}, smallest "
                f"{step.smallest_loss:.3f}, batch accuracy {step.largest_accuracy:.2f}",
                flush=True,
            )

    train(net, lambda first: batches("train", steps, options.seed, first), chosen, state, progress)
    clock.write_text(str(seconds()))
    return seconds()


def judge(net: ElasticViT, rounds: int) -> list[Row]:
    """Every candidate's accuracy on both held-out splits, its cost and its time."""
    resident, subnets = net.resident(), candidates(net)
    costs = {subnet: cost(net, subnet) for subnet in subnets}
    selected, _ = measure(resident, subnets, labelled("select", COPIES))
    digits = len(split("report")[1])
    reported, _ = measure(resident, subnets, labelled("report", COPIES), digits)
    cpu, wall = times(resident, subnets, rounds)

    def front(costs: dict[Subnet, float]) -> set[Subnet]:
        found = [
            Candidate(subnet, entry.accuracy, costs[subnet])
            for subnet, entry in zip(subnets, selected, strict=True)
        ]
        return {candidate.subnet for candidate in pareto_front(found)}

    by_macs = front({subnet: costs[subnet].macs for subnet in subnets})
    by_time = {batch: front(cpu[batch]) for batch in BATCHES}

    def row(subnet: Subnet, select: AccuracyEntry, report: AccuracyEntry) -> Row:
        return Row(
            str(subnet),
            subnet.config(),
            costs[subnet].macs,
            costs[subnet].parameters,
            report.accuracy,
            report.standard_error or 0.0,
            select.accuracy,
            subnet in by_macs,
            {b: subnet in by_time[b] for b in BATCHES},
            {b: round(1e3 * cpu[b][subnet], 4) for b in BATCHES},
            {b: round(1e3 * wall[b][subnet], 4) for b in BATCHES},
        )

    rows = [row(*found) for found in zip(subnets, selected, reported, strict=True)]
    return sorted(rows, key=lambda row: row.macs)


Seconds = dict[int, dict[Subnet, float]]  # by batch size


def times(net: ResidentForm, subnets: Sequence[Subnet], rounds: int) -> tuple[Seconds, Seconds]:
    """Median CPU and least wall-clock seconds per call; all subnets in turn in every round."""
    cpu: Seconds = {}
    wall: Seconds = {}
    for batch in BATCHES:
        x = torch.randn(batch, 1, 32, 32)
        taken: dict[Subnet, list[tuple[float, float]]] = {subnet: [] for subnet in subnets}
        for _ in range(rounds + 2):
            for subnet, found in taken.items():
                began, worked = time.perf_counter(), time.thread_time()
                net(x, subnet)
                found.append((time.thread_time() - worked, time.perf_counter() - began))
        warm = {subnet: found[2:] for subnet, found in taken.items()}
        cpu[batch] = {subnet: median(c for c, _ in found) for subnet, found in warm.items()}
        wall[batch] = {subnet: min(w for _, w in found) for subnet, found in warm.items()}
    return cpu, wall


def table(rows: Sequence[Row]) -> None:
    show(
        f"Elastic ViT on {SOURCE} (report split)",
        ["subnet", "MMACs", "k params", "accuracy %", "s.e.", "select %", "front",
         *(f"CPU ms, batch {b}" for b in BATCHES)],
        [
            [row.subnet, row.macs / 1e6, row.parameters / 1e3, row.accuracy, row.standard_error,
             row.select_accuracy, "*" if row.front else "", *row.cpu_ms.values()]
            for row in rows
        ],
    )  # fmt: skip


def draw(rows: Sequence[Row], path: Path) -> None:
    figure = Figure(figsize=(9.0, 4.2), layout=ConstrainedLayoutEngine(w_pad=0.08))
    fields = figure.subplots(1, len(BATCHES), sharey=True)
    for axes, batch in zip(fields, BATCHES, strict=True):
        _field(axes, rows, batch)
    fields[0].set_ylabel("Accuracy on distorted digits, report split (%)", color=INK)
    figure.legend(*fields[0].get_legend_handles_labels(), loc="outside upper center", ncols=2,
                  frameon=False, labelcolor=INK, fontsize=9.5)  # fmt: skip
    figure.savefig(path, dpi=160, facecolor="white")


def _field(axes: Axes, rows: Sequence[Row], batch: int) -> None:
    def ms(of: Sequence[Row]) -> list[float]:
        return [row.cpu_ms[batch] for row in of]

    rest = [row for row in rows if not row.front_by_time[batch]]
    front = sorted((row for row in rows if row not in rest), key=lambda row: row.cpu_ms[batch])
    axes.plot(ms(rest), [row.accuracy for row in rest], "o", color="#bbbbbb", markersize=5,
              label="other candidates")  # fmt: skip
    axes.errorbar(
        ms(front),
        [row.accuracy for row in front],
        [row.standard_error for row in front],
        fmt="o-", color=FRONT, markersize=6, linewidth=1.5, capsize=3,
        label="front, chosen on the select split (± one standard error)",
    )  # fmt: skip
    for row in (front[0], front[-1]):
        end = row is front[-1]
        place = (row.cpu_ms[batch], row.accuracy)
        axes.annotate(row.subnet, place, (-6 if end else 8, 9 if end else -4), fontsize=8.5,
                      color=INK, textcoords="offset points",
                      ha="right" if end else "left")  # fmt: skip
    plural = "" if batch == 1 else "s"
    axes.set_xlabel(f"Time for {batch} image{plural}, one CPU thread (ms)", color=INK)
    axes.set_xlim(left=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(colors=MUTED)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)


if __name__ == "__main__":
    main()
