"""What a switch to another subnet costs, and what it takes to hold many of them.

Against what one would do without a supernet: load the other subnet's weights from the host, or
hold all of them; and against the `ofa` package's ``set_active_subnet``.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu.budget import Deadline
from benchmarks.gpu.contenders import cache, eager, ours, ours_eager, prepared
from benchmarks.gpu.correctness import judged_by
from benchmarks.gpu.documents import NO_TIME, Document
from benchmarks.gpu.environment import timer
from benchmarks.gpu.gate import of_subnet
from benchmarks.gpu.nets import Subject, subject
from benchmarks.gpu.settings import Settings
from benchmarks.gpu.timing import State, Timer, summaries
from kernels.l2 import Policy
from kernels.residency import residency
from supernets import extract

STATES: tuple[State, ...] = ("as is", "evicted")
POLICIES: tuple[Policy, ...] = ("default", "actuation-prefetch")


def run(settings: Settings, document: Document, deadline: Deadline) -> None:
    """Three cells of each net: the host's part, the first answer after a switch, and memory."""
    parts: tuple[tuple[str, Callable[[Subject, Settings, Document], dict[str, Any]]], ...] = (
        ("after a switch", after_a_switch),
        ("on the host", on_the_host),
        ("memory", memory),
    )
    subjects = [subject(net, settings, theirs=True) for net in settings.nets]
    for kind, part in parts:
        for each in subjects:
            if document.has(kind=kind, net=each.name):
                continue
            if not deadline.allows(kind, 0.0 if settings.is_dry else 5.0):
                document.leave_out(f"{kind}: {each.name}", NO_TIME)
                continue
            start = deadline.left
            document.add({"kind": kind, "net": each.name, **part(each, settings, document)})
            deadline.took(kind, start - deadline.left)


def after_a_switch(each: Subject, settings: Settings, document: Document) -> dict[str, Any]:
    """One image: the middle subnet's answer after itself, and right after the largest's."""
    take, form = timer(settings), each.resident(settings)
    x32 = each.images(1, settings).to(settings.place)
    x = x32.to(settings.dtype)
    subnets = [each.subnets["mid"], each.subnets["max"]]
    known = {s: judged_by(each, s, x32, settings.dtype) for s in subnets}
    times: dict[str, dict[str, list[float]]] = {}
    for policy in POLICIES:
        with residency(policy, form.arena) as kept:
            graphs = cache(form, (1,), kept)
            mid, largest = (ours(form, graphs, subnet, x) for subnet in subnets)
            verdicts = [
                of_subnet(call(), *known[s])
                for call, s in zip((mid, largest), subnets, strict=True)
            ]
            wrong = [str(verdict) for verdict in verdicts if not verdict.passed]
            if wrong:
                document.refuse(f"{policy}: {each.name}", f"wrong, not timed: {wrong[0]}")
                continue
            if kept.reason and policy != "default":
                document.leave_out(f"{policy}: {each.name}", kept.reason)
                continue
            for name, before in (("after itself", mid), ("after another", largest)):
                times[f"{policy}, {name}"] = _after(take, before, mid, settings.rounds)
    return {"times": summaries(times)}


def _after(
    take: Timer, before: Callable[[], object], call: Callable[[], object], rounds: int
) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {str(state): [] for state in STATES}
    for _ in range(rounds):
        for state in STATES:
            before()
            found[state].append(take.sample(call, state))
    return found


def on_the_host(each: Subject, settings: Settings, document: Document) -> dict[str, Any]:
    """Seconds of the host: making a program, finding it, recording its graph, or doing without."""
    form = each.resident(settings)
    subnets = [*each.subnets.values(), *each.extra]
    size = (settings.side, settings.side)
    x = each.images(1, settings).to(settings.place, settings.dtype)
    times = {
        "make a program": [_seconds(lambda s=s: form.program(s, size)) for s in subnets],
        "find a program": [_seconds(lambda s=s: form.program(s, size)) for s in subnets * 5],
    }
    graphs = cache(form, (1,))
    calls = [ours(form, graphs, subnet, x) for subnet in subnets]
    for call in calls:
        call()
    for subnet in subnets:
        graphs.forget(subnet)
    times["record a graph"] = [_seconds(call, settings.place) for call in calls]
    loaded = [prepared(extract(each.net, s), x.cpu()) for s in each.subnets.values()]
    for name, pinned in (("load from memory", False), ("load from pinned memory", True)):
        if pinned and settings.is_dry:
            continue
        times[name] = list(_loading(loaded, settings, pinned=pinned))
    if each.theirs:
        theirs: Any = next(iter(each.theirs.values()))
        configs = [subnet.config() for subnet in subnets] * 5
        times["ofa set_active_subnet"] = [
            _seconds(lambda c=c: theirs.set_active_subnet(**c)) for c in configs
        ]
    else:
        document.leave_out(f"ofa set_active_subnet: {each.name}", each.reason)
    return {"times": summaries({name: {"host": samples} for name, samples in times.items()})}


def _loading(modules: Sequence[nn.Module], settings: Settings, *, pinned: bool) -> Iterable[float]:
    """Seconds until a subnet's own weights are on the device."""
    for module in modules:
        tensors = [t.detach() for t in (*module.parameters(), *module.buffers())]
        held = [t.pin_memory() for t in tensors] if pinned else tensors
        for _ in range(max(1, settings.rounds // 4)):
            yield _seconds(
                lambda held=held: [
                    t.to(settings.place, non_blocking=True, copy=True) for t in held
                ],  # type: ignore[misc]
                settings.place,
            )


def memory(each: Subject, settings: Settings, document: Document) -> dict[str, Any]:
    """Bytes: of the arena and what is in it, of graphs, of the subnets each on its own."""
    del document
    form = each.resident(settings)
    subnets = [*each.subnets.values(), *each.extra]
    batch = settings.batches[-1]
    x = each.images(batch, settings).to(settings.place, settings.dtype)
    graphs = cache(form, settings.batches)
    for count in settings.batches:
        for subnet in subnets:
            ours(form, graphs, subnet, x[:count].contiguous(memory_format=torch.channels_last))()
    modules = {subnet: prepared(extract(each.net, subnet), x) for subnet in subnets}
    mid = each.subnets["mid"]
    return {
        "subnets": len(subnets),
        "arena": form.memory().to_json(),
        "graphs": {"count": len(graphs), "bytes": graphs.nbytes},
        "extracted_bytes": sum(_bytes(module) for module in modules.values()),
        "peak_of_a_run": {
            "batch": batch,
            "ours": _peak(ours_eager(form, mid, x), settings),
            "extracted": _peak(eager(modules[mid], x), settings),
        },
    }


def _bytes(module: nn.Module) -> int:
    return sum(t.nbytes for t in (*module.parameters(), *module.buffers()))


def _peak(call: Callable[[], Tensor], settings: Settings) -> int | None:
    """Bytes of activations and scratch at once, beyond what was allocated before."""
    if settings.is_dry:
        return None
    call()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _seconds(call: Callable[[], object], device: torch.device | None = None) -> float:
    start = time.perf_counter()
    call()
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
