"""Is a subnet in place faster than extracted, and than the `ofa` package's dynamic net?

``python -m benchmarks.forward``: OFA MobileNetV3 w1.0 at 224 px, float32, one thread, equal
weights; all contenders interleaved in one run, and none is timed before its answer is checked.
"""

from typing import Any

import torch

from benchmarks.common import arguments, header, interleaved, median_ratio, show, write
from benchmarks.ofa_reference import both, ladder
from supernets import extract

BATCHES = (1, 8)
TOLERANCE = 1e-4  # relative norm; a wrong channel or kernel gives about 1


def main() -> None:
    options = arguments("Forward passes side by side.", rounds=15)
    torch.set_num_threads(1)
    theirs, ours = both(options.seed)
    resident = ours.resident()
    rows: list[list[object]] = []
    cells: list[dict[str, Any]] = []
    for name, subnet in ladder(ours).items():
        theirs.set_active_subnet(**subnet.config())
        plain = extract(ours, subnet)
        packed = extract(ours, subnet).to(memory_format=torch.channels_last)
        for batch in BATCHES:
            x = torch.randn(batch, 3, 224, 224)
            nhwc = x.to(memory_format=torch.channels_last)
            contenders = {
                "ofa dynamic": lambda x=x: theirs(x),
                "ofa dynamic, channels-last": lambda x=nhwc: theirs(x),
                "extracted": lambda x=x, net=plain: net(x),
                "extracted, channels-last": lambda x=nhwc, net=packed: net(x),
                "in place": lambda x=x, s=subnet: resident(x, s),
            }
            with torch.inference_mode():
                expected = theirs(x)
                for contender, call in contenders.items():
                    error = float((call() - expected).norm() / expected.norm())
                    if error > TOLERANCE:
                        raise SystemExit(f"{contender} is wrong by {error:.1e}: not timed")
                times = interleaved(contenders, options.rounds)
            quick = times["in place"]
            medians = {k: 1000 * sorted(v)[len(v) // 2] for k, v in times.items()}
            ratios = {k: median_ratio(v, quick) for k, v in times.items()}
            cells.append(
                {
                    "subnet": str(subnet),
                    "name": name,
                    "batch": batch,
                    "median_ms": medians,
                    "in_place_is_faster_by": ratios,
                    "seconds": times,
                }
            )
            rows.append([f"{name}, batch {batch}", *medians.values(), *list(ratios.values())[:4]])
    show(
        "Median ms, and by what factor in place is faster (paired medians)",
        ["subnet", "ofa", "ofa cl", "extr.", "extr. cl", "in place", "ofa/", "ofa cl/", "extr./",
         "extr. cl/"],
        rows,
    )  # fmt: skip
    path = write("forward-cpu", {**header(options.seed, rounds=options.rounds), "cells": cells},
                 options.output)  # fmt: skip
    print(path)


if __name__ == "__main__":
    main()
