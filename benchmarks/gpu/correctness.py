"""Is everything right, before anything is timed: every op of every program, and whole subnets.

An op is given the very numbers that it reads in a whole run and compared with float64; outputs and
scratch are filled with not-a-number before. A subnet is compared with its extracted module in
float64, which shares nothing with the arena, its programs or its kernels.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks.gpu.budget import Deadline
from benchmarks.gpu.contenders import cache, eager, ours, ours_eager, prepared
from benchmarks.gpu.documents import NO_TIME, Document
from benchmarks.gpu.gate import of_step, of_subnet, relative
from benchmarks.gpu.nets import Subject, subject
from benchmarks.gpu.settings import Settings
from benchmarks.gpu.steps import label, walk
from kernels.execute import run_step
from supernets import extract
from supernets.resident_programs import ResidentPrograms
from supernets.space import Subnet

EXACT = 1e-9  # float64 here against float64 there


def run(settings: Settings, document: Document, deadline: Deadline) -> None:
    """Whole subnets first, then their ops, in float32 and in the type that is timed."""
    torch.backends.cudnn.allow_tf32 = False
    subjects = [subject(name, settings) for name in settings.nets]
    types = dict.fromkeys((torch.float32, settings.dtype))
    forms = {(s.name, t): s.resident(settings, t) for s in subjects for t in types}
    for each in subjects:
        reference_itself(each, settings, document)
        for dtype in types:
            whole_subnets(each, forms[each.name, dtype], settings, document, deadline)
        replays(each, forms[each.name, settings.dtype], settings, document)
    seen: set[str] = set()
    for name in settings.subnets:
        for batch in settings.batches:
            for each in subjects:
                for dtype in types:
                    what = f"ops of {each.name} {name}, batch {batch}, {_name(dtype)}"
                    if not deadline.allows("ops", 5):
                        document.leave_out(what, NO_TIME)
                        continue
                    start = deadline.left
                    form = forms[each.name, dtype]
                    ops(each, form, name, batch, settings, document, seen)
                    deadline.took("ops", start - deadline.left)


def reference_itself(each: Subject, settings: Settings, document: Document) -> None:
    """Float64 on the device is float64 on the host: what judges is not judged by itself."""
    subnet, x = each.subnets["mid"], each.images(2, settings).double()
    module = each.reference(subnet)
    with torch.no_grad():
        here = module(x)
        there = module.to(settings.place)(x.to(settings.place))
    error = relative(there.cpu(), here)
    document.add({"kind": "reference", "net": each.name, "error": error, "passed": error <= EXACT})
    if not error <= EXACT:
        document.refuse(f"{each.name}: float64 on the device", f"is off by {error:.1e}")


def whole_subnets(
    each: Subject,
    form: ResidentPrograms,
    settings: Settings,
    document: Document,
    deadline: Deadline,
) -> None:
    """The three and the random ones, launched one by one, with poison where results will be."""
    named = [*each.subnets.items(), *((str(s.id), s) for s in each.extra)]
    for name, subnet in named:
        what = f"{each.name} {name}, {_name(form.dtype)}"
        if not deadline.allows("subnet", 3):
            document.leave_out(what, NO_TIME)
            continue
        start = deadline.left
        x = each.images(3, settings).to(settings.place)
        with poisoned():
            answer = ours_eager(form, subnet, x.to(form.dtype))()
        verdict = of_subnet(answer, *judged_by(each, subnet, x, form.dtype))
        document.add({"kind": "subnet", "net": each.name, "subnet": name, "config": str(subnet),
                      "dtype": _name(form.dtype), "batch": 3, **verdict.to_json()})  # fmt: skip
        if not verdict.passed:
            document.refuse(what, str(verdict))
        deadline.took("subnet", start - deadline.left)


def judged_by(
    each: Subject, subnet: Subnet, x: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.dtype, float | None]:
    """What `of_subnet` wants besides an answer: the reference, and PyTorch's own error."""
    with torch.no_grad():
        wanted = each.reference(subnet).to(x.device)(x.double())
    if dtype == torch.float32:
        return wanted, dtype, None
    low = x.to(dtype)
    plain = eager(prepared(extract(each.net, subnet), low), low)()
    return wanted, dtype, relative(plain, wanted)


def replays(each: Subject, form: ResidentPrograms, settings: Settings, document: Document) -> None:
    """Graphs of several subnets, in turn and in odd batches: right, and right again.

    Equal to the last bit when replayed after the others: an answer that moves is a race.
    """
    graphs = cache(form, settings.batches)
    batches = dict.fromkeys((*settings.batches, settings.batches[-1] - 1))
    first: dict[tuple[str, int], torch.Tensor] = {}
    for name, subnet in each.subnets.items():
        for batch in batches:
            x = each.images(batch, settings).to(settings.place)
            answer = ours(form, graphs, subnet, x.to(form.dtype))()
            first[name, batch] = answer
            verdict = of_subnet(answer, *judged_by(each, subnet, x, form.dtype))
            document.add({"kind": "graph", "net": each.name, "subnet": name, "batch": batch,
                          **verdict.to_json()})  # fmt: skip
            if not verdict.passed:
                document.refuse(f"graph of {each.name} {name}, batch {batch}", str(verdict))
    for (name, batch), before in first.items():
        x = each.images(batch, settings).to(settings.place, form.dtype)
        answer = ours(form, graphs, each.subnets[name], x)()
        same = torch.equal(answer, before)
        document.add({"kind": "replay", "net": each.name, "subnet": name, "batch": batch,
                      "passed": same})  # fmt: skip
        if not same:
            moved = f"moves by {relative(answer, before):.1e} when it is replayed"
            document.refuse(f"graph of {each.name} {name}, batch {batch}", moved)


def ops(
    each: Subject,
    form: ResidentPrograms,
    name: str,
    batch: int,
    settings: Settings,
    document: Document,
    seen: set[str],
) -> None:
    """Every step that does work which no step before it did."""
    x = each.images(batch, settings).to(settings.place, form.dtype)
    program = form.program(each.subnets[name], (settings.side, settings.side))
    worst: dict[str, dict[str, Any]] = {}
    for work in walk(program, x.permute(0, 2, 3, 1).contiguous()):
        what = f"{label(work)} {_name(form.dtype)}"
        if what in seen:
            continue
        seen.add(what)
        with poisoned():
            answers = run_step(work.step, dict(work.inputs))
        for answer, wanted in zip(answers, work.reference(), strict=True):
            verdict = of_step(answer, wanted, form.dtype)
            if not verdict.passed:
                document.refuse(what, str(verdict))
            kind = type(work.step).__name__
            entry = worst.setdefault(kind, {"count": 0, "error": 0.0, "worst": 0.0, "wrong": 0})
            entry["count"] += 1
            entry["wrong"] += not verdict.passed
            for key in ("error", "worst"):
                found = getattr(verdict, key)
                entry[key] = max(entry[key], found)  # not a number stays
    for kind, entry in worst.items():
        where = {"net": each.name, "subnet": name, "batch": batch, "dtype": _name(form.dtype)}
        document.add({"kind": "op", "op": kind, **where, **entry, "passed": not entry["wrong"]})


@contextmanager
def poisoned() -> Iterator[None]:
    """Memory is filled with not-a-number when it is allocated: what is not written shows."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
