"""What one cell of a comparison found, small enough to keep: a run, its timeline, the bounds."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import ceil, floor, log10
from typing import Any, Self

import numpy as np

from loadtest.compare.study import PENALTY
from loadtest.report import Percentiles
from loadtest.simulation_outcomes import Outcomes

WINDOWS = 60  # of a timeline, about
_DIGITS = 6  # significant ones of what a timeline keeps

Values = tuple[float, ...]  # nan where there is nothing to say


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One policy in one cell. Shares are 0..1, accuracies percent, times seconds.

    ``decision_median`` and ``decision_p99`` are the real time that one call of `choose` took, while
    other cells ran beside it; everything else depends on the study alone.
    """

    queries: int
    attainment: float
    mean_accuracy: float | None  # over the queries that met their deadline
    effective_accuracy: float
    utility: float  # a miss counts -`PENALTY`
    latency_p50: float | None  # of what was answered, also late
    latency_p99: float | None
    dropped: float  # share not answered at all
    late: float  # share answered after the deadline
    batches: int
    mean_batch: float | None
    decisions: int
    decision_median: float | None
    decision_p99: float | None

    @classmethod
    def of(cls, outcomes: Outcomes, decisions: Sequence[float]) -> Self:
        """``decisions`` are the seconds of each; ``ValueError`` if there are no queries."""
        latency = outcomes.latency
        answered = latency[~np.isnan(latency)]
        spread = Percentiles.of(answered)
        cost = Percentiles.of(decisions)
        return cls(
            queries=len(outcomes),
            attainment=outcomes.attainment,
            mean_accuracy=outcomes.mean_accuracy,
            effective_accuracy=outcomes.effective_accuracy,
            utility=outcomes.utility(PENALTY),
            latency_p50=None if spread is None else spread.p50,
            latency_p99=None if spread is None else spread.p99,
            dropped=1.0 - len(answered) / len(outcomes),
            late=float(np.mean(outcomes.finish > outcomes.deadline)),
            batches=len(outcomes.dispatches),
            mean_batch=outcomes.mean_batch,
            decisions=len(decisions),
            decision_median=None if cost is None else cost.p50,
            decision_p99=None if cost is None else cost.p99,
        )


@dataclass(frozen=True, slots=True)
class BoundSummary:
    """What no policy can exceed in a cell; see `policies.bounds`.

    ``utility`` is the price bound; ``fluid_accuracy`` is None where not all can be served in time.
    """

    utility: float
    fluid_utility: float
    fluid_accuracy: float | None


@dataclass(frozen=True, slots=True)
class Timeline:
    """A run in windows of ``window`` seconds by time of arrival; nan in an empty one.

    ``slack`` (seconds) is what the most urgent query of a batch had left when the batch started,
    the mean over the batches decided in the window, as is ``batch``, the number of queries.
    """

    window: float
    rate: Values  # queries per second
    attainment: Values
    accuracy: Values  # percent, over the queries that met their deadline
    batch: Values
    slack: Values

    @classmethod
    def of(cls, outcomes: Outcomes) -> Self:
        window = nice_window(float(outcomes.arrival[-1]) if len(outcomes) else 0.0)
        series = outcomes.series(window)
        count = len(series.start)
        dispatches = outcomes.dispatches
        made = dispatches.decided < count * window
        place = (dispatches.decided[made] / window).astype(np.int64)
        slack = np.bincount(place, dispatches.slack[made], minlength=count)
        with np.errstate(invalid="ignore"):  # 0 / 0 is the nan of an empty window
            mean_slack = slack / np.bincount(place, minlength=count)
        return cls(
            window,
            _short(series.rate),
            _short(series.attainment),
            _short(series.mean_accuracy),
            _short(series.mean_batch),
            _short(mean_slack),
        )

    @classmethod
    def read(cls, document: dict[str, Any]) -> Self:
        """From JSON, which has null for nan."""
        values = {
            field.name: tuple(float("nan") if v is None else v for v in document[field.name])
            for field in fields(cls)
            if field.name != "window"
        }
        return cls(window=document["window"], **values)


def nice_window(seconds: float) -> float:
    """1, 2 or 5 times a power of ten, so that ``seconds`` make at most about `WINDOWS`."""
    least = max(seconds, 1e-3) / WINDOWS
    power = 10.0 ** floor(log10(least))
    return next(step * power for step in (1.0, 2.0, 5.0, 10.0) if ceil(least / power) <= step)


def _short(values: Any) -> Values:
    return tuple(float(f"{value:.{_DIGITS}g}") for value in values.tolist())
