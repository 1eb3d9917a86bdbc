"""What the policies for L2 are worth: one subnet again and again, and many in turn.

Each policy against "default", which does nothing, in blocks that alternate within one run: the
set-aside is a limit of the whole device, so only one policy can stand at a time. "evicted" has
other data go through L2 before each call, which is what a policy is meant to withstand; "cold" has
nothing in L2, where no policy can help.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor

from benchmarks.gpu.budget import Deadline
from benchmarks.gpu.contenders import cache, ours
from benchmarks.gpu.correctness import judged_by
from benchmarks.gpu.documents import NO_TIME, Document
from benchmarks.gpu.environment import timer
from benchmarks.gpu.gate import of_subnet
from benchmarks.gpu.nets import Subject, subject
from benchmarks.gpu.settings import Settings
from benchmarks.gpu.timing import State, Timer, ratios, summaries
from kernels.graphs import GraphCache
from kernels.l2 import Policy
from kernels.residency import Residency, residency
from supernets.resident_programs import ResidentPrograms
from supernets.space import Subnet

DEFAULT: Policy = "default"
POLICIES: tuple[Policy, ...] = get_args(Policy)
BLOCKS = 3
# What is timed: (name, which calls, state). A cycle goes through all subnets once.
MEASURES: tuple[tuple[str, str, State], ...] = (
    ("same, warm", "same", "warm"),
    ("same, evicted", "same", "evicted"),
    ("same, cold", "same", "cold"),
    ("interleaved", "cycle", "warm"),
)


def run(settings: Settings, document: Document, deadline: Deadline) -> None:
    """The larger arenas first: there a policy can matter."""
    for net in reversed(settings.nets):
        each = subject(net, settings)
        form = each.resident(settings)
        for batch in settings.batches:
            what = f"{net}, batch {batch}"
            if document.has(net=net, batch=batch):
                continue
            if not deadline.allows("cell", 0.0 if settings.is_dry else 8.0):
                document.leave_out(what, NO_TIME)
                continue
            start = deadline.left
            document.add(compare(each, form, batch, settings, document))
            deadline.took("cell", start - deadline.left)


@dataclass(frozen=True, slots=True)
class _Contender:
    policy: Policy
    residency: Residency
    graphs: GraphCache
    same: Callable[[], object]
    cycle: Callable[[], object]


def compare(
    each: Subject, form: ResidentPrograms, batch: int, settings: Settings, document: Document
) -> dict[str, Any]:
    """One cell: all policies that do something here, whose answers are right."""
    x32 = each.images(batch, settings).to(settings.place)
    x = x32.to(settings.dtype)
    subnets = [*each.subnets.values(), *each.extra]
    contenders = []
    wanted = {s: judged_by(each, s, x32, settings.dtype) for s in each.subnets.values()}
    for policy in POLICIES:
        made = contender(policy, form, subnets, each.subnets["mid"], x)
        what = f"policy {policy}: {each.name}, batch {batch}"
        with made.residency:
            wrong = _wrong(made, form, wanted, x)
            made.cycle()  # every graph is recorded under its policy
            reason = made.residency.reason
        if wrong:
            document.refuse(what, wrong)
        elif reason and policy != DEFAULT:
            document.leave_out(what, reason)
        else:
            contenders.append(made)
    times = in_blocks(contenders, settings, timer(settings))
    for made in contenders:
        for subnet in subnets:
            made.graphs.forget(subnet)
    return {
        "net": each.name,
        "batch": batch,
        "subnets_in_turn": len(subnets),
        "arena_bytes": form.arena.nbytes,
        "times": summaries(times),
        "times_default": ratios(times, DEFAULT),
    }


def contender(
    policy: Policy,
    form: ResidentPrograms,
    subnets: Sequence[Subnet],
    same: Subnet,
    x: Tensor,
) -> _Contender:
    """A policy with graphs of its own, which are recorded at the first calls."""
    made = residency(policy, form.arena)
    graphs = cache(form, (len(x),), made)
    calls = {subnet: ours(form, graphs, subnet, x) for subnet in subnets}

    def cycle() -> None:
        for call in calls.values():
            call()

    return _Contender(policy, made, graphs, calls[same], cycle)


def in_blocks(
    contenders: Sequence[_Contender], settings: Settings, take: Timer
) -> dict[str, dict[str, list[float]]]:
    """Seconds by policy and measure. The order turns from block to block."""
    times = {c.policy: {name: list[float]() for name, _, _ in MEASURES} for c in contenders}
    rounds = max(1, settings.rounds // BLOCKS)
    for block in range(BLOCKS):
        turn = block % max(1, len(contenders))
        for each in [*contenders[turn:], *contenders[:turn]]:
            with each.residency:
                for name, which, state in MEASURES:
                    call = each.same if which == "same" else each.cycle
                    call()
                    times[each.policy][name] += [take.sample(call, state) for _ in range(rounds)]
    return {str(policy): measured for policy, measured in times.items()}


def _wrong(
    made: _Contender,
    form: ResidentPrograms,
    wanted: dict[Subnet, tuple[Tensor, torch.dtype, float | None]],
    x: Tensor,
) -> str:
    """Why this policy's answers are not right; empty where they are."""
    for subnet, known in wanted.items():
        verdict = of_subnet(ours(form, made.graphs, subnet, x)(), *known)
        if not verdict.passed:
            return f"wrong, not timed: {verdict}"
    return ""
