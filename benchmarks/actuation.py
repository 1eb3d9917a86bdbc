"""What does it cost to switch the subnet, and to hold many?

``python -m benchmarks.actuation``: actuation in place against `set_active_subnet` of the `ofa`
package and against extracting the subnet; memory of the subnets resident against extracted. OFA
MobileNetV3 w1.0, float32, one thread, interleaved in one run.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks.common import arguments, header, interleaved, show, write
from benchmarks.ofa_reference import both, random_subnets
from supernets import calibrate, create_supernet, extract
from supernets.space import Subnet

SUBNETS = 24


def main() -> None:
    options = arguments("Actuation and memory side by side.", rounds=200)
    torch.set_num_threads(1)
    theirs, ours = both(options.seed)
    resident = ours.resident()
    subnets = random_subnets(ours, SUBNETS, options.seed)
    configs = [subnet.config() for subnet in subnets]
    first_time = [_seconds(lambda s=subnet: resident.program(s)) for subnet in subnets]
    extraction = [_seconds(lambda s=subnet: extract(ours, s)) for subnet in subnets]
    times = interleaved(
        {
            "in place": _cycle(subnets, resident.program),
            "ofa set_active_subnet": _cycle(configs, lambda c: theirs.set_active_subnet(**c)),
        },
        options.rounds,
    )
    image = torch.randn(1, 3, 224, 224)
    largest = ours.space.largest
    inference = statistics.median(
        interleaved({"largest": lambda: resident(image, largest)}, 15)["largest"]
    )
    switch = statistics.median(times["in place"])
    figures = {
        "switch in place, us": 1e6 * switch,
        "first switch to a subnet in place, us": 1e6 * statistics.median(first_time),
        "ofa set_active_subnet, us": 1e6 * statistics.median(times["ofa set_active_subnet"]),
        "extraction, us": 1e6 * statistics.median(extraction),
        "largest subnet, batch 1, ms": 1e3 * inference,
        "switch / inference, %": 100 * switch / inference,
        "first switch / inference, %": 100 * statistics.median(first_time) / inference,
    }
    # For the memory each subnet has statistics of its own, as it would when it is served.
    calibrate(ours, subnets, [torch.randn(2, 3, 64, 64)])
    memory = [_memory("ofa_mobilenetv3, random subnets", ours, ours.resident(), subnets), _digits()]
    show("Actuation (medians)", ["", ""], [[k, v] for k, v in figures.items()])
    show(
        "Memory of the subnets, MB",
        ["supernet", "subnets", "resident", "extracted", "extracted / resident"],
        [
            [m["supernet"], m["subnets"], m["resident_mb"], m["extracted_mb"], m["ratio"]]
            for m in memory
        ],
    )
    document = {
        **header(options.seed, rounds=options.rounds),
        "figures": figures,
        "memory": memory,
        "seconds": {**times, "first switch": first_time, "extraction": extraction},
    }
    print(write("actuation-cpu", document, options.output))


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _cycle(items: Sequence[Any], call: Callable[[Any], object]) -> Callable[[], object]:
    """Each call takes the next item, so that every one is a switch."""
    position = 0

    def step() -> object:
        nonlocal position
        position = (position + 1) % len(items)
        return call(items[position])

    return step


def _memory(name: str, net: Any, resident: Any, subnets: Sequence[Subnet]) -> dict[str, Any]:
    """Bytes of the arena, which serves all of them, against those of every subnet on its own."""
    extracted = 0
    for subnet in subnets:
        module = extract(net, subnet)
        extracted += sum(t.nbytes for t in [*module.parameters(), *module.buffers()])
    held = resident.arena.nbytes
    return {
        "supernet": name,
        "subnets": len(subnets),
        "resident_mb": held / 1e6,
        "extracted_mb": extracted / 1e6,
        "ratio": extracted / held,
    }


def _digits() -> dict[str, Any]:
    net = create_supernet("digits")
    return _memory("digits, its Pareto subnets", net, net.resident(), list(net.statistics))


if __name__ == "__main__":
    main()
