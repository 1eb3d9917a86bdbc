"""What the device does at best, measured: bandwidth, arithmetic, and the price of a launch."""

import statistics
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.gpu.budget import Deadline
from benchmarks.gpu.documents import CHECK, Document, read
from benchmarks.gpu.roofline import Peaks, peaks_of
from benchmarks.gpu.settings import Settings
from benchmarks.gpu.timing import CudaTimer, HostTimer, Timer

SAMPLES = 10


def timer(settings: Settings) -> Timer:
    """For the device."""
    return HostTimer() if settings.is_dry else CudaTimer(settings.place)


def run(settings: Settings, document: Document, deadline: Deadline) -> None:
    """One cell: what `peaks` reads, and what everything else is to be judged by."""
    del deadline
    take = timer(settings)
    cell: dict[str, Any] = {"kind": "environment", **ceilings(settings, take)}
    if not settings.is_dry:
        cell |= launch_costs(take, settings.place)
        cell["l2"] = l2_limits()
    document.add(cell)


def ceilings(settings: Settings, take: Timer) -> dict[str, float]:
    """Bytes per second of a copy, read and written, and FLOP per second of a matrix product.

    On random numbers: products of zeros run faster than any real data will.
    """
    place, dtype = settings.place, settings.dtype
    size, side = (1 << 22, 256) if settings.is_dry else (1 << 30, 8192)
    source = torch.randint(256, (size,), dtype=torch.uint8, device=place)
    target = torch.empty_like(source)
    copied = _median(take, lambda: target.copy_(source))
    a, b = (torch.randn(side, side, device=place).to(dtype) for _ in range(2))
    product = _median(take, lambda: a @ b)
    return {
        "copy_bytes_per_s": 2 * size / copied,
        "matrix_flop_per_s": 2 * side**3 / product,
    }


def launch_costs(take: Timer, device: torch.device) -> dict[str, float]:
    """Microseconds: of timing nothing, of one graph launch, and of each further kernel in one."""
    x = torch.zeros(1, device=device)
    replays = {count: _replay_of(lambda: x.add_(1), count) for count in (1, 200)}
    nothing = _median(take, lambda: None)
    short, long = (_median(take, replay) for replay in replays.values())
    return {
        "events_alone_us": 1e6 * nothing,
        "graph_of_one_us": 1e6 * short,
        "graph_node_us": 1e6 * (long - short) / 199,
    }


def l2_limits() -> dict[str, Any]:
    """Bytes of L2, its largest set-aside and window, as the driver says; or why not."""
    from kernels.l2 import L2

    l2 = L2()
    capacity = l2.capacity
    return {
        "bytes": capacity.l2,
        "persisting": capacity.persisting,
        "window": capacity.window,
        "reason": l2.reason,
    }


def peaks(settings: Settings) -> Peaks | None:
    """As measured earlier in this run; else by the device's clocks; None where neither is known."""
    clocks = None
    if not settings.is_dry:
        clocks = peaks_of(torch.cuda.get_device_properties(settings.place))
    found = read(settings.output / CHECK)
    for cell in found["cells"] if found else []:
        if cell["kind"] == "environment":
            matrix = cell["matrix_flop_per_s"]
            vector = clocks.vector if clocks else matrix
            return Peaks(cell["copy_bytes_per_s"], matrix, vector, "measured")
    return clocks


def _replay_of(call: Callable[[], object], count: int) -> Callable[[], None]:
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(count):
            call()
    return graph.replay


def _median(take: Timer, call: Callable[[], object]) -> float:
    return statistics.median(take.sample(call, "warm") for _ in range(SAMPLES))
