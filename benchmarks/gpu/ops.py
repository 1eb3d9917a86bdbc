"""Every op in every shape that the nets give it, on its own: ours against PyTorch's best and usual.

A kernel takes microseconds, about as long as a launch, so it is timed in a graph: warm, one of
several in a row; cold, one behind a flush of L2.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.budget import Deadline
from benchmarks.gpu.contenders import compiled_function
from benchmarks.gpu.documents import NO_TIME, Document
from benchmarks.gpu.environment import peaks, timer
from benchmarks.gpu.frozen import frozen
from benchmarks.gpu.gate import admitted, of_step
from benchmarks.gpu.nets import subject
from benchmarks.gpu.roofline import costs, floor_seconds
from benchmarks.gpu.settings import Settings
from benchmarks.gpu.steps import Work, label, walk
from benchmarks.gpu.timing import interleaved, ratios, summaries
from kernels.execute import run_step
from kernels.program import Program

OURS = "ours"
IN_A_ROW = 16  # calls in one graph
COMPILED = "PyTorch, compiled"
NOT_COMPILED = "PyTorch, not compiled"  # of a dry run

Call = Callable[[], Tensor]


def run(settings: Settings, document: Document, deadline: Deadline) -> None:
    """Ours, PyTorch on the slice as the `ofa` package does it, PyTorch on frozen weights."""
    _run(settings, document, deadline, compile_it=False)


def run_compiled(settings: Settings, document: Document, deadline: Deadline) -> None:
    """Ours against torch.compile of the frozen op."""
    _run(settings, document, deadline, compile_it=True)


def _run(settings: Settings, document: Document, deadline: Deadline, *, compile_it: bool) -> None:
    torch.backends.cudnn.benchmark = True
    take, known, seen = timer(settings), peaks(settings), set[str]()
    for program, name, net, batch, x in _programs(settings):
        steps = costs(program, (settings.side, settings.side, 3), batch, settings.dtype.itemsize)
        for work in walk(program, x):
            what = label(work)
            if what in seen or document.has(op=what, compiled=compile_it):
                continue
            seen.add(what)
            first = 0.0 if settings.is_dry else (10.0 if compile_it else 1.0)
            if not deadline.allows("op", first):
                document.leave_out(f"{net} {name}, batch {batch}, from {what} on", NO_TIME)
                return
            start = deadline.left
            cost = steps[work.index]
            contenders = _compiled(work) if compile_it else _contenders(work)
            wanted = work.reference()[0]
            passed, verdicts = admitted(
                contenders,
                lambda answer, wanted=wanted: of_step(answer, wanted, settings.dtype),  # type: ignore[misc]
                lambda who, why, what=what: document.refuse(f"{who}: {what}", why),  # type: ignore[misc]
                lambda who, why, what=what: document.leave_out(f"{who}: {what}", why),  # type: ignore[misc]
            )
            times = _times(passed, settings, take)
            floor = (
                {} if known is None else {"floor_us": round(1e6 * floor_seconds(cost, known), 3)}
            )
            document.add(
                {
                    "op": what,
                    "kind": cost.op,
                    "compiled": compile_it,
                    "net": net,
                    "subnet": name,
                    "batch": batch,
                    "macs": cost.macs,
                    "bytes": cost.nbytes,
                    "errors": {who: verdict.to_json() for who, verdict in verdicts.items()},
                    "times": summaries(times),
                    "ours_is_faster_by": ratios(times, OURS),
                    **floor,
                }
            )
            deadline.took("op", start - deadline.left)


def _programs(settings: Settings) -> Iterator[tuple[Program, str, str, int, Tensor]]:
    subjects = [subject(name, settings) for name in settings.nets]
    forms = [each.resident(settings) for each in subjects]
    for name in settings.subnets:
        for batch in settings.batches:
            for each, form in zip(subjects, forms, strict=True):
                x = each.images(batch, settings).to(settings.place, settings.dtype)
                program = form.program(each.subnets[name], (settings.side, settings.side))
                yield program, name, each.name, batch, x.permute(0, 2, 3, 1).contiguous()


def _contenders(work: Work) -> dict[str, Call]:
    values = dict(work.inputs)
    best = frozen(work.step)
    return {
        OURS: lambda: run_step(work.step, values)[0],
        "PyTorch on the slice": lambda: run_step(work.step, values, "plain")[0],
        "PyTorch, frozen": lambda: best(values),
    }


def _compiled(work: Work) -> dict[str, Call]:
    values = dict(work.inputs)
    place = next(iter(values.values())).device
    made = compiled_function(frozen(work.step), place)
    name = COMPILED if place.type == "cuda" else NOT_COMPILED
    return {OURS: lambda: run_step(work.step, values)[0], name: lambda: made(values)}


def _times(
    calls: dict[str, Call], settings: Settings, take: Any
) -> dict[str, dict[str, list[float]]]:
    """Seconds of one call, warm and cold."""
    row = 1 if settings.is_dry else IN_A_ROW
    rows = {name: in_graph(call, row, settings.place) for name, call in calls.items()}
    singles = {name: in_graph(call, 1, settings.place) for name, call in calls.items()}
    warm = interleaved(rows, ("warm",), settings.rounds, take)
    cold = interleaved(singles, ("cold",), settings.rounds, take)
    return {
        name: {"warm": [sample / row for sample in warm[name]["warm"]], "cold": cold[name]["cold"]}
        for name in calls
    }


@torch.no_grad()
def in_graph(call: Call, count: int, device: torch.device) -> Callable[[], object]:
    """``count`` calls as one graph; on a CPU, one after the other."""
    if device.type != "cuda":

        def repeat() -> None:
            for _ in range(count):
                call()

        return repeat
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(2):
            call()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(count):
            call()
    return graph.replay
