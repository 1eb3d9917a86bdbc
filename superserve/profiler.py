"""Measures latency per subnet and batch size on one device: ``python -m superserve.profiler SPEC``.

It runs as a process of its own, so that the front end stays free of torch, and goes through the
same engine call as serving: scaling, network, softmax, top-k.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from superserve.engine_types import EngineLike, EngineSpec, build_engine
from superserve.errors import SuperServeError
from superserve.profile_store import (
    DEFAULT_BATCH_SIZES,
    Latency,
    LatencyProfile,
    device_name,
    now_utc,
    profile_path,
    versions,
)

QUICK_SECONDS, FULL_SECONDS = 8.0, 90.0
MIN_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class ProfileRequest:
    """What to measure. An empty ``output`` means the user's cache."""

    engine: EngineSpec
    batch_sizes: tuple[int, ...] = DEFAULT_BATCH_SIZES
    seconds: float = FULL_SECONDS
    quick: bool = False
    output: str = ""
    reuse: bool = False  # take the profile that the cache has, if it fits

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "ProfileRequest":
        document = json.loads(text)
        spec = document.pop("engine")
        document["batch_sizes"] = tuple(document["batch_sizes"])
        return cls(engine=EngineSpec(**{**spec, "plugins": tuple(spec["plugins"])}), **document)


Progress = Callable[[float, float], None]  # seconds spent, seconds allowed


def measure(
    engine: EngineLike,
    batch_sizes: Sequence[int],
    seconds: float,
    progress: Progress | None = None,
) -> dict[str, dict[int, Latency]]:
    """Time every (subnet, batch size) of the engine's first model for about ``seconds`` in all.

    The cells are visited in turn, round after round, so that a disturbance of the machine spreads
    over all of them instead of spoiling one. At least `MIN_ROUNDS` rounds are made. A run that had
    to load its subnet is made again: policies plan with what the subnet takes once it is there.
    """
    model = engine.models[0]
    step = model.preprocessing
    rng = np.random.default_rng(0)
    pixels = rng.integers(
        0, 256, (max(batch_sizes), step.height, step.width, step.channels), np.uint8
    )
    cells = [(subnet, batch) for subnet in model.subnets for batch in batch_sizes]
    times: dict[tuple[str, int], list[float]] = {cell: [] for cell in cells}
    start = time.perf_counter()
    rounds = 0
    while rounds < MIN_ROUNDS or time.perf_counter() - start < seconds:
        for subnet, batch in cells:
            while True:
                before = time.perf_counter()
                result = engine.run(model.name, subnet, pixels[:batch], 5)
                took = time.perf_counter() - before
                if not result.loading:
                    break
            times[subnet, batch].append(took)
        rounds += 1
        if progress is not None:
            progress(min(time.perf_counter() - start, seconds), seconds)
    return {
        subnet: {batch: _latency(times[subnet, batch]) for batch in batch_sizes}
        for subnet in model.subnets
    }


def _latency(times: list[float]) -> Latency:
    p50, p99 = np.quantile(times, [0.5, 0.99])
    return Latency(float(p50), float(p99), len(times))


def profile(
    request: ProfileRequest, progress: Progress | None = None
) -> tuple[Path, LatencyProfile]:
    """Measure and write a latency profile; returns its file. Raises `ConfigError`."""
    engine = build_engine(request.engine)
    threads = request.engine.threads
    model = engine.models[0]
    path = (
        Path(request.output) if request.output else profile_path(model, engine.device_type, threads)
    )
    if request.reuse and path.exists():
        kept = LatencyProfile.read(path)
        if kept.why_not(model, engine.device_type, threads) is None:
            return path, kept
    engine.warm_up()
    measured = LatencyProfile(
        model=model,
        device_type=engine.device_type,
        device_name=device_name(engine.device_type),
        threads=threads,
        versions=versions(),
        quick=request.quick,
        created=now_utc(),
        latencies=measure(engine, request.batch_sizes, request.seconds, progress),
    )
    measured.write(path)
    return path, measured


def main() -> None:
    """The process: a request as JSON in the first argument; prints progress lines and the path."""
    request = ProfileRequest.from_json(sys.argv[1])

    def report(spent: float, allowed: float) -> None:
        print(json.dumps({"spent": spent, "allowed": allowed}), flush=True)

    try:
        path, _ = profile(request, report)
    except (SuperServeError, OSError) as error:
        print(json.dumps({"error": str(error)}), flush=True)
        sys.exit(1)
    print(json.dumps({"path": str(path)}), flush=True)


if __name__ == "__main__":
    main()
