"""Whole subnets, side by side: ours, the `ofa` package's dynamic net, and extracted modules.

Every contender's answer is compared with float64 before it is timed. `run` has all that needs no
compiling; `run_compiled` the extracted subnet under torch.compile, which takes most of a minute
each, against ours in the same rounds.
"""

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.budget import Deadline
from benchmarks.gpu.contenders import (
    OURS,
    Call,
    cache,
    compiled,
    eager,
    graphed,
    ours,
    ours_eager,
    prepared,
    skipped_graphs,
)
from benchmarks.gpu.correctness import judged_by
from benchmarks.gpu.documents import NO_TIME, Document
from benchmarks.gpu.environment import peaks, timer
from benchmarks.gpu.gate import admitted, of_subnet
from benchmarks.gpu.nets import Subject, subject
from benchmarks.gpu.roofline import costs, program_floor
from benchmarks.gpu.settings import Settings
from benchmarks.gpu.timing import State, interleaved, ratios, summaries
from kernels.graphs import GraphCache
from kernels.program import Program
from supernets import extract
from supernets.resident_programs import ResidentPrograms

STATES: tuple[State, ...] = ("latency", "warm", "cold")
COMPILED = "extracted, torch.compile max-autotune"
NOT_COMPILED = "extracted, not compiled"  # of a dry run
FIRST_COMPILATION = 60.0  # seconds that one is taken to need before one was seen


def cells(settings: Settings) -> Iterator[tuple[str, int, str]]:
    """(subnet, batch, net), the most telling first: a run that is cut off has those."""
    for name in settings.subnets:
        for batch in settings.batches:
            for net in settings.nets:
                yield name, batch, net


def run(settings: Settings, document: Document, deadline: Deadline) -> None:
    """All contenders that need no compiling, cell by cell."""
    bench = _Bench(settings, document, theirs=True)
    for each in bench.subjects.values():
        if not each.theirs:
            document.leave_out(f"the ofa package's {each.name}", each.reason)
    for name, batch, net in cells(settings):
        bench.cell(deadline, net, name, batch, 5.0, compile_it=False)


def run_compiled(settings: Settings, document: Document, deadline: Deadline) -> None:
    """Ours against the compiled subnet, as many cells as there is time for."""
    bench = _Bench(settings, document, theirs=False)
    for name, batch, net in cells(settings):
        bench.cell(deadline, net, name, batch, FIRST_COMPILATION, compile_it=True)


class _Bench:
    """The nets of a run and their graphs, kept from cell to cell."""

    def __init__(self, settings: Settings, document: Document, *, theirs: bool) -> None:
        torch.backends.cudnn.benchmark = True
        self.settings, self.document = settings, document
        self.subjects = {n: subject(n, settings, theirs=theirs) for n in settings.nets}
        self._forms: dict[str, tuple[ResidentPrograms, GraphCache]] = {}
        self._timer = timer(settings)
        self._peaks = peaks(settings)

    def cell(
        self, deadline: Deadline, net: str, name: str, batch: int, first: float, *, compile_it: bool
    ) -> None:
        """Measure one, unless it is there already or would not be finished."""
        if self.document.has(net=net, subnet=name, batch=batch):
            return
        if not deadline.allows("cell", 0.0 if self.settings.is_dry else first):
            self.document.leave_out(f"{net} {name}, batch {batch}", NO_TIME)
            return
        start = deadline.left
        each = self.subjects[net]
        x32 = each.images(batch, self.settings).to(self.settings.place)
        x = x32.to(self.settings.dtype)
        made = self._compiled if compile_it else self._plain
        contenders, more = made(each, name, x)
        judge = partial(_judge, judged_by(each, each.subnets[name], x32, self.settings.dtype))
        passed, verdicts = admitted(
            contenders,
            judge,
            lambda who, why: self.document.refuse(f"{who}: {net} {name}, batch {batch}", why),
            lambda who, why: self.document.leave_out(f"{who}: {net} {name}, batch {batch}", why),
        )
        times = interleaved(passed, STATES, self.settings.rounds, self._timer)
        self.document.add(
            {
                "net": net,
                "subnet": name,
                "config": str(each.subnets[name]),
                "batch": batch,
                "errors": {who: verdict.to_json() for who, verdict in verdicts.items()},
                "times": summaries(times),
                "ours_is_faster_by": ratios(times, OURS),
                **self._work(each, name, batch),
                **more(),
            }
        )
        deadline.took("cell", start - deadline.left)

    def _form(self, each: Subject) -> tuple[ResidentPrograms, GraphCache]:
        if each.name not in self._forms:
            form = each.resident(self.settings)
            self._forms[each.name] = form, cache(form, self.settings.batches)
        return self._forms[each.name]

    def _plain(self, each: Subject, name: str, x: Tensor) -> tuple[dict[str, Call], Any]:
        form, graphs = self._form(each)
        subnet = each.subnets[name]
        contenders = {
            OURS: ours(form, graphs, subnet, x),
            "ours, as served": lambda: form(x, subnet),
            "ours, one by one": ours_eager(form, subnet, x),
        }
        modules = {"extracted": extract(each.net, subnet)}
        if name in each.theirs:
            modules["ofa dynamic"] = each.theirs[name]
        for who, module in modules.items():
            ready = prepared(module, x)
            contenders[f"{who}, eager"] = eager(ready, x)
            contenders[f"{who}, graph"] = _later(graphed, ready, x)
        return contenders, dict

    def _compiled(self, each: Subject, name: str, x: Tensor) -> tuple[dict[str, Call], Any]:
        form, graphs = self._form(each)
        subnet = each.subnets[name]
        before, began = skipped_graphs(), time.perf_counter()
        call = compiled(prepared(extract(each.net, subnet), x), x)
        took: list[float] = []

        def timed() -> Tensor:
            answer = call()
            if not took:
                took.append(time.perf_counter() - began)
            return answer

        def more() -> dict[str, Any]:
            skipped = skipped_graphs() - before
            return {"compilation_s": took[0] if took else None, "skipped_graphs": skipped}

        name = NOT_COMPILED if self.settings.is_dry else COMPILED
        return {OURS: ours(form, graphs, subnet, x), name: timed}, more

    def _work(self, each: Subject, name: str, batch: int) -> dict[str, Any]:
        """What the program comes to, and the least time that the device could take for it."""
        form, _ = self._form(each)
        side = self.settings.side
        program = form.program(each.subnets[name], (side, side))
        return work_of(program, side, batch, self.settings, self._peaks)


def work_of(
    program: Program, side: int, batch: int, settings: Settings, known: Any
) -> dict[str, Any]:
    """Steps, multiply-accumulates and bytes of a program, and its floor in microseconds."""
    steps = costs(program, (side, side, 3), batch, settings.dtype.itemsize)
    found: dict[str, Any] = {
        "steps": len(steps),
        "macs": sum(cost.macs for cost in steps),
        "bytes": sum(cost.nbytes for cost in steps),
        "weight_bytes": sum(cost.weights for cost in steps),
    }
    if known is not None:
        found["floor_us"] = round(1e6 * program_floor(steps, known), 3)
        found["floor_from"] = known.source
    return found


def _judge(known: tuple[Tensor, torch.dtype, float | None], answer: Tensor) -> Any:
    return of_subnet(answer, *known)


def _later(make: Any, *arguments: Any) -> Call:
    """A contender that is made at its first call: what fails then is refused, and nothing else."""
    made: list[Call] = []

    def call() -> Tensor:
        if not made:
            made.append(make(*arguments))
        return made[0]()

    return call
