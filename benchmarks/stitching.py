"""Do stitches fill the gap between two ResNets? Train, stitch, and measure every one, held out.

``python -m benchmarks.stitching --anchors resnet18,resnet50``: the whole recipe of
`stitch_recipe` from random weights, on the task of `benchmarks.stitching_data`. The
anchors are narrow (``--width``, 64 in the literature), because a CPU trains them; every table says
so. A killed run goes on where it was; ``--minutes`` ends one by itself. Accuracies are those of the
report split, which nothing else looks at; the front is chosen on the select split.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import stitching_data as task
from benchmarks.common import RESULTS, header, interleaved, write
from supernets import Subnet, calibrate, save
from supernets.cost import cost
from supernets.evaluation import Hits, measure
from supernets.searching.pareto import Candidate, pareto_front
from supernets.stitched_resnet import StitchedResNet, stitched_resnet
from supernets.stitches.stitch_fit import initialise_stitches
from supernets.stitches.stitch_recipe import StitchOptions, train_anchor, train_stitches

BATCH = 64
ANCHOR_STEPS, ANCHOR_RATE = 800, 4e-3
STITCH_STEPS, STITCH_RATE = 800, 1.5e-3  # chosen against 480, 4e-4 on the select split
FIT_BATCHES = 12  # of 64 images, to fit and to calibrate
SELECT_COPIES, REPORT_COPIES = 3, 5
LATENCY_BATCHES = (1, 16)
DOCS = Path(__file__).parent.parent / "docs"


class OutOfTime(Exception):
    """The minutes are over; what is done is saved."""


@dataclass(frozen=True, slots=True)
class Row:
    """One subnet as the table shows it; accuracies and errors in percent."""

    subnet: str
    settings: dict[str, Any]
    macs: int
    parameters: int
    median_ms: dict[int, float]
    accuracy: float
    standard_error: float
    select_accuracy: float  # recipes are compared by this one, never by the report split
    fitted_only: float  # before fine-tuning, on the select split
    between: bool | None  # nothing for an anchor
    strictly_between: bool | None
    front: bool


def main() -> None:
    options = _arguments()
    torch.set_num_threads(1)
    names = tuple(options.anchors.split(","))
    name = "-".join(f"r{anchor.removeprefix('resnet')}" for anchor in names)
    folder = options.folder / f"{name}-{options.width}-{options.seed}-{options.scale:g}"
    clock = _Clock(options.minutes)
    torch.manual_seed(options.seed)
    net = stitched_resnet(
        anchors=names,
        width=options.width,
        num_classes=task.CLASSES,
        in_channels=1,
        image_size=task.SIDE,
    )
    net.preprocessing = task.PREPROCESSING
    # The weights of 3x3 convolutions are then in the order that their kernels want.
    net.to(memory_format=torch.channels_last)
    try:
        fitted = train(net, folder, options, clock)
    except OutOfTime:
        raise SystemExit("the time is over before the training: the same command goes on") from None
    save(net, folder / "stitched.safetensors")
    rows = evaluate(net, fitted, options.rounds)
    document = {
        **header(options.seed, rounds=options.rounds),
        "task": task.SOURCE,
        "anchors": names,
        "width": options.width,
        "scale": options.scale,
        "recipe": {"batch": BATCH, "anchor_steps": ANCHOR_STEPS, "anchor_rate": ANCHOR_RATE,
                   "stitch_steps": options.stitch_steps, "stitch_rate": options.stitch_rate,
                   "stitches_per_step_and_pair": options.stitches_per_step,
                   "fit_images": FIT_BATCHES * BATCH},
        **summary(net, rows),
        "subnets": [_json(row) for row in rows],
    }  # fmt: skip
    path = write(f"stitching-{name}", document, options.output)
    plot(rows, names, options.width, options.docs / f"stitching-{name}.png")
    print(markdown(rows, document))
    print(path)


def train(
    net: StitchedResNet, folder: Path, options: argparse.Namespace, clock: "_Clock"
) -> dict[str, float]:
    """The whole recipe; the accuracies of the stitches before fine-tuning, on the select split."""
    seed = options.seed
    anchor_options = StitchOptions(max(1, round(ANCHOR_STEPS * options.scale)), ANCHOR_RATE,
                                   seed=seed, save_every=25)  # fmt: skip
    # As many per pair of anchors: each stitch is trained as often, however many pairs there are.
    stitch_options = StitchOptions(
        max(1, round(options.stitch_steps * options.scale)),
        options.stitch_rate,
        stitches_per_step=options.stitches_per_step * (len(net.anchors) - 1),
        seed=seed,
        save_every=25,
    )
    wholes = [net.space.anchor(index) for index in range(len(net.anchors))]
    images = _images(seed)
    for index, subnet in enumerate(wholes):
        file = folder / f"anchor-{index}.pt"
        train_anchor(net, index, _batches(seed), anchor_options, file, clock.report(str(subnet)))
    fitted_file, stitch_file = folder / "fitted.json", folder / "stitches.pt"
    if not stitch_file.exists():
        calibrate(net, wholes, images)
        initialise_stitches(net, images)
        if not fitted_file.exists():
            calibrate(net, net.space.stitches, images)
            subnets = list(net.space)
            entries, _ = measure(net, subnets, task.held_out("select", SELECT_COPIES).batches())
            found = {s.id: e.accuracy for s, e in zip(subnets, entries, strict=True)}
            fitted_file.write_text(json.dumps(found))
            clock.say("fitted: " + ", ".join(f"{accuracy:.1f}" for accuracy in found.values()))
    train_stitches(
        net, _batches(seed + 1000), stitch_options, stitch_file, clock.report("fine-tune")
    )
    calibrate(net, list(net.space), images)
    return dict(json.loads(fitted_file.read_text()))


def evaluate(net: StitchedResNet, fitted: dict[str, float], rounds: int) -> list[Row]:
    """Every subnet on the report split, by ascending MACs."""
    subnets = list(net.space)
    report = task.held_out("report", REPORT_COPIES)
    _, right = measure(net, subnets, report.batches())
    chosen, _ = measure(net, subnets, task.held_out("select", SELECT_COPIES).batches())
    select = {s: e.accuracy for s, e in zip(subnets, chosen, strict=True)}
    prices = {subnet: cost(net, subnet) for subnet in subnets}
    candidates = [Candidate(s, select[s], prices[s].macs) for s in subnets]
    front = {candidate.subnet for candidate in pareto_front(candidates)}
    medians = latencies(net, subnets, rounds)
    rows = []
    for subnet in subnets:
        price = prices[subnet]
        at = net.space.position(subnet)
        margins = {2.0: None, 0.0: None} if at is None else {
            errors: lies_between(
                right[subnet],
                [right[net.space.anchor(i)] for i in (at.front, at.back)],
                report.digits,
                errors,
            )
            for errors in (2.0, 0.0)
        }  # fmt: skip
        rows.append(
            Row(
                subnet=str(subnet),
                settings=subnet.config(),
                macs=price.macs,
                parameters=price.parameters,
                median_ms=medians[subnet],
                accuracy=100.0 * float(right[subnet].mean()),
                standard_error=100.0
                * task.dyadic_error(right[subnet].astype(np.float64), report.digits),
                select_accuracy=select[subnet],
                fitted_only=fitted[subnet.id],
                between=margins[2.0],
                strictly_between=margins[0.0],
                front=subnet in front,
            )
        )
    return sorted(rows, key=lambda row: row.macs)


def lies_between(
    stitch: Hits, anchors: Sequence[Hits], digits: Any, standard_errors: float
) -> bool:
    """Whether the stitch is no worse than the worse anchor, and no better than the better one.

    Beyond them by that many standard errors of the paired difference still counts.
    """
    worse, better = sorted(anchors, key=lambda hits: hits.mean())
    below = (
        worse.mean() - stitch.mean() - standard_errors * task.paired_error(stitch, worse, digits)
    )
    above = (
        stitch.mean() - better.mean() - standard_errors * task.paired_error(stitch, better, digits)
    )
    return bool(below <= 0 and above <= 0)


def latencies(
    net: StitchedResNet, subnets: Sequence[Subnet], rounds: int
) -> dict[Subnet, dict[int, float]]:
    """Median milliseconds of the resident form per batch size, all subnets interleaved."""
    resident = net.resident()
    medians: dict[Subnet, dict[int, float]] = {subnet: {} for subnet in subnets}
    for batch in LATENCY_BATCHES:
        x = torch.randn(batch, 1, task.SIDE, task.SIDE)
        calls = {s.id: (lambda s=s, x=x: resident(x, s)) for s in subnets}
        times = interleaved(calls, rounds)
        for subnet in subnets:
            medians[subnet][batch] = 1000.0 * float(np.median(times[subnet.id]))
    return medians


def summary(net: StitchedResNet, rows: Sequence[Row]) -> dict[str, Any]:
    """The shares of stitches between their anchors, and how far apart the anchors are."""
    stitches = [row for row in rows if row.between is not None]
    accuracy = {row.subnet: row.accuracy for row in rows}
    anchors = [accuracy[str(net.space.anchor(i))] for i in range(len(net.anchors))]
    return {
        "stitches": len(stitches),
        "between_anchors_within_2_standard_errors": _share(row.between for row in stitches),
        "strictly_between_anchors": _share(row.strictly_between for row in stitches),
        "anchor_accuracies": anchors,
        "gap_of_anchors": anchors[-1] - anchors[0],
        "report_images": REPORT_COPIES * 400,
        "report_digits": 400,
    }


def _share(values: Any) -> float:
    found = [bool(value) for value in values]
    return sum(found) / len(found)


def markdown(rows: Sequence[Row], document: dict[str, Any]) -> str:
    """The table, its title and the shares."""
    note = f"{document['width']}/64 of the published width" if document["width"] != 64 else "full"
    columns = ("subnet", "M MACs", *(f"ms, batch {batch}" for batch in LATENCY_BATCHES),
               "accuracy % ± s.e.", "fitted only %", "between its anchors", "front")  # fmt: skip
    lines = [
        f"Stitched {' + '.join(document['anchors'])} ({note}); {document['task']}.",
        "",
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
    ]
    for row in rows:
        between = "anchor" if row.between is None else ("yes" if row.between else "no")
        ms = " | ".join(f"{row.median_ms[batch]:.2f}" for batch in LATENCY_BATCHES)
        lines.append(
            f"| {row.subnet.replace('|', ' to ')} | {row.macs / 1e6:.2f} | {ms} "
            f"| {row.accuracy:.2f} ± {row.standard_error:.2f} | {row.fitted_only:.2f} "
            f"| {between} | {'yes' if row.front else ''} |"
        )
    share, strict = (
        100.0 * document[key]
        for key in ("between_anchors_within_2_standard_errors", "strictly_between_anchors")
    )
    last = (
        f"{share:.1f} % of {document['stitches']} stitches lie between their two anchors within 2 "
        f"standard errors of the paired difference, {strict:.1f} % without that margin; the "
        f"anchors are {document['gap_of_anchors']:.1f} points apart."
    )
    return "\n".join([*lines, "", last])


def plot(rows: Sequence[Row], names: Sequence[str], width: int, path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    groups: dict[str, list[Row]] = {"anchor": [r for r in rows if r.between is None]}
    for row in rows:
        if row.between is not None:
            pair = " to ".join(names[int(row.settings[end][0])] for end in ("front", "back"))
            groups.setdefault(f"stitch, {pair}", []).append(row)
    for label, members in groups.items():
        axes.errorbar(
            [r.macs / 1e6 for r in members],
            [r.accuracy for r in members],
            [r.standard_error for r in members],
            fmt="s" if label == "anchor" else "o",
            markersize=8 if label == "anchor" else 5,
            capsize=2,
            label=label,
        )
    front = [row for row in rows if row.front]
    axes.plot([r.macs / 1e6 for r in front], [r.accuracy for r in front], color="0.6", zorder=0,
              label="front (by the select split)")  # fmt: skip
    axes.set_xlabel("million multiply-accumulates per image")
    axes.set_ylabel("accuracy on the report split, % (± s.e.)")
    share = f"{width}/64 of the published width" if width != 64 else "full width"
    axes.set_title(f"Stitched {' + '.join(names)} ({share})\npairs of handwritten digits, 48 px")
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


class _Clock:
    """Prints progress, and ends the run when its minutes are over."""

    def __init__(self, minutes: float | None) -> None:
        self._start = time.monotonic()
        self._end = None if minutes is None else self._start + 60.0 * minutes

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self._start:7.1f} s] {text}", flush=True)

    def report(self, phase: str) -> Callable[[int, int, float], None]:
        def progress(done: int, total: int, loss: float) -> None:
            if done % 50 == 0 or done == total:
                self.say(f"{phase}: {done}/{total}, loss {loss:.3f}")
            if self._end is not None and time.monotonic() > self._end:
                raise OutOfTime

        return progress


def _batches(seed: int) -> Callable[[int], Any]:
    return lambda first: task.training_batches(BATCH, seed, first)


def _images(seed: int) -> list[Tensor]:
    """Images of the training split, to fit and to calibrate."""
    return [images for images, _ in islice(_batches(seed + 2000)(0), FIT_BATCHES)]


def _json(row: Row) -> dict[str, Any]:
    return {field: getattr(row, field) for field in Row.__dataclass_fields__}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Stitched ResNets, trained and measured.")
    parser.add_argument("--anchors", default="resnet18,resnet50", help="by commas, fast to slow")
    parser.add_argument("--width", type=int, default=16, help="of the first stage; 64 is full")
    parser.add_argument("--minutes", type=float, help="stop after so long; default: when finished")
    parser.add_argument("--scale", type=float, default=1.0, help="of all steps; 0.01 for a trial")
    parser.add_argument("--stitch-steps", type=int, default=STITCH_STEPS)
    parser.add_argument("--stitch-rate", type=float, default=STITCH_RATE)
    parser.add_argument("--stitches-per-step", type=int, default=3, help="and pair of anchors")
    parser.add_argument("--rounds", type=int, default=30, help="timed rounds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("runs/stitching"), help="of the states")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the JSON file")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of the plot")
    return parser.parse_args()


if __name__ == "__main__":
    main()
