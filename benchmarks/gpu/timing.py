"""Times one call at a time, in a stated cache state, contender after contender, round after round.

States, of which every sample names its own:

- ``latency``: host clock around a call and a synchronisation; what a caller waits.
- ``warm``: device time between two events; the call just before was the same one.
- ``as is``: device time, whatever ran before.
- ``evicted``: device time after other data went through L2; lines that a policy keeps stay.
- ``cold``: device time with nothing in L2: persisting lines are given up first, because a flush by
  writing does not evict them, and a benchmark that forgets so reports times that are too good.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, Literal, Protocol

import torch

State = Literal["latency", "warm", "as is", "evicted", "cold"]
SPACER = 200e-6  # seconds that the device waits, so that the host has issued the call by then
FLUSH = 4  # times the size of L2, read and written


class Timer(Protocol):
    """Takes one sample."""

    def sample(self, call: Callable[[], object], state: State) -> float:
        """Seconds."""


class HostTimer:
    """For a CPU, where a run shows that the benchmark works and measures nothing of a GPU."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._memory = torch.ones(1 << 20)

    def sample(self, call: Callable[[], object], state: State) -> float:
        if state in {"cold", "evicted"}:
            self._memory.add_(1)
        elif state != "as is":
            call()
        start = self._clock()
        call()
        return self._clock() - start


class CudaTimer:
    """Events on the current stream, behind a spacer; the host clock for ``latency``."""

    def __init__(self, device: torch.device) -> None:
        properties: Any = torch.cuda.get_device_properties(device)
        cache = max(getattr(properties, "L2_cache_size", 0), 64 << 20)
        self._device = device
        self._memory = torch.ones(FLUSH * cache // 4, device=device)
        self._cycles = int(SPACER * 1e3 * (getattr(properties, "clock_rate", 0) or 1_500_000))
        self._start, self._end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._reset = reset_of_persisting_lines()

    def sample(self, call: Callable[[], object], state: State) -> float:
        if state in {"latency", "warm"}:
            call()
        torch.cuda.synchronize(self._device)
        if state == "latency":
            start = time.perf_counter()
            call()
            torch.cuda.synchronize(self._device)
            return time.perf_counter() - start
        if state == "cold":
            self._reset()
        if state in {"cold", "evicted"}:
            self._memory.add_(1)
        torch.cuda._sleep(self._cycles)  # noqa: SLF001 - PyTorch's own tests time this way
        self._start.record()
        call()
        self._end.record()
        torch.cuda.synchronize(self._device)
        milliseconds: float = self._start.elapsed_time(self._end)
        return milliseconds / 1e3


def reset_of_persisting_lines() -> Callable[[], object]:
    """cudaCtxResetPersistingL2Cache; nothing where there are no bindings to make such lines."""
    try:
        runtime: Any = import_module("cuda.bindings.runtime")
    except ImportError:
        return lambda: None

    def reset() -> None:
        (code,) = runtime.cudaCtxResetPersistingL2Cache()
        if int(code):
            raise RuntimeError(f"persisting lines cannot be given up: {code}")

    return reset


def interleaved(
    contenders: Mapping[str, Callable[[], object]],
    states: Sequence[State],
    rounds: int,
    timer: Timer,
) -> dict[str, dict[str, list[float]]]:
    """Seconds by contender and state: each once per round, in turn, so that drift hits all alike.

    The order turns by one from round to round: none is always behind the same other one.
    """
    names = list(contenders)
    times = {name: {str(state): list[float]() for state in states} for name in names}
    for index in range(rounds):
        turn = index % max(1, len(names))
        for name in names[turn:] + names[:turn]:
            for state in states:
                times[name][state].append(timer.sample(contenders[name], state))
    return times


def summary(samples: Sequence[float]) -> dict[str, Any]:
    """Median and spread in microseconds, and the samples themselves, as they came."""
    micro = [1e6 * sample for sample in samples]
    ranked = sorted(micro)
    return {
        "median_us": round(statistics.median(micro), 3),
        "p10_us": round(ranked[len(ranked) // 10], 3),
        "p90_us": round(ranked[-1 - len(ranked) // 10], 3),
        "samples_us": [round(sample, 2) for sample in micro],
    }


def summaries(times: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, dict[str, Any]]:
    """`summary` of every contender and state."""
    return {
        name: {state: summary(samples) for state, samples in states.items()}
        for name, states in times.items()
    }


def ratios(
    times: Mapping[str, Mapping[str, Sequence[float]]], ours: str
) -> dict[str, dict[str, float]]:
    """By contender and state, how many times as long as ``ours``: the median over rounds."""
    if ours not in times:
        return {}
    return {
        name: {
            state: round(
                statistics.median(a / b for a, b in zip(samples, times[ours][state], strict=True)),
                3,
            )
            for state, samples in states.items()
        }
        for name, states in times.items()
        if name != ours
    }
