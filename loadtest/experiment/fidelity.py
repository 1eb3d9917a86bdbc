"""How true the simulator is: each policy in each setting, live beside simulated. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from loadtest.compare.results import Results
from loadtest.compare.study import Cell, Setting
from loadtest.compare.summary import RunSummary


@dataclass(frozen=True, slots=True)
class Pair:
    """One configuration: a policy in a setting, means over the seeds that both sides have.

    Attainments and accuracies in percent, latencies in seconds.
    """

    setting: Setting
    policy: str
    seeds: int
    attainment: tuple[float, float]  # live, simulated
    accuracy: tuple[float, float] | None  # None where a side met no deadline
    latency_p50: tuple[float, float] | None
    latency_p99: tuple[float, float] | None
    mean_batch: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Error:
    """Absolute differences over the configurations."""

    mean: float
    worst: float
    bias: float  # live less simulated, on average
    count: int


def pairs(live: Results, simulated: Results) -> tuple[Pair, ...]:
    """Those that were run on both sides; peers and rejected runs have no other side."""
    study = simulated.prepared.study
    found = []
    for setting in study.settings():
        for policy in study.policies:
            cells = [
                cell
                for seed in study.seeds
                if (cell := Cell(setting, seed, policy.label)) in live.runs
                and cell in simulated.runs
            ]
            if cells:
                found.append(_pair(cells, live.runs, simulated.runs))
    return tuple(found)


def error(values: Sequence[tuple[float, float] | None]) -> Error | None:
    """Of pairs (live, simulated); None without any."""
    differences = [pair[0] - pair[1] for pair in values if pair is not None]
    if not differences:
        return None
    sizes = [abs(difference) for difference in differences]
    count = len(sizes)
    return Error(sum(sizes) / count, max(sizes), sum(differences) / count, count)


def _pair(
    cells: Sequence[Cell], live: Mapping[Cell, RunSummary], simulated: Mapping[Cell, RunSummary]
) -> Pair:
    sides = [live[cell] for cell in cells], [simulated[cell] for cell in cells]

    def both(name: str) -> tuple[float, float] | None:
        means = [_mean([getattr(run, name) for run in side]) for side in sides]
        return None if means[0] is None or means[1] is None else (means[0], means[1])

    attainment = both("attainment")
    assert attainment is not None
    setting, policy = cells[0].setting, cells[0].policy or ""
    return Pair(
        setting,
        policy,
        len(cells),
        (100 * attainment[0], 100 * attainment[1]),
        both("mean_accuracy"),
        both("latency_p50"),
        both("latency_p99"),
        both("mean_batch"),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None
