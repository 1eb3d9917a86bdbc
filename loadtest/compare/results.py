"""What a study found: for each policy in each setting, means over seeds with their intervals."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import nan, sqrt
from typing import Self

from scipy.special import stdtrit

from loadtest.compare.cells import Finished
from loadtest.compare.store import Provenance
from loadtest.compare.study import Cell, Prepared, Setting
from loadtest.compare.summary import BoundSummary, RunSummary, Timeline

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over seeds. The true one lies within ``half`` of it with 95 % confidence.

    By Student's t, as if the seeds were independent draws of a normal; nan for a single value.
    """

    mean: float
    half: float
    least: float
    most: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Self | None:
        """Of those that are there; None without any."""
        known = [value for value in values if value is not None]
        if not known:
            return None
        count = len(known)
        mean = sum(known) / count
        half = nan
        if count > 1:
            variance = sum((value - mean) ** 2 for value in known) / (count - 1)
            half = float(stdtrit(count - 1, 0.5 + CONFIDENCE / 2)) * sqrt(variance / count)
        return cls(mean, half, min(known), max(known), count)


@dataclass(frozen=True, slots=True)
class Row:
    """One policy in one setting, over the seeds; units as in `RunSummary`.

    ``gap`` is how far the utility stays below the bound of the same seed.
    """

    policy: str
    attainment: Interval
    mean_accuracy: Interval | None
    effective_accuracy: Interval
    utility: Interval
    gap: Interval | None
    latency_p50: Interval | None
    latency_p99: Interval | None
    dropped: Interval
    late: Interval
    mean_batch: Interval | None
    batches: Interval
    decisions: Interval
    decision_median: Interval | None
    decision_p99: Interval | None


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The bounds in one setting, over the seeds."""

    utility: Interval
    fluid_utility: Interval
    fluid_accuracy: Interval | None


@dataclass(frozen=True, slots=True)
class Results:
    """A study and its finished cells; a study that was cut short has fewer than it should."""

    prepared: Prepared
    runs: Mapping[Cell, RunSummary]
    bounds: Mapping[Cell, BoundSummary]
    timelines: Mapping[Cell, Timeline]
    provenance: tuple[Provenance, ...]

    @classmethod
    def of(
        cls, prepared: Prepared, finished: Iterable[Finished], provenance: Sequence[Provenance]
    ) -> Self:
        # In the study's order: which cell finished first must not show.
        by_cell = {each.cell: each for each in finished}
        ordered = [by_cell[cell] for cell in prepared.study.cells() if cell in by_cell]
        return cls(
            prepared,
            {each.cell: each.run for each in ordered if each.run is not None},
            {each.cell: each.bound for each in ordered if each.bound is not None},
            {each.cell: each.timeline for each in ordered if each.timeline is not None},
            tuple(provenance),
        )

    def rows(self, setting: Setting) -> list[Row]:
        """In the order of the study's policies; those without a finished run are left out."""
        labels = [policy.label for policy in self.prepared.study.policies]
        return [row for label in labels if (row := self._row(setting, label)) is not None]

    def ceiling(self, setting: Setting) -> Ceiling | None:
        """None where the study wanted no bounds."""
        found = [bound for cell, bound in self.bounds.items() if cell.setting == setting]
        utility = Interval.of(bound.utility for bound in found)
        fluid = Interval.of(bound.fluid_utility for bound in found)
        if utility is None or fluid is None:
            return None
        return Ceiling(utility, fluid, Interval.of(bound.fluid_accuracy for bound in found))

    def queries(self, setting: Setting) -> list[int]:
        """How many there were, by seed."""
        found = {c.seed: run.queries for c, run in self.runs.items() if c.setting == setting}
        return list(found.values())

    def _row(self, setting: Setting, label: str) -> Row | None:
        runs = {
            cell.seed: run
            for cell, run in self.runs.items()
            if cell.setting == setting and cell.policy == label
        }
        if not runs:
            return None
        gaps = [
            bound.utility - run.utility
            for seed, run in runs.items()
            if (bound := self.bounds.get(Cell(setting, seed))) is not None
        ]

        def over(name: str) -> Interval | None:
            return Interval.of(getattr(run, name) for run in runs.values())

        def always(name: str) -> Interval:
            found = over(name)
            assert found is not None
            return found

        return Row(
            label,
            always("attainment"),
            over("mean_accuracy"),
            always("effective_accuracy"),
            always("utility"),
            Interval.of(gaps),
            over("latency_p50"),
            over("latency_p99"),
            always("dropped"),
            always("late"),
            over("mean_batch"),
            always("batches"),
            always("decisions"),
            over("decision_median"),
            over("decision_p99"),
        )
