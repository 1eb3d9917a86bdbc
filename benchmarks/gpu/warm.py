"""Compiles every kernel once, several processes at a time, into Triton's cache on disk.

One after the other, a net's kernels would take longer to compile than everything takes to measure.
"""

import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed

import torch

from benchmarks.gpu.budget import Deadline
from benchmarks.gpu.contenders import ours_eager
from benchmarks.gpu.documents import NO_TIME, Document
from benchmarks.gpu.nets import subject
from benchmarks.gpu.settings import Settings

PROCESSES = 8

Job = tuple[str, str, torch.dtype]


def run(settings: Settings, document: Document, deadline: Deadline) -> None:
    """A job for each net, subnet and type; on a CPU, one after the other."""
    types = dict.fromkeys((settings.dtype, torch.float32))
    jobs = [
        (net, name, dtype) for dtype in types for name in settings.subnets for net in settings.nets
    ]
    start = time.perf_counter()
    if settings.is_dry:
        for job in jobs:
            execute_once(settings, job)
    else:
        _in_parallel(settings, jobs, document, deadline)
    seconds = time.perf_counter() - start
    document.add({"kind": "compilation", "jobs": len(jobs), "seconds": round(seconds, 1)})


def execute_once(settings: Settings, job: Job) -> None:
    """Every batch size that is timed or checked, so that every kernel of it is compiled."""
    net, name, dtype = job
    each = subject(net, settings)
    form = each.resident(settings, dtype)
    for batch in dict.fromkeys((*settings.batches, 3)):
        x = each.images(batch, settings).to(settings.place, dtype)
        ours_eager(form, each.subnets[name], x)()


def _in_parallel(
    settings: Settings, jobs: list[Job], document: Document, deadline: Deadline
) -> None:
    context = multiprocessing.get_context("spawn")
    count = max(1, min(PROCESSES, len(jobs), (os.cpu_count() or 2) // 2))
    pool = ProcessPoolExecutor(count, mp_context=context)
    futures = {pool.submit(execute_once, settings, job): job for job in jobs}
    try:
        for future in as_completed(futures, timeout=max(1.0, deadline.left)):
            error = future.exception()
            if error is not None:
                net, name, dtype = futures[future]
                document.refuse(
                    f"kernels of {net} {name} {dtype}", f"{type(error).__name__}: {error}"
                )
    except TimeoutError:
        document.leave_out("kernels that were not compiled yet", NO_TIME)
        for process in list(pool._processes.values()):  # noqa: SLF001 - it would wait for them
            process.kill()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
