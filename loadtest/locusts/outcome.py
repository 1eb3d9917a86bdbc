"""Whether a run counts, why not, and what it found, for people and for its records. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from loadtest.locusts.tally import Count, measured
from loadtest.records import Header, Record
from loadtest.report import MAX_LATENESS, Percentiles, Report, summarise

# Exit codes of Locust. Its own are 1 (errors among the requests, which are results here) and 2.
VALID = 0
REFUSED = 2  # the run was not begun
INVALID = 3
INTERRUPTED = 130  # as shells have it


@dataclass(frozen=True, slots=True)
class Outcome:
    header: Header
    records: tuple[Record, ...]
    report: Report | None  # None where nothing came back
    complaints: tuple[str, ...]  # why the run does not count; empty for a valid one
    interrupted: bool

    @property
    def valid(self) -> bool:
        return not self.complaints

    @property
    def exit_code(self) -> int:
        if self.interrupted:
            return INTERRUPTED
        return VALID if self.valid else INVALID


def complaints_about(
    records: tuple[Record, ...],
    slo: float,
    *,
    missing: int = 0,
    losses: tuple[str, ...] = (),
    interrupted: bool = False,
) -> tuple[str, ...]:
    """Why the run does not count. ``missing`` queries have no record."""
    found = ["it was interrupted"] if interrupted else []
    found += losses
    if missing:
        found.append(f"{missing} of {missing + len(records)} queries have no record")
    report = summarise(records) if records else None
    if report is not None and not report.trustworthy(slo):
        found.append(
            f"the load generator itself sent late, by {_ms(report.lateness, 'p99')} at p99; above "
            f"{1000 * MAX_LATENESS * slo:.1f} ms, {100 * MAX_LATENESS:g} % of the SLO, the numbers "
            "say more about its machine than about the server: more --processes, other machines, "
            "fewer other programs, or a longer SLO"
        )
    return tuple(found)


def conclusion(outcome: Outcome, connections: Mapping[str, int], limit: int) -> str:
    """The run in a few lines. ``connections`` are each worker's, ``limit`` what it may open."""
    config, report = outcome.header.config, outcome.report
    title = (
        f"{config['workload_label']}, SLO {1000 * config['slo']:g} ms, policy {config['policy']}, "
        f"model {config['model']}"
    )
    answers = Count()
    for record in outcome.records:
        answers.add(record)
    rows = _rows(report, answers) if report is not None else ["no records"]
    lines = [title, *rows]
    lines += [
        f"note: all {limit} connections of worker {client} were in use"
        for client, peak in connections.items()
        if peak >= limit
    ]
    verdict = "valid" if outcome.valid else "INVALID RUN: " + "; ".join(outcome.complaints)
    return "\n".join((*lines, f"{'verdict':<26}{verdict}"))


def _rows(report: Report, answers: Count) -> list[str]:
    dropped = ", ".join(f"{why} {count}" for why, count in sorted(report.dropped.items()))
    rows = [
        ("SLO attainment", _percent(report.attainment, 100)),
        ("  by the server's clock", _percent(report.server_attainment, 100)),
        ("served accuracy, profiled", _percent(report.mean_accuracy)),
        ("  measured on the answers", measured(answers)),
        ("effective accuracy", _percent(report.effective_accuracy)),
        ("latency p50, p99, max", _spread(report.latency)),
        ("queries", f"{report.queries}"),
        ("  answered late", f"{report.late}"),
        ("  without a result", f"{sum(report.dropped.values())}  {dropped}".rstrip()),
        ("lateness p50, p99, max", _spread(report.lateness)),
    ]
    return [f"{name:<26}{value}" for name, value in rows]


def _spread(found: Percentiles | None) -> str:
    return ", ".join(_ms(found, which) for which in ("p50", "p99", "max"))


def _ms(found: Percentiles | None, which: str) -> str:
    return "-" if found is None else f"{1000 * getattr(found, which):.1f} ms"


def _percent(value: float | None, scale: float = 1.0) -> str:
    return "-" if value is None else f"{scale * value:.2f} %"
