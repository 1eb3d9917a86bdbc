"""What the demonstration found: the table for people, the document for programs, the picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from loadtest.client import Load
from loadtest.demo_plan import Plan
from loadtest.plots import Series, plot_timeline
from loadtest.records import Header
from loadtest.report import MAX_LATENESS, Percentiles, Report, Window, summarise, timeline
from policies.types import Profile

WINDOWS = 60  # of a whole run, in the picture and the document
LAST = 1.0  # seconds of arrivals by which we say who answered at the end


@dataclass(frozen=True, slots=True)
class Served:
    """What was served, as far as it concerns the picture's caption and the document."""

    model: str
    workers: int
    device_type: str  # "emulated" stays visible everywhere
    profile: Profile


@dataclass(frozen=True, slots=True)
class RunResult:
    """One run under one policy. ``seconds`` is how long it lasted, if it was interrupted."""

    name: str
    policy: str
    seconds: float
    complete: bool
    report: Report
    windows: tuple[Window, ...]
    last_subnet: str | None
    connections: int
    connection_limit: int
    valid: bool

    @classmethod
    def of(
        cls, name: str, policy: str, load: Load, plan: Plan, *, interrupted: bool = False
    ) -> "RunResult | None":
        """None if it was interrupted before anything came back."""
        if not load.records:
            return None
        report = summarise(load.records)
        last = max(record.arrival for record in load.records)
        # An interrupted run ends with its last record: what came after is not known.
        seconds = min(last + 1e-6, plan.seconds) if interrupted else plan.seconds
        served = [r.subnet for r in load.records if r.subnet and r.arrival > seconds - LAST]
        return cls(
            name=name,
            policy=policy,
            seconds=seconds,
            complete=not interrupted,
            report=report,
            windows=timeline(load.records, plan.seconds / WINDOWS, seconds),
            last_subnet=max(set(served), key=served.count) if served else None,
            connections=load.connections,
            connection_limit=load.connection_limit,
            valid=report.trustworthy(plan.slo),
        )


def result_table(results: Sequence[RunResult], plan: Plan) -> Table:
    """One column per run, one row per measure."""
    table = Table(title=f"SLO {plan.slo * 1000:.0f} ms", title_justify="left")
    table.add_column("")
    for result in results:
        table.add_column(result.name, justify="right")
    reports = [result.report for result in results]
    rows: list[tuple[str, list[str]]] = [
        ("SLO attainment", [f"[bold]{100 * r.attainment:.2f} %[/]" for r in reports]),
        ("  by the server's clock", [_percent(r.server_attainment, 100) for r in reports]),
        ("mean serving accuracy", [f"[bold]{_percent(r.mean_accuracy)}[/]" for r in reports]),
        ("  answers that are right", [_percent(r.correctness) for r in reports]),
        ("effective accuracy", [_percent(r.effective_accuracy) for r in reports]),
        ("latency of answers, p50", [_ms(r.latency, "p50") for r in reports]),
        ("latency of answers, p99", [_ms(r.latency, "p99") for r in reports]),
        ("queries", [f"{r.queries:,}" for r in reports]),
        ("  answered late", [f"{r.late:,}" for r in reports]),
        ("  without a result", [f"{sum(r.dropped.values()):,}" for r in reports]),
        ("subnet at the end", [result.last_subnet or "-" for result in results]),
        ("sender late by, p99", [_ms(r.lateness, "p99") for r in reports]),
        ("verdict", [_verdict(result) for result in results]),
    ]
    for name, cells in rows:
        table.add_row(name, *cells)
    return table


def complaints(results: Sequence[RunResult], plan: Plan) -> list[str]:
    """Why runs do not count, for people."""
    limit = MAX_LATENESS * plan.slo
    found = []
    for result in results:
        if not result.valid:
            found.append(
                f"INVALID RUN ({result.name}): the load generator itself sent late, by "
                f"{_ms(result.report.lateness, 'p99')} at p99. Above {1000 * limit:.1f} ms, 5 % of "
                "the SLO, the numbers say more about this machine than about the server: close "
                "other programs, or choose a longer --slo-ms."
            )
        if result.connections == result.connection_limit:
            found.append(f"{result.name}: all {result.connection_limit} connections were in use.")
    return found


def document(
    results: Sequence[RunResult], plan: Plan, served: Served, header: Header
) -> dict[str, Any]:
    """Everything, ready for orjson; times in seconds, shares 0..1, accuracies in percent."""
    profile = served.profile
    return {
        "header": header,
        "valid": bool(results) and all(result.valid and result.complete for result in results),
        "model": served.model,
        "workers": served.workers,
        "device_type": served.device_type,
        "profile": [
            {
                "subnet": subnet,
                "accuracy": accuracy,
                "latencies": dict(zip(map(str, profile.batch_sizes), row, strict=True)),
            }
            for subnet, accuracy, row in zip(
                profile.subnets, profile.accuracies, profile.latencies, strict=True
            )
        ],
        "plan": plan,
        "runs": list(results),
    }


def draw(path: Path, results: Sequence[RunResult], plan: Plan, served: Served) -> None:
    """The picture of these runs, one or more; invalid or interrupted ones are named so."""
    burst = plan.phases[1]
    factor = burst.rate / plan.largest_capacity
    noun = "worker" if served.workers == 1 else "workers"
    plot_timeline(
        path,
        [Series(_label(result), result.windows) for result in results],
        title=f"A burst of {factor:.1f} times what the largest subnet can serve",
        subtitle=f"{served.model} on {served.workers} {noun} ({served.device_type}), "
        f"SLO {plan.slo * 1000:.0f} ms, open-loop Poisson arrivals",
        capacity=plan.largest_capacity,
        shaded=(burst.start, burst.start + burst.seconds),
    )


def _verdict(result: RunResult) -> str:
    flaws = _flaws(result)
    return f"[bold red]{', '.join(flaws)}[/]" if flaws else "[green]valid[/]"


def _label(result: RunResult) -> str:
    flaws = _flaws(result)
    return f"{result.name} ({', '.join(flaws)})" if flaws else result.name


def _flaws(result: RunResult) -> list[str]:
    flaws = [] if result.valid else ["INVALID"]
    if not result.complete:
        flaws.append(f"interrupted at {result.seconds:.0f} s")
    return flaws


def _percent(value: float | None, scale: float = 1.0) -> str:
    return "-" if value is None else f"{scale * value:.2f} %"


def _ms(percentiles: Percentiles | None, which: str) -> str:
    return "-" if percentiles is None else f"{1000 * getattr(percentiles, which):.1f} ms"
