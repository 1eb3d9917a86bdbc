"""Latency of subnets for a search: resident form, one thread, visited in turn, medians."""

import copy
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from supernets.calibration import calibrate
from supernets.norms.statistics import StatisticsTable
from supernets.space import Subnet
from supernets.supernet import Supernet

ROUNDS = 15


def measure_latency(
    net: Supernet,
    subnets: Sequence[Subnet],
    *,
    device: str | torch.device = "cpu",
    batch: int = 1,
    rounds: int = ROUNDS,
    clock: Callable[[], float] = time.perf_counter,
    progress: Callable[[int, int], None] | None = None,
) -> list[float]:
    """Median seconds of one call of each subnet with ``batch`` images, on one CPU thread.

    Every round visits all subnets, in an order of its own, so that a disturbance spreads over them
    instead of spoiling one. The subnets need no statistics: those of noise take as long. The net
    itself stays as it is. ``progress`` is told rounds done and rounds in all.
    """
    place = torch.device(device)
    step = net.preprocessing
    generator = torch.Generator().manual_seed(0)
    shape = (max(2, batch), step.channels, step.height, step.width)
    noise = torch.randn(shape, generator=generator)
    resident = _timed(net, subnets, noise).resident(place)
    x = noise[:batch].to(place)
    times: dict[Subnet, list[float]] = {subnet: [] for subnet in subnets}
    order = list(times)
    rng = random.Random(0)
    with _one_thread(), torch.inference_mode():
        for index in range(rounds + 1):
            rng.shuffle(order)
            for subnet in order:
                _wait(place)
                before = clock()
                resident(x, subnet)
                _wait(place)
                if index:  # the first round warms up caches and plans
                    times[subnet].append(clock() - before)
            if progress is not None and index:
                progress(index, rounds)
    return [statistics.median(times[subnet]) for subnet in subnets]


def machine(device: str | torch.device) -> str:
    """What latencies depend on besides the network: here, this device, this version of torch."""
    place = torch.device(device)
    name = torch.cuda.get_device_name(place) if place.type == "cuda" else platform.machine()
    return f"{platform.node()} {place} {name} torch {torch.__version__}"


def _timed(net: Supernet, subnets: Sequence[Subnet], noise: Tensor) -> Supernet:
    """The same weights beside statistics of noise: without any, activations may overflow."""
    twin = copy.copy(net)
    twin.statistics = StatisticsTable()
    own = next(net.parameters())
    calibrate(twin, list(dict.fromkeys(subnets)), [noise.to(own.device, own.dtype)])
    return twin


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
