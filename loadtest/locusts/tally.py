"""The numbers of a run while it goes on, for the web UI: one addition for each record. Pure."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from math import sqrt
from typing import Any

from loadtest.records import Record
from loadtest.report import Percentiles

WINDOW = 1.0  # seconds


@dataclass(slots=True)
class Count:
    """Some queries."""

    queries: int = 0
    met: int = 0
    accuracy: float = 0.0  # sum over those that met their deadline and know it
    known: int = 0  # how many those are
    judged: int = 0  # results whose first prediction could be compared with a label
    correct: int = 0
    expected: float = 0.0  # how many of the judged are right by their subnets' accuracies
    subnets: dict[str, int] = field(default_factory=lambda: defaultdict(int))  # results

    def add(self, record: Record) -> None:
        self.queries += 1
        if record.met:
            self.met += 1
            if record.accuracy is not None:
                self.accuracy += record.accuracy
                self.known += 1
        if record.correct is not None:
            self.judged += 1
            self.correct += record.correct
            self.expected += (record.accuracy or 0.0) / 100
        if record.finish is not None and record.subnet:
            self.subnets[record.subnet] += 1

    @property
    def attainment(self) -> float | None:
        """Percent; None where nothing arrived."""
        return 100 * self.met / self.queries if self.queries else None

    @property
    def profiled(self) -> float | None:
        """Mean accuracy, in percent, over the queries that met their deadline, by their subnets."""
        return self.accuracy / self.known if self.known else None

    @property
    def measured(self) -> float | None:
        """Percent of the labelled results that are right."""
        return 100 * self.correct / self.judged if self.judged else None

    @property
    def promised(self) -> float | None:
        """Percent of the same results that their subnets' accuracies promise."""
        return 100 * self.expected / self.judged if self.judged else None

    @property
    def error(self) -> float | None:
        """Of ``measured``: one standard error, in percentage points."""
        if not self.judged:
            return None
        share = self.correct / self.judged
        return 100 * sqrt(share * (1 - share) / self.judged)


class Tally:
    """A whole run, each second of it, and each subnet."""

    def __init__(self) -> None:
        self.whole = Count()
        self._windows: dict[int, Count] = defaultdict(Count)
        self._subnets: dict[str, Count] = defaultdict(Count)
        self._latencies: list[float] = []
        self._lateness: list[float] = []

    def add(self, record: Record) -> None:
        self.whole.add(record)
        self._windows[int(record.arrival / WINDOW)].add(record)
        if record.finish is not None and record.subnet:
            self._subnets[record.subnet].add(record)
        if record.latency is not None:
            self._latencies.append(record.latency)
        self._lateness.append(record.lateness)

    def table(self, slo: float, state: str) -> list[dict[str, Any]]:
        """One row, in words: the web UI sorts rows, so several measures are several columns."""
        whole = self.whole
        latency, lateness = Percentiles.of(self._latencies), Percentiles.of(self._lateness)
        return [
            {
                "name": state,
                "slo": f"{1000 * slo:g} ms",
                "queries": whole.queries,
                "attainment": _percent(whole.attainment),
                "profiled": _percent(whole.profiled),
                "measured": measured(whole),
                "median": _ms(latency, lambda p: p.p50),
                "slow": _ms(latency, lambda p: p.p99),
                "lateness": _ms(lateness, lambda p: p.p99),
            }
        ]

    def subnets(self) -> list[dict[str, Any]]:
        """One row for each subnet that answered; its share is of all answers."""
        answers = sum(count.queries for count in self._subnets.values())
        return [
            {
                "name": subnet,
                "answers": count.queries,
                "share": _percent(100 * count.queries / answers),
                "attainment": _percent(count.attainment),
                "profiled": _percent(count.profiled),
                "measured": measured(count),
            }
            for subnet, count in self._subnets.items()
        ]

    def timeline(self) -> list[dict[str, Any]]:
        """Each second from the first to the last: None where nothing arrived."""
        if not self._windows:
            return []
        empty = Count()
        counts = (self._windows.get(i, empty) for i in range(max(self._windows) + 1))
        return [
            {
                "rate": count.queries / WINDOW,
                "attainment": count.attainment,
                "profiled": count.profiled,
                "measured": count.measured,
                "subnets": dict(count.subnets),
            }
            for count in counts
        ]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} %"


def measured(count: Count) -> str:
    """Accuracy on the labelled answers, beside what was promised for the very same ones."""
    if count.measured is None:
        return "-"
    return (
        f"{count.measured:.2f} ± {count.error:.2f} % of {count.judged}, "
        f"where {count.promised:.2f} % is promised"
    )


def _ms(found: Percentiles | None, which: Callable[[Percentiles], float]) -> str:
    return "-" if found is None else f"{1000 * which(found):.1f} ms"
