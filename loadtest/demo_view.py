"""The live picture of one run in the terminal: what arrives, what is served, what is missed."""

from collections import Counter, deque
from dataclasses import dataclass, field

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from loadtest.arrivals import Times
from loadtest.demo_plan import Plan
from loadtest.records import Record
from policies.types import Profile

CELLS = 40  # of a strip: the whole run, one character per window
LEVELS = "▁▂▃▄▅▆▇█"
BAR = 20  # characters of a full bar in the subnet mix
MIX_ROWS = 10  # with more subnets than these, only those that answer are listed
LOUD, FAIR, GOOD = "bold red", "yellow", "green"


@dataclass(slots=True)
class _Cell:
    """One window of the run: what became of the queries that arrived in it, as far as known."""

    answered: int = 0  # records, of whatever outcome
    met: int = 0
    accuracy: float = 0.0  # summed over those that met their deadline
    subnets: Counter[str] = field(default_factory=Counter)


class LiveView:
    """Counts records as they come and draws the state of one run.

    `add` may be called from the sender's thread: it only queues. Counting and drawing happen in
    `update` and `render`, so that the sender is never held up by them.
    """

    def __init__(self, name: str, plan: Plan, profile: Profile, arrivals: Times) -> None:
        self._name = name
        self._plan = plan
        self._profile = profile
        self._arrivals = arrivals
        self._width = plan.seconds / CELLS
        self._cells = [_Cell() for _ in range(CELLS)]
        self._fresh: deque[Record] = deque()
        self._dropped: Counter[str] = Counter()
        self._late = 0
        self._met = 0
        self._records = 0
        self._judged = 0
        self._right = 0

    def add(self, record: Record) -> None:
        self._fresh.append(record)

    def update(self) -> None:
        """Count what has come since the last time."""
        while self._fresh:
            self._count(self._fresh.popleft())

    def line(self, now: float, under_way: int) -> str:
        """The last second in one line, for where there is no terminal."""
        return (
            f"{self._name}: {min(now, self._plan.seconds):4.0f} s {self._plan.phase_at(now).name}, "
            f"{self._rate(now):.0f} queries/s, accuracy {self._accuracy(now)}, "
            f"SLO attainment {self._attainment(now)}, {under_way} under way"
        )

    def render(self, now: float, under_way: int) -> RenderableType:
        """``now`` is in seconds since the start of the run."""
        plan = self._plan
        now = min(now, plan.seconds)
        shown = self._cells[: min(int(now / self._width) + 1, CELLS)]
        ends = [min((i + 1) * self._width, now) for i in range(len(shown))]
        rates = [self._rate(end, self._width) for end in ends]
        ceiling = 1.2 * max(phase.rate for phase in plan.phases)
        strips = Table.grid(padding=(0, 2))
        strips.add_column()
        strips.add_column(min_width=CELLS, no_wrap=True)
        strips.add_column(justify="right", min_width=9)
        strips.add_row(
            "arrival rate",
            _strip([(rate / ceiling, _load_style(rate, plan)) for rate in rates]),
            f"{self._rate(now):.0f}/s",
        )
        strips.add_row(
            "accuracy served",
            _strip([self._accuracy_level(cell) for cell in shown]),
            self._accuracy(now),
        )
        strips.add_row(
            "SLO attainment",
            _strip([_attainment_level(cell) for cell in shown]),
            self._attainment(now),
        )
        strips.add_row("under way", "", f"{under_way}")
        return Panel(
            Group(strips, Text(), self._mix(now), Text(), self._counters()),
            title=f"{self._name}: {plan.phase_at(now).name}, {now:.0f} of {plan.seconds:.0f} s",
            subtitle=f"SLO {plan.slo * 1000:.0f} ms; the largest subnet can serve "
            f"{plan.largest_capacity:.0f}/s",
            title_align="left",
            subtitle_align="left",
            border_style="dim",
            padding=(1, 2),
            expand=False,
        )

    def _count(self, record: Record) -> None:
        cell = self._cells[min(int(record.arrival / self._width), CELLS - 1)]
        cell.answered += 1
        self._records += 1
        if record.subnet is not None:
            cell.subnets[record.subnet] += 1
        if record.correct is not None:
            self._judged += 1
            self._right += record.correct
        if record.met:
            cell.met += 1
            cell.accuracy += record.accuracy or 0.0
            self._met += 1
        elif record.finish is not None:
            self._late += 1
        else:
            self._dropped[record.dropped or "unknown"] += 1

    def _last_second(self, now: float) -> list[_Cell]:
        """At least one window, and none that has only just begun: hardly any answer is there."""
        end = max(int(now / self._width), 1)
        return self._cells[max(end - max(round(1.0 / self._width), 1), 0) : end]

    def _accuracy(self, now: float) -> str:
        last = self._last_second(now)
        met = sum(cell.met for cell in last)
        return f"{sum(cell.accuracy for cell in last) / met:.2f} %" if met else "-"

    def _attainment(self, now: float) -> str:
        last = self._last_second(now)
        answered = sum(cell.answered for cell in last)
        return f"{100 * sum(cell.met for cell in last) / answered:.1f} %" if answered else "-"

    def _rate(self, end: float, seconds: float = 1.0) -> float:
        """Arrivals per second of the schedule over the ``seconds`` before ``end``."""
        start = max(end - seconds, 0.0)
        first, last = self._arrivals.searchsorted([start, end])
        return float(last - first) / max(end - start, 1e-9)

    def _accuracy_level(self, cell: _Cell) -> tuple[float | None, str]:
        if not cell.met:
            return None, "dim"
        low, high = self._profile.accuracies[0], self._profile.accuracies[-1]
        return (cell.accuracy / cell.met - low) / max(high - low, 1e-9), "cyan"

    def _mix(self, now: float) -> Table:
        """Which subnets answered in the last second, most accurate first."""
        served: Counter[str] = Counter()
        for cell in self._last_second(now):
            served.update(cell.subnets)
        few = len(self._profile.subnets) <= MIX_ROWS
        table = Table.grid(padding=(0, 2))
        for subnet, accuracy in reversed(
            list(zip(self._profile.subnets, self._profile.accuracies, strict=True))
        ):
            share = served[subnet] / max(served.total(), 1)
            if not share and not few:
                continue
            bar = "█" * max(round(BAR * share), 1 if share else 0)
            percent = f"{100 * share:.0f} %" if share else ""
            table.add_row(f"{accuracy:.2f} %", subnet, Text(bar.ljust(BAR), "cyan"), percent)
        return table

    def _counters(self) -> Text:
        text = Text(f"{self._records:,} done: ")
        text.append(f"{self._met:,} met", GOOD)
        missed = {"late": self._late, **self._dropped}
        for name, count in missed.items():
            if count:
                text.append(f", {count:,} {name}", LOUD)
        if self._judged:
            text.append(f";  {100 * self._right / self._judged:.2f} % of the answers are right")
        return text


def _attainment_level(cell: _Cell) -> tuple[float | None, str]:
    if not cell.answered:
        return None, "dim"
    share = cell.met / cell.answered
    return share, GOOD if share >= 0.99 else FAIR if share >= 0.9 else LOUD


def _load_style(rate: float, plan: Plan) -> str:
    return "yellow" if rate > plan.largest_capacity else "blue"


def _strip(levels: list[tuple[float | None, str]]) -> Text:
    """One block per value of 0..1, higher for more; a dot where there is none."""
    text = Text()
    for value, style in levels:
        if value is None:
            text.append("·", "dim")
        else:
            step = min(max(int(value * len(LEVELS)), 0), len(LEVELS) - 1)
            text.append(LEVELS[step], style)
    return text
