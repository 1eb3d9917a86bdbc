"""Running a study: its cells in parallel processes, each with one thread, kept as they finish."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from pathlib import Path

from loadtest.compare.cells import Finished, run_cell
from loadtest.compare.results import Results
from loadtest.compare.store import Store
from loadtest.compare.study import Cell, Prepared, Study
from superserve.errors import ConfigError

CELLS = "cells.jsonl"
RECORDS = "records"
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

OnProgress = Callable[[int, int], None]  # how many cells are done, and of how many


def run_study(
    study: Study,
    folder: Path | str,
    *,
    processes: int | None = None,
    resume: bool = False,
    records: bool = False,
    on_progress: OnProgress | None = None,
) -> Results:
    """Compute all cells of ``study``, each appended to ``cells.jsonl`` in ``folder`` when it is.

    ``processes`` is by default one for each CPU; 1 computes here. With ``resume`` the cells that
    the file has already are not computed again. ``records`` also writes one record per query and
    cell, as live runs do. What comes out depends neither on ``processes`` nor on ``resume``, but
    for the measured costs of decisions.

    Started from a script with more than one process, the call must stand below
    ``if __name__ == "__main__":``, for the processes import the script.

    Raises `ConfigError` for a study that cannot be run, and for the first cell that fails. Then,
    and at Ctrl-C, the cells that are finished stay in the file.
    """
    prepared = Prepared.of(study)
    store = Store(Path(folder) / CELLS, prepared, resume=resume)
    kept = Path(folder) / RECORDS if records else None
    if kept is not None:
        kept.mkdir(exist_ok=True)
    with closing(store):
        todo = [cell for cell in study.cells() if cell not in store.finished]
        total = len(store.finished) + len(todo)
        show = on_progress or (lambda _done, _total: None)
        show(total - len(todo), total)
        for finished in _computed(prepared, todo, kept, processes or _cpus()):
            store.add(finished)
            show(len(store.finished), total)
    return Results.of(prepared, store.finished.values(), store.provenance)


def _computed(
    prepared: Prepared, todo: Sequence[Cell], records: Path | None, processes: int
) -> Iterator[Finished]:
    processes = min(processes, len(todo))
    if processes <= 1:
        for cell in todo:
            yield run_cell(prepared, cell, records)
        return
    before = set(multiprocessing.active_children())
    # Spawned, since a fork would copy the threads' locks of whoever called.
    pool = ProcessPoolExecutor(
        processes, multiprocessing.get_context("spawn"), initializer=_ignore_interrupts
    )
    try:
        with _one_thread():
            futures = [pool.submit(run_cell, prepared, cell, records) for cell in todo]
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool as error:
        raise ConfigError(
            "a process died, perhaps for want of memory: try fewer --processes, with --resume"
        ) from error
    except BaseException:
        # Nobody waits for what runs still: an hour's cell must not hold up Ctrl-C.
        for child in set(multiprocessing.active_children()) - before:
            child.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _ignore_interrupts() -> None:
    """Ctrl-C goes to all processes of a terminal; the first one decides what becomes of it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Processes that start within have one thread each: cells are what runs in parallel."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
