"""``python -m kernels.tune``: time configurations on this GPU, and write its table.

For every kernel, and every bucket of the shapes in which the networks call it, a bounded grid of
configurations is first checked against the op's meaning and then timed with CUDA events, launched
many times from one CUDA graph: its weights and activations are then in L2, as they are between the
layers of a network. The fastest median goes into ``kernels/configs/<device>.json``.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from itertools import repeat
from math import prod
from multiprocessing import get_context
from typing import Any

import torch
import triton
from torch import Tensor

from kernels.auditing.calls import Call, distinct
from kernels.auditing.cases import OPS
from kernels.auditing.compiling import variant
from kernels.auditing.launching import launches_of, table_key
from kernels.auditing.networks import all_calls
from kernels.configs import DEFAULT, FOLDER, Config, Entry, load, lookup
from kernels.tuning import Timing, best, candidates, document, grouped, merged, word_of

TOLERANCE = {torch.bfloat16: 3e-2, torch.float16: 6e-3, torch.float32: 1e-4}
RUNS, REPEATS = 20, 7  # launches in one graph, and replays of it that are timed
NO_GPU = 2  # exit code


@dataclass(frozen=True, slots=True)
class Job:
    """One bucket: a call that stands for it, and the sizes under which it is looked up."""

    kernel: str
    sizes: Mapping[str, int]
    call: Call


def main(arguments: Sequence[str] | None = None) -> int:
    """The process's exit code: 2 without a GPU."""
    parser = argparse.ArgumentParser(prog="python -m kernels.tune", description=__doc__)
    parser.add_argument("--ops", default=",".join(OPS), help="with commas between")
    parser.add_argument("--batches", default="1,8,64", help="batch sizes of the networks")
    parser.add_argument("--limit", type=int, default=40, help="configurations per bucket")
    parser.add_argument("--minutes", type=float, default=25, help="then write what there is")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("kernels.tune times kernels and needs an NVIDIA GPU; here is none", file=sys.stderr)
        return NO_GPU
    dtype: torch.dtype = getattr(torch, options.dtype)
    batches = [int(batch) for batch in options.batches.split(",")]
    jobs = jobs_for(options.ops.split(","), batches, dtype)
    name = torch.cuda.get_device_name()
    entries: dict[str, list[Entry]] = {}
    end = time.monotonic() + 60 * options.minutes
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        for number, job in enumerate(jobs, 1):
            config = tune(pool, job, dtype, options.limit)
            print(f"{number}/{len(jobs)} {job.kernel} {dict(job.sizes)}: {config}", flush=True)
            entry = Entry(dtype.itemsize * 8, dict(job.sizes), config)
            entries.setdefault(job.kernel, []).append(entry)
            if time.monotonic() > end:
                print(f"stopped after {options.minutes:g} minutes; the rest stays as it was")
                break
    path = FOLDER / f"{word_of(name)}.json"
    tables = {**load(DEFAULT), **(load(path.stem) if path.exists() else {})}
    path.write_text(document(merged(tables, entries), provenance(name)), encoding="utf-8")
    print(f"wrote {path}")
    return 0


def jobs_for(ops: Sequence[str], batches: Sequence[int], dtype: torch.dtype) -> list[Job]:
    """One per kernel and bucket; the largest call of a bucket stands for it."""
    calls = [c for b in batches for c in distinct(all_calls(b)) if c.op in ops]
    found = [(table_key(call.op, call.make("meta", dtype)), call) for call in calls]
    keyed = [(key, call) for key, call in found if not key.safe]
    jobs = []
    for indices in grouped((key.kernel, key.sizes) for key, _ in keyed):
        key, call = max((keyed[i] for i in indices), key=lambda one: prod(one[0].sizes.values()))
        jobs.append(Job(key.kernel, key.sizes, call))
    return jobs


def tune(pool: Executor, job: Job, dtype: torch.dtype, limit: int) -> Config:
    """The best configuration that gives the right result; the one in use where none is better."""
    device = torch.device("cuda")
    used = lookup(job.kernel, device, job.sizes, dtype)
    shared = torch.cuda.get_device_properties(device).shared_memory_per_block_optin
    arguments = job.call.make(device, dtype)
    expected = meaning(job.call.op, arguments)
    tried = candidates(job.kernel, used, job.sizes, dtype.itemsize * 8, shared, limit)
    compile_all(pool, job.call, tried, dtype)
    timings = []
    for config in tried:
        try:
            launches, results = launches_of(job.call.op, arguments, config)

            def run(launches: tuple[Any, ...] = launches) -> None:
                for launch in launches:
                    launch.run()

            run()
            if agrees(results, expected, TOLERANCE[dtype]):
                timings.append(Timing(config, seconds(run)))
            else:
                print(f"  wrong: {config}")
        except (triton.OutOfResources, triton.CompilationError) as error:
            print(f"  {type(error).__name__}: {config}")
    return best(timings, used)


def compile_all(pool: Executor, call: Call, configs: Iterable[Config], dtype: torch.dtype) -> None:
    """Fill Triton's cache on every core: one after another, compiling would take most of the time.

    What does not compile is left for the launch to say.
    """
    major, minor = torch.cuda.get_device_capability()
    plain = [Config(dict(c.tiles), c.num_warps, c.num_stages) for c in configs]
    list(pool.map(compiled, repeat(call), plain, repeat(dtype), repeat(10 * major + minor)))


def compiled(call: Call, config: Config, dtype: torch.dtype, capability: int) -> int:
    """Compile what a call launches into the cache; how many of its kernels did not compile."""
    failed = 0
    for launch in launches_of(call.op, call.make("meta", dtype), config)[0]:
        made = variant(launch, capability)
        try:
            triton.compile(made.source, target=made.target, options=dict(made.options))
        except Exception:  # a compiler fails in many ways
            failed += 1
    return failed


def meaning(op: str, arguments: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """What the op's reference says, in float32."""
    reference = getattr(import_module(f"kernels.ops.{op}.reference"), op)
    wide = {k: v.float() if isinstance(v, Tensor) else v for k, v in arguments.items()}
    result = reference(**wide)
    return result if isinstance(result, tuple) else (result,)


def agrees(results: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float) -> bool:
    """Whether all differ by at most ``tolerance`` of the largest expected number."""
    return all(
        result.numel() == 0
        or bool((result.float() - want).abs().max() <= tolerance * want.abs().max())
        for result, want in zip(results, expected, strict=True)
    )


def seconds(run: Callable[[], None]) -> tuple[float, ...]:
    """Of one run, on the GPU, `REPEATS` times."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(RUNS):
            run()
    graph.replay()
    times = []
    for _ in range(REPEATS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e-3 / RUNS)
    graph.reset()
    return tuple(times)


def provenance(device: str) -> dict[str, str]:
    """What the timings are of."""
    driver = torch.version.cuda or ""
    versions = {"torch": torch.__version__, "triton": triton.__version__, "cuda": driver}
    return {"device": device, **versions, "timing": "warm L2, CUDA graph, median"}


if __name__ == "__main__":
    sys.exit(main())
