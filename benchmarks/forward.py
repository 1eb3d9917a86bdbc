"""How fast is a subnet in place, against the `ofa` package's dynamic net and the extracted subnet?

``python -m benchmarks.forward``: OFA MobileNetV3 w1.0 at 224 px, float32, one thread, equal
weights; all contenders interleaved in one run, and none is timed before its answer is checked. The
extracted subnet runs as it is, channels-last, and with its norms folded and compiled by inductor
(``freezing``, which also packs its weights). Then where our time goes, and what share of the core's
own rate of matrix products is reached.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
import torch._inductor.config as inductor
from torch import Tensor, nn

from benchmarks.common import arguments, header, interleaved, median_ratio, show, write
from benchmarks.ofa_reference import both, calibrated, ladder
from kernels.native.plan import NativePlan
from kernels.shapes import value_shapes
from supernets import extract
from supernets.resident_programs import ResidentPrograms

BATCHES = (1, 8, 32)
SIZE = 224
TOLERANCE = 5e-3  # relative norm: float32 alone gives up to 1e-3 in a deep net, an error about 1
DIFFERENT = 0.1  # at least so much do the answers for two images differ: else nothing is compared
GEMM = 1024  # side of the product that the core's rate is measured with


def main() -> None:
    options = arguments("Forward passes side by side.", rounds=9)
    torch.set_num_threads(1)
    inductor.freezing = True
    theirs, ours = both(options.seed)
    cells: list[dict[str, Any]] = []
    for name, subnet in ladder(ours).items():
        calibrated(theirs, ours, subnet)
        resident = ours.resident()
        assert isinstance(resident, ResidentPrograms)
        packed = extract(ours, subnet).to(memory_format=torch.channels_last)
        for batch in BATCHES:
            x = torch.randn(batch, 3, SIZE, SIZE)
            nhwc = x.to(memory_format=torch.channels_last)
            with torch.inference_mode():
                compiled = _compiled(packed, nhwc)
                contenders: dict[str, Callable[[], Tensor]] = {
                    "ofa dynamic": lambda x=x: theirs(x),
                    "ofa dynamic, channels-last": lambda x=nhwc: theirs(x),
                    "extracted, channels-last": lambda x=nhwc, net=packed: net(x),
                    "extracted, folded, compiled": lambda x=nhwc, net=compiled: net(x),
                    "in place": lambda x=x, s=subnet, r=resident: r(x, s),
                }
                _check(theirs(x), theirs(torch.randn(1, 3, SIZE, SIZE)), contenders)
                square = torch.randn(GEMM, GEMM)
                times = interleaved({**contenders, "sgemm": lambda a=square: a @ a}, options.rounds)
            plan = resident.runner.plan(resident.program(subnet), batch, (SIZE, SIZE, 3))  # type: ignore[attr-defined]
            kinds = where_time_goes(plan, resident.program(subnet), nhwc, options.rounds)
            cells.append(_cell(name, str(subnet), batch, times, kinds))
            print(f"{name}, batch {batch}: done", flush=True)
        torch.compiler.reset()
    means = {
        against: _geometric([cell["in_place_is_faster_by"][against] for cell in cells])
        for against in cells[0]["in_place_is_faster_by"]
    }
    _show(cells, means)
    path = write(
        "forward-cpu",
        {
            **header(options.seed, rounds=options.rounds),
            "kernels": resident.kernels,
            "geometric_mean_in_place_is_faster_by": means,
            "cells": cells,
        },
        options.output,
    )
    print(path)


def _compiled(net: nn.Module, x: Tensor) -> Callable[[Tensor], Tensor]:
    compiled: Callable[[Tensor], Tensor] = torch.compile(net, dynamic=False)
    compiled(x)
    return compiled


def _check(expected: Tensor, other: Tensor, contenders: dict[str, Callable[[], Tensor]]) -> None:
    """End here where an answer is wrong, or where a wrong one could not be told."""
    if (expected[:1] - other).norm() < DIFFERENT * other.norm():
        raise SystemExit("two images have nearly the same answer: nothing would be compared")
    for contender, call in contenders.items():
        error = float((call() - expected).norm() / expected.norm())
        if not error < TOLERANCE:
            raise SystemExit(f"{contender} is wrong by {error:.1e}: not timed")


def where_time_goes(
    plan: NativePlan, program: Any, x: Tensor, rounds: int
) -> dict[str, dict[str, float]]:
    """Seconds and multiply-accumulates per image of each kind of step (medians over rounds)."""
    images = x.permute(0, 2, 3, 1).contiguous()
    samples = torch.zeros(rounds, len(plan.steps), dtype=torch.float64)
    for row in samples:
        plan(images, row)
    seconds = samples.median(0).values / len(x)
    shapes = value_shapes(program, (SIZE, SIZE, 3))
    kinds: dict[str, dict[str, float]] = defaultdict(lambda: {"seconds": 0.0, "macs": 0.0})
    for step, taken in zip(plan.steps, seconds.tolist(), strict=True):
        weight, _, _ = step.product
        macs = 0
        if weight is not None:
            at = step.x if step.depthwise is not None else step.out
            height, width, _ = shapes[at]
            macs += height * width * weight.rows * weight.columns * weight.taps
        if step.depthwise is not None:
            height, width, channels = shapes[step.out]
            macs += height * width * channels * step.depthwise.filters.shape[0] ** 2
        kind = step.kind.name.lower().replace("_", " + ")
        kinds[kind]["seconds"] += taken
        kinds[kind]["macs"] += macs
    return dict(kinds)


def _cell(
    name: str,
    subnet: str,
    batch: int,
    times: dict[str, list[float]],
    kinds: dict[str, dict[str, float]],
) -> dict[str, Any]:
    sgemm = times.pop("sgemm")
    quick = times["in place"]
    middle = {key: sorted(taken)[len(taken) // 2] for key, taken in times.items()}
    macs = batch * sum(kind["macs"] for kind in kinds.values())
    # Paired by round: what one subnet's work would take at the rate of the large product.
    at_rate = [t * macs / GEMM**3 for t in sgemm]
    return {
        "subnet": subnet,
        "name": name,
        "batch": batch,
        "median_ms": {key: 1000 * value for key, value in middle.items()},
        "in_place_is_faster_by": {
            key: median_ratio(taken, quick) for key, taken in times.items() if key != "in place"
        },
        "share_of_sgemm_rate": median_ratio(at_rate, quick),
        "steps": kinds,
        "seconds": {**times, "sgemm": sgemm},
    }


def _geometric(values: list[float]) -> float:
    return float(torch.tensor(values, dtype=torch.float64).log().mean().exp())


def _show(cells: list[dict[str, Any]], means: dict[str, float]) -> None:
    rows: list[list[object]] = [
        [
            f"{cell['name']}, batch {cell['batch']}",
            *cell["median_ms"].values(),
            *cell["in_place_is_faster_by"].values(),
            100 * cell["share_of_sgemm_rate"],
        ]
        for cell in cells
    ]
    rows.append(["geometric mean", *[""] * len(cells[0]["median_ms"]), *means.values(), ""])
    show(
        "Median ms, and by what factor in place is faster (paired medians)",
        ["subnet", "ofa", "ofa cl", "extr. cl", "compiled", "in place", "ofa/", "ofa cl/",
         "extr. cl/", "compiled/", "% of sgemm rate"],
        rows,
    )  # fmt: skip
    for cell in cells:
        total = sum(kind["seconds"] for kind in cell["steps"].values())
        show(
            f"Where the time goes: {cell['name']}, batch {cell['batch']}",
            ["steps", "% of time", "GMAC/s"],
            [
                [name, 100 * kind["seconds"] / total, kind["macs"] / kind["seconds"] / 1e9]
                for name, kind in cell["steps"].items()
            ],
        )


if __name__ == "__main__":
    main()
