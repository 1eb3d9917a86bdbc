"""Running an experiment: profiles, service times, live runs, simulations, bounds; each kept."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from loadtest.compare.cells import Finished, Load, bounds_of, file_name
from loadtest.compare.results import Results
from loadtest.compare.store import Store
from loadtest.compare.study import Cell, PolicySpec, Prepared, Serving, check_policy
from loadtest.compare.summary import RunSummary, Timeline
from loadtest.experiment.definition_file import experiment_document
from loadtest.experiment.design import Experiment, System
from loadtest.experiment.live import Sent, run_live
from loadtest.experiment.outcomes import LiveFacts, live_outcomes
from loadtest.experiment.profiles import (
    base_table,
    find_profile,
    planned_table,
    server_config,
)
from loadtest.experiment.service import ServiceModel, learn
from loadtest.experiment.serving import ours, theirs
from loadtest.experiment.simulated import simulate_run
from loadtest.experiment.store import FACTS, FactsStore, keep_design
from loadtest.experiment.throughput import Sustained, sustained_rates
from loadtest.locusts.images import write_images
from loadtest.records import Record
from loadtest.workloads import make_arrivals, scaled
from policies import load_policy
from policies.types import Profile
from superserve.config import DEFAULTS
from superserve.errors import ConfigError
from superserve.journal import JournalEntries
from superserve.profile_store import LatencyProfile

LIVE, SIMULATED = "live.jsonl", "simulated.jsonl"
LEARNING_POLICIES = ("default", "maxacc")  # large batches, and small ones of every subnet
LEARNING_SEED = 90_001  # of no run that is reported
# Seconds, and multiples of what the largest subnet can serve: all sizes of batches must occur.
LEARNING_LOAD = {"kind": "phases", "steps": [[4, 0.4], [4, 0.9], [4, 1.5], [4, 2.0]]}
MOST_OF_SMALLEST = 0.7  # of what the smallest can serve, whatever the multiple

Payloads = Callable[[int], Sequence[tuple[bytes, int]]]
Show = Callable[[int, int, str], None]  # steps done, of how many, and what is under way


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """What is known of one kind of worker on this machine."""

    path: Path
    latency: LatencyProfile
    base: Profile
    service: ServiceModel


@dataclass(frozen=True, slots=True, eq=False)
class ExperimentResults:
    """``live`` has the peers too; ``simulated`` has the bounds. Both have the same settings."""

    experiment: Experiment
    kinds: Mapping[str, Kind]
    live: Results
    simulated: Results
    facts: Mapping[Cell, LiveFacts]
    rejected: Mapping[Cell, tuple[str, ...]]
    sustained: tuple[Sustained, ...] = ()  # empty where it was not asked for


def run_experiment(
    experiment: Experiment,
    folder: Path,
    *,
    payloads: Payloads | None = None,
    resume: bool = False,
    show: Show = lambda *_: None,
) -> ExperimentResults:
    """Do all that is not done yet in ``folder``.

    ``payloads`` makes so many images with the indices of their labels, for the default supernet;
    an experiment that names a folder of images takes those, and without any a blank one is sent.

    Raises `ConfigError` for an experiment that cannot be run and for a server that does not start;
    then, and at Ctrl-C, what is finished stays, and ``resume`` goes on with it.
    """
    for policy in experiment.study.policies:
        try:
            load_policy(policy.name, policy.options)
        except ValueError as error:
            raise ConfigError(f"policy {policy.label}: {error}") from error
    keep_design(folder, experiment_document(experiment), resume=resume)
    runner = _Runner(experiment, folder, payloads, show)
    return runner.run()


class _Runner:
    def __init__(
        self, experiment: Experiment, folder: Path, payloads: Payloads | None, show: Show
    ) -> None:
        self._folder = folder
        self._show = show
        self._done = 0
        kinds = experiment.worker_kinds
        runs = len(list(experiment.cells()))
        simulations = len(list(experiment.study.cells()))
        self._total = 2 * len(kinds) + experiment.throughput + runs + simulations
        profiles = {kind: self._profile(experiment, kind) for kind in kinds}
        main = profiles.get("resident") or next(iter(profiles.values()))
        emulated = experiment.server.emulated
        base = base_table(main[1], emulated=emulated)
        # Before anything is run: a wrong option should not cost minutes.
        for policy in experiment.study.policies:
            check_policy(policy, base)
        self._experiment = experiment.at_rates_of(base)
        self._images = self._labelled(payloads)
        self._kinds = {kind: self._learn(kind, *found) for kind, found in profiles.items()}
        kept = self._kinds.get("resident") or next(iter(self._kinds.values()))
        study = replace(self._experiment.study, profile=str(kept.path.relative_to(folder)))
        self._experiment = replace(self._experiment, study=study)
        # What batches really take: bounds from anything slower could be exceeded.
        self._idle = kept.base
        self._truth = kept.service.true_profile(kept.base)

    def run(self) -> ExperimentResults:
        experiment, folder = self._experiment, self._folder
        # What was live does not depend on what was learnt about it.
        contest = Prepared(experiment.contest, self._idle)
        study = Prepared(experiment.study, self._truth)
        facts = FactsStore(folder / FACTS)
        live = Store(folder / LIVE, contest, resume=True)
        simulated = Store(folder / SIMULATED, study, resume=True)
        with closing(live), closing(simulated):
            sustained = self._sustained() if experiment.throughput else ()
            for cell in experiment.cells():
                if cell not in live.finished or cell not in facts.facts:
                    self._live(cell, live, facts)
                self._step()
            for cell in experiment.study.cells():
                if cell not in simulated.finished:
                    self._say(f"simulating {cell}")
                    simulated.add(self._simulated(cell))
                self._step()
        return ExperimentResults(
            experiment,
            self._kinds,
            Results.of(contest, live.finished.values(), live.provenance),
            Results.of(study, simulated.finished.values(), simulated.provenance),
            facts.facts,
            facts.rejected,
            sustained,
        )

    def _say(self, what: str) -> None:
        self._show(self._done, self._total, what)

    def _step(self) -> None:
        self._done += 1
        self._say("")

    def _profile(self, experiment: Experiment, kind: str) -> tuple[Path, LatencyProfile]:
        what = f"profile of {kind} workers"
        self._say(what)
        found = find_profile(
            experiment.server,
            kind,
            self._folder,
            lambda spent, allowed: self._say(f"{what}: {100 * spent / allowed:.0f} %"),
        )
        self._step()
        return found

    def _labelled(self, payloads: Payloads | None) -> Path | None:
        """A folder of images; none for workers that look at nothing."""
        experiment = self._experiment
        load = experiment.load
        if load.images is not None or load.pixels or experiment.server.emulated:
            return experiment.load.images
        if experiment.server.supernet != DEFAULTS.supernet or payloads is None:
            return None
        folder = self._folder / "images"
        if not folder.exists():
            write_images(folder, payloads(experiment.load.image_count))
        return folder

    def _learn(self, kind: str, path: Path, latency: LatencyProfile) -> Kind:
        """How long batches take in a server, from runs that are not reported."""
        base = base_table(latency, emulated=self._experiment.server.emulated)
        file = self._folder / "learning" / f"{kind}.json"
        if not file.exists():
            runs = [self._lesson(kind, policy, path, base) for policy in LEARNING_POLICIES]
            try:
                service = learn(base, runs)
            except ValueError as error:
                raise ConfigError(f"{kind} workers: {error}") from error
            file.write_text(json.dumps(service.document()) + "\n")
        service = ServiceModel.read(json.loads(file.read_text()))
        self._step()
        return Kind(path, latency, base, service)

    def _lesson(
        self, kind: str, policy: str, path: Path, base: Profile
    ) -> tuple[JournalEntries, tuple[Record, ...]]:
        """The load that teaches, under one policy."""
        experiment, name = self._experiment, f"{kind}-{policy}"
        self._say(f"learning the service times of {kind} workers")
        # What plans differently learns differently: served as the study's first policy is.
        serving = experiment.study.policies[0].serving
        spec = PolicySpec(policy, label=f"learning {name}", serving=serving)
        system = next(s for s in _systems(experiment) if s.worker == kind)
        contestant = ours(
            replace(experiment, systems={spec.label: system}), spec, path, self._folder,
            f"learning-{name}",
        )  # fmt: skip
        sent = self._sent(learning_load(base, experiment.server.workers), LEARNING_SEED)
        records = self._folder / "learning" / f"{name}.records.jsonl"
        found = run_live(contestant, sent, records, self._say)
        assert found.journal is not None
        return found.journal, found.records

    def _sent(self, workload: Mapping[str, object], seed: int, slo: float | None = None) -> Sent:
        found = slo if slo is not None else self._experiment.study.workloads[0].slo
        assert isinstance(found, float)
        return Sent(workload, found, seed, self._experiment.load, self._images)

    def _sustained(self) -> tuple[Sustained, ...]:
        """What each subnet alone can serve, with all of its time for it: nothing is held back."""
        experiment, folder = self._experiment, self._folder
        file = folder / "throughput.json"
        if not file.exists():
            kind = self._kinds.get("resident") or next(iter(self._kinds.values()))
            policy = PolicySpec("fixed", {"subnet": "largest"}, "throughput", Serving())
            contestant = ours(experiment, policy, kind.path, folder, "throughput")
            found = sustained_rates(
                contestant, self._sent({}, LEARNING_SEED), kind.base, experiment.server.workers,
                lambda what: self._say(f"throughput of {what}"),
            )  # fmt: skip
            file.write_text(json.dumps([asdict(each) for each in found]) + "\n")
        self._step()
        return tuple(Sustained(**each) for each in json.loads(file.read_text()))

    def _live(self, cell: Cell, store: Store, facts: FactsStore) -> None:
        experiment, folder = self._experiment, self._folder
        workload = experiment.study.workload(cell.setting.workload)
        assert isinstance(workload.slo, float)
        label = cell.policy or ""
        peer = experiment.peer(label)
        name = file_name(cell).removesuffix(".jsonl")
        if peer is not None:
            contestant = theirs(experiment, peer)
        else:
            kind = self._kinds[experiment.system(label).worker]
            contestant = ours(experiment, experiment.study.policy(label), kind.path, folder, name)
        found = run_live(
            contestant,
            self._sent(workload.spec, cell.seed, workload.slo),
            folder / "records" / f"{name}.jsonl",
            lambda what: self._say(f"{cell}: {what}"),
        )
        if found.complaints:
            facts.reject(cell, found.complaints)
            return
        outcomes = live_outcomes(found.records, found.journal)
        images = experiment.load.image_count if self._images is not None else 0
        facts.add(cell, LiveFacts.of(found.records, found.journal, images, found.attempts))
        drawn = cell.seed == experiment.study.seeds[0]
        timeline = Timeline.of(outcomes) if drawn else None
        store.add(Finished(cell, run=RunSummary.of(outcomes, ()), timeline=timeline))

    def _simulated(self, cell: Cell) -> Finished:
        experiment = self._experiment
        workload = experiment.study.workload(cell.setting.workload)
        arrivals = make_arrivals(workload.spec, cell.seed)
        assert isinstance(workload.slo, float)
        if cell.policy is None:
            load = Load(arrivals, arrivals * 0.0 + workload.slo, [])
            return Finished(cell, bound=bounds_of(self._truth, cell, load))
        policy = experiment.study.policy(cell.policy)
        system = experiment.system(cell.policy)
        kind = self._kinds[system.worker]
        config = server_config(experiment.server, system.worker)
        outcomes = simulate_run(
            policy,
            arrivals,
            workload.slo,
            planned=planned_table(kind.latency, policy.serving.margin),
            base=kind.base,
            service=kind.service,
            workers=cell.setting.workers,
            slots=config.slots,
            credits_=config.credits,
            system=system,
            seed=cell.seed,
        )
        drawn = cell.seed == experiment.study.seeds[0]
        timeline = Timeline.of(outcomes) if drawn else None
        return Finished(cell, run=RunSummary.of(outcomes, ()), timeline=timeline)


def learning_load(base: Profile, workers: int) -> dict[str, object]:
    """Up to twice what the largest subnet can serve, as far as the smallest can."""
    batch = base.max_batch
    largest = workers * batch / base.latency(base.largest, batch)
    most = MOST_OF_SMALLEST * workers * base.peak_rate
    steps = scaled(LEARNING_LOAD, largest)["steps"]
    return {**LEARNING_LOAD, "steps": [[seconds, min(rate, most)] for seconds, rate in steps]}


def _systems(experiment: Experiment) -> list[System]:
    return [experiment.system(policy.label) for policy in experiment.study.policies]
