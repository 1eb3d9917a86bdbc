"""One cell of a comparison: a simulation, or the bounds on all that could be simulated there."""

from array import array
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from re import sub
from typing import Any, Self
from zlib import crc32

import numpy as np
import numpy.typing as npt

from loadtest.arrivals import Times
from loadtest.compare.study import (
    PENALTY,
    Cell,
    PolicySpec,
    Prepared,
    Setting,
    Slo,
    fleet_sizes,
)
from loadtest.compare.study_file import document_of
from loadtest.compare.summary import BoundSummary, RunSummary, Timeline
from loadtest.records import Header, write_records
from loadtest.simulate import simulate_arrays
from loadtest.simulation_outcomes import Outcomes
from loadtest.simulation_workers import FleetEvent
from loadtest.workloads import make_arrivals
from policies import load_policy
from policies.bounds import fluid_bound, price_bound
from policies.types import Profile
from superserve.errors import ConfigError

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Finished:
    """A cell and what it found: ``run`` where it has a policy, else ``bound``."""

    cell: Cell
    run: RunSummary | None = None
    bound: BoundSummary | None = None
    timeline: Timeline | None = None

    def document(self) -> dict[str, Any]:
        """For JSON; see `read`."""
        return asdict(self)

    @classmethod
    def read(cls, document: dict[str, Any]) -> Self:
        """Raises ``KeyError`` or ``TypeError`` for a document that is none."""
        cell = dict(document["cell"])
        run, bound, timeline = (document[name] for name in ("run", "bound", "timeline"))
        return cls(
            Cell(Setting(**cell.pop("setting")), **cell),
            None if run is None else RunSummary(**run),
            None if bound is None else BoundSummary(**bound),
            None if timeline is None else Timeline.read(timeline),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Load:
    """What the policies of a setting have in common for one seed."""

    arrivals: Times
    slo: Floats  # seconds, of each query
    script: list[FleetEvent]


def load_of(prepared: Prepared, setting: Setting, seed: int) -> Load:
    """Raises `ConfigError` where the workload cannot be made or has no queries."""
    workload = prepared.study.workload(setting.workload)
    try:
        arrivals = make_arrivals(workload.spec, seed)
    except (ValueError, OSError) as error:
        raise ConfigError(f"workload {workload.label}: {error}") from error
    if not len(arrivals):
        raise ConfigError(f"workload {workload.label} has no arrivals with seed {seed}")
    script: list[FleetEvent] = []
    if workload.failures is not None:
        script = workload.failures.script(setting.workers, float(arrivals[-1]))
    return Load(arrivals, draw_slos(workload.slo, len(arrivals), seed), script)


def draw_slos(slo: Slo, count: int, seed: int) -> Floats:
    """Seconds for each of ``count`` queries, drawn by ``seed`` where there are several."""
    if isinstance(slo, float):
        return np.full(count, slo)
    seconds, shares = np.array(slo).T
    # A child of the seed: the arrivals and the noise draw from the same one.
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(2,)))
    return rng.choice(seconds, count, p=shares / shares.sum())


def run_cell(prepared: Prepared, cell: Cell, records: Path | None = None) -> Finished:
    """Compute it; ``records`` is a folder for one record per query.

    Raises `ConfigError`, which names the cell, for a load, a policy or failures that do not work.
    """
    load = load_of(prepared, cell.setting, cell.seed)
    try:
        if cell.policy is None:
            return Finished(cell, bound=bounds_of(prepared.profile, cell, load))
        decisions = array("d")
        outcomes = simulated(prepared, cell, load, decisions)
    except ValueError as error:
        raise ConfigError(f"{cell}: {error}") from error
    if records is not None:
        write_records(records / file_name(cell), _header(prepared, cell), outcomes.records())
    drawn = cell.seed == prepared.study.seeds[0]
    timeline = Timeline.of(outcomes) if drawn else None
    return Finished(cell, run=RunSummary.of(outcomes, decisions), timeline=timeline)


def simulated(
    prepared: Prepared, cell: Cell, load: Load, decisions: "array[float] | None" = None
) -> Outcomes:
    """The simulation that a cell stands for."""
    profile, study = prepared.profile, prepared.study
    policy = study.policy(cell.policy or "")
    serving = policy.serving
    return simulate_arrays(
        load.arrivals,
        load.slo,
        _planned(profile, policy),
        load_policy(policy.name, policy.options),
        cell.setting.workers,
        cell.seed,
        late=serving.late,
        reserve=serving.reserve,
        actuation=serving.actuation,
        loading=_by_subnet(serving.loading, profile),
        resident=serving.resident,
        noise=study.workload(cell.setting.workload).noise,
        events=load.script,
        true_profile=profile,
        decisions=decisions,
    )


def file_name(cell: Cell) -> str:
    """Readable, and still unique where labels differ only in what a file name cannot hold."""
    readable = sub(r"[^A-Za-z0-9.+-]+", "-", str(cell)).strip("-").lower()
    return f"{readable}-{crc32(str(cell).encode()):08x}.jsonl"


def _planned(profile: Profile, policy: PolicySpec) -> Profile:
    margin = policy.serving.margin
    latencies = tuple(tuple(seconds + margin for seconds in row) for row in profile.latencies)
    return Profile(profile.subnets, profile.accuracies, profile.batch_sizes, latencies)


def _by_subnet(loading: float | Mapping[str, float], profile: Profile) -> Mapping[str, float]:
    if isinstance(loading, float):
        return dict.fromkeys(profile.subnets, loading) if loading else {}
    return loading


def bounds_of(profile: Profile, cell: Cell, load: Load) -> BoundSummary:
    """What no policy can exceed under this load, if batches take what ``profile`` says."""
    deadlines = load.arrivals + load.slo
    sizes = fleet_sizes(cell.setting.workers, load.script)
    fluid = fluid_bound(load.arrivals, deadlines, profile, sizes, penalty=PENALTY)
    price = price_bound(load.arrivals, deadlines, profile, sizes, penalty=PENALTY)
    return BoundSummary(min(price.utility, fluid.utility), fluid.utility, fluid.accuracy)


def _header(prepared: Prepared, cell: Cell) -> Header:
    return Header.of(cell.seed, {"cell": asdict(cell), "study": document_of(prepared.study)})
