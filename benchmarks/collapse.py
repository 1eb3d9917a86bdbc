"""Why does SlackFit collapse, what else does, and what does not? See docs/collapse.md.

``python -m benchmarks.collapse``: the throughput that each policy has at each slack of the head,
read off its decisions; a load that rises slowly and falls again; the same load before and after a
short shock. Simulated in virtual time on the paper's profile; one seed gives one result.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from benchmarks.common import RESULTS, header, show, write
from loadtest.arrivals import linear, phases
from loadtest.paper_profile import PAPER_PROFILE
from loadtest.simulate import simulate_arrays
from loadtest.simulation_outcomes import Outcomes
from policies.dualfit import DualFit
from policies.infaas import INFaaS
from policies.maxbatch import MaxBatch
from policies.nexus import EarlyDrop
from policies.pacefit import PaceFit
from policies.slackfit import SlackFit
from policies.types import Choice, Policy, Profile, QueueView, Waiting

Floats = npt.NDArray[np.float64]
Make = Callable[[Profile], Policy]
Row = dict[str, Any]

SLO, WORKERS = 0.036, 8
ALONE = PAPER_PROFILE.latencies[0][0]  # seconds of the smallest subnet for one query
FLOOR = WORKERS / ALONE  # queries/s where no slack is left
PEAK = WORKERS * PAPER_PROFILE.peak_rate
LOAD, HEAVY = 10_000.0, 12_000.0  # queries/s: 57 and 69 percent of the peak
BEFORE, TAIL = 0.3, 0.05  # seconds; the tail is left out, for there the load ends
RAMP = (8_000.0, 19_000.0, 3.2)  # queries/s from and to, seconds either way
PICTURE = Path(__file__).parents[1] / "docs" / "collapse.png"


def slackfit(buckets: int, reading: Literal["a5", "s42"] = "a5", *, aware: bool = False) -> Make:
    return partial(SlackFit, buckets=buckets, reading=reading, queue_aware=aware)


GREEDY: dict[str, Make] = {  # the slack of the head decides, and nothing is given up
    "SlackFit A.5, K=4 (default)": slackfit(4),
    "SlackFit A.5, K=8": slackfit(8),
    "SlackFit A.5, K=16": slackfit(16),
    "SlackFit A.5, K=64": slackfit(64),
    "SlackFit A.5, K=64, queue-aware": slackfit(64, aware=True),
    "SlackFit §4.2, K=16": slackfit(16, "s42"),
    "SlackFit §4.2, K=64": slackfit(64, "s42"),
    "MaxBatch": MaxBatch,
}
OTHERS: dict[str, Make] = {
    "early drop + SlackFit A.5, K=4": partial(EarlyDrop, inner=slackfit(4)),
    "early drop + SlackFit A.5, K=64": partial(EarlyDrop, inner=slackfit(64)),
    "early drop + MaxBatch": partial(EarlyDrop, inner=MaxBatch),
    "PaceFit": PaceFit,
    "DualFit": DualFit,
    "early drop + DualFit": partial(EarlyDrop, inner=DualFit),
    "smallest subnet alone": INFaaS,
}
CONTENDERS = GREEDY | OTHERS


@dataclass(frozen=True, slots=True)
class Burst:
    """Another load (queries/s) for some seconds."""

    load: float
    seconds: float = 0.05

    @property
    def end(self) -> float:
        return BEFORE + self.seconds

    def arrivals(self, load: float, after: float, seed: int, cv2: float = 1.0) -> Floats:
        steps = [(BEFORE, load), (self.seconds, self.load), (after, load)]
        return phases(steps, seed, cv2=cv2)


SERVABLE = Burst(20_000)  # 129 queries above the peak: 7.4 ms of slack
OVERLOAD = Burst(30_000)  # 629 above it, where the SLO leaves room for 627


@dataclass(frozen=True, slots=True)
class Map:
    """Throughput (queries/s of all workers, in time) by slack of the head (seconds), at a load."""

    load: float
    slack: Floats
    throughput: Floats

    @classmethod
    def of(cls, policy: Policy, load: float) -> "Map":
        """What the policy chooses for the queue of a steady state: all that came in the last
        ``SLO - slack`` seconds, evenly. From just above no slack to just below an empty queue.
        """
        queue = tuple(Waiting(number / load) for number in range(int(load * SLO) + 1))
        slack = np.arange(1.1 * ALONE, SLO - 2 * PAPER_PROFILE.max_batch / load, 2e-5)
        rates = []
        for left in slack.tolist():
            waiting = queue[: int(load * (SLO - left)) + 1]
            view = QueueView(waiting, arrival_rate=load, capacity=float(WORKERS), slo=SLO)
            rates.append(_rate(policy, view, -left))
        return cls(load, slack, np.array(rates))

    @property
    def healthy(self) -> float:
        """The largest slack that the load does not eat: where an idle system comes to rest."""
        return float(self.slack[self.throughput >= self.load][-1])

    @property
    def lost(self) -> float:
        """The largest slack below the healthy one that the load eats; 0 if it eats none."""
        eaten = self.slack[(self.throughput < self.load) & (self.slack < self.healthy)]
        return float(eaten[-1]) if len(eaten) else 0.0


def _rate(policy: Policy, view: QueueView, now: float) -> float:
    choice = policy.choose(view, now)
    assert isinstance(choice, Choice)
    queries = view.waiting[choice.shed : choice.shed + choice.batch_size]
    seconds = PAPER_PROFILE.latency(choice.subnet, len(queries))
    return WORKERS * sum(query.deadline >= now + seconds for query in queries) / seconds


def attained(run: Outcomes, begin: float, end: float) -> float:
    """The share that met the SLO, percent, of what came in these seconds."""
    these = (run.arrival >= begin) & (run.arrival < end)
    return 100.0 * float(np.mean(run.finish[these] <= run.arrival[these] + SLO + 1e-12))


def around(
    burst: Burst, make: Make, load: float, seed: int, *, after: float = 0.9, drop: bool = True
) -> Outcomes:
    """``load`` before the burst and for ``after`` seconds behind it. Without ``drop`` nothing is
    given up: the deadlines are put off a hundredfold, and all but the SLO is kept from the policy.
    """
    hidden = 0.0 if drop else 0.99
    arrivals = burst.arrivals(load, after, seed)
    slo = SLO / (1 - hidden)
    return simulate_arrays(arrivals, slo, PAPER_PROFILE, make, WORKERS, seed, reserve=hidden)


def long_after(name: str, seed: int) -> Row:
    """Attainment (percent) before a burst and from 0.4 s on after it, mean over some streams."""

    def shares(burst: Burst, streams: int, *, drop: bool = True) -> tuple[float, float]:
        seeds = range(seed, seed + streams)
        runs = [around(burst, CONTENDERS[name], HEAVY, each, drop=drop) for each in seeds]
        after = (burst.end + 0.4, burst.end + 0.9 - TAIL)
        return _mean(runs, 2 * SLO, BEFORE), _mean(runs, *after)

    before, servable = shares(SERVABLE, 3)
    return {
        "policy": name,
        "before": before,
        "after a servable burst": servable,
        "after an overload": shares(OVERLOAD, 2)[1],
        "servable, late ones kept": shares(SERVABLE, 2, drop=False)[1] if name in GREEDY else None,
    }


def streams(name: str, seed: int) -> Row:
    """Of six streams of arrivals with a servable burst, how many leave the policy trapped?"""
    row: Row = {"policy": name}
    end = SERVABLE.end
    for load in (12_000, 14_000, 16_000):
        runs = [around(SERVABLE, CONTENDERS[name], load, seed + i, after=0.5) for i in range(6)]
        after = [attained(run, end + 0.25, end + 0.5 - TAIL) for run in runs]
        row[f"{load}: burst"] = _mean(runs, BEFORE, end + SLO)
        row[f"{load}: after"] = float(np.mean(after))
        row[f"{load}: trapped"] = sum(share < 90 for share in after)
    return row


def _mean(runs: list[Outcomes], begin: float, end: float) -> float:
    return float(np.mean([attained(run, begin, end) for run in runs]))


def fleets(name: str, seed: int) -> Row:
    """Attainment (percent) after an overload, by evenness of arrivals and size of the fleet: the
    more even and the larger, the closer to the continuous model, which says `FLOOR` / load.
    """
    load = 9_000.0
    row: Row = {"policy": name, "model": 100 * FLOOR / load}
    for cv2, scale in ((0.0, 1), (1.0, 1), (1.0, 4)):
        over = Burst(scale * OVERLOAD.load)
        arrivals = over.arrivals(scale * load, 0.4, seed, cv2)
        run = simulate_arrays(arrivals, SLO, PAPER_PROFILE, CONTENDERS[name], scale * WORKERS, seed)
        kind = "Poisson" if cv2 else "even"
        row[f"{kind}, {scale * WORKERS} workers"] = attained(run, over.end + 0.15, over.end + 0.35)
    return row


def ramp(make: Make, seed: int) -> dict[str, Floats]:
    """Attainment (percent) while the load (queries/s) rises slowly beyond the peak, and falls."""
    low, high, seconds = RAMP
    knots = [(0.0, low), (seconds, high), (2 * seconds, low)]
    run = simulate_arrays(linear(knots, seed), SLO, PAPER_PROFILE, make, WORKERS, seed)
    series = run.series(0.1, 2 * seconds)
    half = len(series.start) // 2
    middle = series.start[:half] + series.seconds[:half] / 2
    shares = 100 * series.attainment
    load = low + (high - low) * middle / seconds
    return {"load": load, "rising": shares[:half], "falling": shares[half:][::-1]}


def mapped(name: str, seed: int) -> tuple[Row, dict[str, Floats]]:
    """The map at the heavy load, and the loads at which the policy collapses and recovers."""
    found = Map.of(CONTENDERS[name](PAPER_PROFILE), HEAVY)
    loop = ramp(CONTENDERS[name], seed)
    down = loop["load"][loop["rising"] < 90]
    still = loop["load"][loop["falling"] < 90]
    row = {
        "policy": name,
        "served without slack, /s": round(found.throughput[0]),
        "healthy slack, ms": 1e3 * found.healthy,
        "lost below, ms": 1e3 * found.lost,
        "between, batches": (found.healthy - found.lost) * HEAVY / PAPER_PROFILE.max_batch,
        "rising: below 90 % from, /s": round(down[0]) if len(down) else None,
        "falling: below 90 % until, /s": round(still[0]) if len(still) else None,
    }
    return row, loop


# Okabe and Ito's palette, as in `loadtest.plots`; thicker lines lie below, so that all show.
DRAWN: dict[str, tuple[str, Any, float]] = {  # colour, line style, width
    "SlackFit A.5, K=64": ("#CC79A7", "-", 1.4),
    "SlackFit A.5, K=4 (default)": ("#D55E00", (0, (4, 1.5)), 2.4),
    "early drop + SlackFit A.5, K=4": ("#009E73", (0, (1, 1)), 3.6),
    "DualFit": ("#0072B2", "-", 2.0),
}
INK, MUTED = "#222222", "#666666"
LEADER = {"arrowstyle": "-", "color": MUTED, "shrinkB": 5}


def draw(path: Path, loops: dict[str, dict[str, Floats]], seed: int) -> None:
    figure = Figure(figsize=(9.0, 10.6), layout=ConstrainedLayoutEngine(h_pad=0.08, hspace=0.05))
    field, timeline, loop = figure.subplots(3, height_ratios=(1.25, 1.0, 1.0))
    for name, (color, line, width) in DRAWN.items():
        style = {"color": color, "linestyle": line, "linewidth": width, "zorder": 9 - width}
        found = Map.of(CONTENDERS[name](PAPER_PROFILE), LOAD)
        field.plot(1e3 * found.slack, found.throughput / 1e3, **style)
        run = around(SERVABLE, CONTENDERS[name], LOAD, seed).series(0.025)
        middle = 1e3 * (run.start + run.seconds / 2 - BEFORE)
        timeline.plot(middle, 100 * run.attainment, label=name, **style)
        for way in ("rising ↓", "falling ↑"):
            load, shares = loops[name]["load"] / 1e3, loops[name][way[:-2]]
            loop.plot(load, shares, **style)
            if name in GREEDY and np.any(shares < 90):
                first = int(np.argmax(shares < 90))
                near = [first, max(first - 1, 0)]  # the share ascends backwards
                at = float(np.interp(82, shares[near], load[near]))
                loop.annotate(way, (at, 82), xytext=(-4, 0), textcoords="offset points",
                              ha="right", va="center", fontsize=9, color=color)  # fmt: skip
    _annotate(field, timeline, loop)
    for axes in (field, timeline, loop):
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(MUTED)
        axes.tick_params(colors=MUTED)
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
    figure.legend(*timeline.get_legend_handles_labels(), loc="outside upper center", ncols=4,
                  frameon=False, labelcolor=INK, fontsize=9.5, handlelength=3.2)  # fmt: skip
    figure.savefig(path, dpi=160, facecolor="white")


def _annotate(field: Axes, timeline: Axes, loop: Axes) -> None:
    share, load = "SLO attainment (%)", LOAD / 1e3
    _name(field, f"a  What a policy serves at each slack, under a steady {LOAD:,.0f} queries/s",
          "Slack of the most urgent query (ms)", "Throughput (1,000 queries/s)")  # fmt: skip
    _name(timeline, f"b  {LOAD:,.0f} queries/s before and after 50 ms of {SERVABLE.load:,.0f}, "
          "which the smallest subnet serves without a miss",
          "Time since the burst began (ms)", share)  # fmt: skip
    _name(loop, f"c  The load rises slowly beyond the peak, {PEAK:,.0f} queries/s, and falls again",
          "Load (1,000 queries/s)", share)  # fmt: skip
    field.axhspan(0, load, color="#f7f1e1", linewidth=0, zorder=0)
    field.axhline(load, color=INK, linewidth=1.2, linestyle=(0, (5, 3)), zorder=1)
    field.plot([1e3 * ALONE, 14.26], [FLOOR / 1e3, load], "o", color=INK, markersize=8, zorder=12)
    for axes, at, place, text in (
        (field, None, (24.0, 10.35), "more than the load: slack grows"),
        (field, None, (24.0, 7.35), "less: slack is eaten"),
        (field, (14.26, load), (16.4, 13.2), "healthy"),
        (field, (1e3 * ALONE, FLOOR / 1e3), (2.4, 1.7), "collapsed: one query a batch"),
        (field, (7.3, 4.7), (8.4, 4.2), "holes: a small batch\nof a larger subnet"),
        (loop, (16.0, 100 * FLOOR / 16e3), (14.6, 14.0), f"model: {FLOOR:,.0f} / load"),
    ):  # fmt: skip
        axes.annotate(text, at or place, xytext=place, fontsize=9, color=INK,
                      arrowprops=LEADER if at else None)  # fmt: skip
    loads = np.linspace(FLOOR / 1e3, RAMP[1] / 1e3)
    loop.plot(loads, FLOOR / 10 / loads, color=INK, linewidth=1.0, linestyle=":", zorder=12)
    timeline.axvspan(0, 1e3 * SERVABLE.seconds, color="#c4cad4", linewidth=0, zorder=0)
    field.set(xlim=(0, 32.8), ylim=(0, 19))
    timeline.set(xlim=(-150, 900), ylim=(0, 106))
    loop.set(xlim=(RAMP[0] / 1e3 - 1, RAMP[1] / 1e3), ylim=(0, 106))


def _name(axes: Axes, title: str, across: str, up: str) -> None:
    axes.set_title(title, loc="left", fontsize=10.5, color=INK)
    axes.set_xlabel(across, color=INK)
    axes.set_ylabel(up, color=INK)


def main() -> None:
    parser = argparse.ArgumentParser(description="Metastable collapse, simulated.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the JSON file")
    parser.add_argument("--picture", type=Path, default=PICTURE)
    options = parser.parse_args()
    seed = options.seed
    tables: dict[str, list[Row]] = {"map": [], "bursts": [], "streams": [], "fleets": []}
    loops = {}
    for name in CONTENDERS:
        row, loops[name] = mapped(name, seed)
        tables["map"].append(row)
        tables["bursts"].append(long_after(name, seed))
    for name in OTHERS:
        if "K=64" not in name and "MaxBatch" not in name:
            tables["streams"].append(streams(name, seed))
    for name in ("SlackFit A.5, K=4 (default)", "SlackFit A.5, K=64", "MaxBatch"):
        tables["fleets"].append(fleets(name, seed))
    titles = {
        "map": f"The map at {HEAVY:,.0f} queries/s, and a ramp up and down",
        "bursts": f"Attainment (%) at {HEAVY:,.0f} queries/s before and long after a burst",
        "streams": "Attainment (%) in and after a burst that could be served, over 6 streams",
        "fleets": "Attainment (%) at 9,000 queries/s per 8 workers, long after an overload",
    }
    for key, rows in tables.items():
        cells = [["-" if cell is None else cell for cell in row.values()] for row in rows]
        show(titles[key], list(rows[0]), cells)
    draw(options.picture, loops, seed)
    document = {
        **header(seed, how="simulated in virtual time, not measured"),
        "slo": SLO, "workers": WORKERS, "floor": FLOOR, "peak": PEAK, "load": LOAD, "heavy": HEAVY,
        **tables,
        "ramps": {name: {k: v.tolist() for k, v in loops[name].items()} for name in DRAWN},
    }  # fmt: skip
    print(write("collapse-simulated", document, options.output), options.picture)


if __name__ == "__main__":
    main()
