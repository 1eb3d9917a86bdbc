"""What the comparison of policies needs beyond study files: queries and fleets of several kinds,
bounds for true latencies, whose models are cheaper, and what a decision costs.
"""

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.study_runs import Row, percent, spread
from loadtest.compare.cells import load_of
from loadtest.compare.results import Interval
from loadtest.compare.study import PENALTY, Prepared, Setting, fleet_sizes
from loadtest.paper_profile import PAPER_PROFILE
from loadtest.simulate import simulate_arrays
from loadtest.simulation_noise import Empirical
from loadtest.simulation_outcomes import Outcomes
from loadtest.simulation_workers import WorkerSpec
from loadtest.workloads import make_arrivals
from policies import load_policy
from policies.bounds import price_bound
from policies.types import Policy, Profile, QueueView, WorkerView
from superserve.edf_queue import EDFQueue, WaitingView
from superserve.messages import Query

SLO = 0.036
MET = 0.999  # the attainment that counts as meeting the SLO, as in the paper
CONSTRAINTS = tuple(np.arange(74.0, 80.01, 0.25).tolist())  # percent, on the mean accuracy
SAME_COST = 0.002  # relative: the seeds alone make such a difference
WAITING = (10, 100, 1_000, 10_000, 100_000)

Made = tuple[str, tuple[tuple[str, str], ...]]  # a policy's name and options


def slower(profile: Profile, factor: float) -> Profile:
    rows = tuple(tuple(seconds * factor for seconds in row) for row in profile.latencies)
    return Profile(profile.subnets, profile.accuracies, profile.batch_sizes, rows)


@dataclass(frozen=True, slots=True)
class Condition:
    """A load in which queries or workers differ. Shares are 0..1; who gets what is drawn by seed.

    ``slow``: half of the 8 workers are of a type that takes so many times longer, and is planned
    with its own profile.
    """

    label: str
    workload: Mapping[str, Any]
    floor: float = 0.0  # percent, of the share that has one
    floor_share: float = 0.0
    priority_share: float = 0.0
    slow: float = 1.0

    def simulate(self, made: Made, seed: int) -> tuple[Outcomes, Any]:
        """What happened, and which queries [N] had a floor or a priority."""
        arrivals = make_arrivals(self.workload, seed)
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(3,)))
        special = rng.random(len(arrivals)) < max(self.floor_share, self.priority_share)
        slow = slower(PAPER_PROFILE, self.slow)
        kinds = ["fast", "slow"] if self.slow != 1.0 else ["cpu"]
        workers = [WorkerSpec(f"w{i}", kinds[i % len(kinds)]) for i in range(8)]
        outcomes = simulate_arrays(
            arrivals,
            SLO,
            PAPER_PROFILE,
            load_policy(made[0], dict(made[1])),
            workers,
            seed,
            min_accuracy=np.where(special, self.floor, 0.0),
            priority=special.astype(int) if self.priority_share else 0,
            profiles={"slow": slow} if self.slow != 1.0 else None,
        )
        return outcomes, special

    def bound(self, seed: int) -> float:
        """Floors and priorities left out, which only make it looser."""
        arrivals = make_arrivals(self.workload, seed)
        if self.slow == 1.0:
            return price_bound(arrivals, arrivals + SLO, PAPER_PROFILE, 8).utility
        profiles = [PAPER_PROFILE, slower(PAPER_PROFILE, self.slow)]
        return price_bound(arrivals, arrivals + SLO, profiles, [4, 4]).utility


_BURSTY = {"kind": "bursty", "variant": 4900, "cv2": 4}
CONDITIONS = (
    Condition("10 % with a floor of 78 %", {**_BURSTY, "seconds": 2.5}, 78.0, 0.1),
    Condition("10 % with a floor of 79.4 %", {**_BURSTY, "seconds": 2.5}, 79.4, 0.1),
    Condition(
        "10 % with priority, overload",
        {"kind": "time_varying", "rate1": 2500, "rate2": 20000, "tau": 50000, "seconds": 2},
        priority_share=0.1,
    ),
    Condition("4 fast and 4 slow workers (× 1.6)", {**_BURSTY, "seconds": 2.5}, slow=1.6),
)


def condition_job(job: tuple[Condition, str, Made, int]) -> Row:
    """One simulation under a condition."""
    condition, label, made, seed = job
    outcomes, special = condition.simulate(made, seed)
    met = outcomes.met
    return {
        "workload": condition.label,
        "policy": label,
        "seed": seed,
        "attainment": outcomes.attainment,
        "accuracy": outcomes.mean_accuracy,
        "utility": outcomes.utility(PENALTY),
        "special": float(np.mean(met[special])) if special.any() else None,
    }


def condition_rows(found: Sequence[Row]) -> list[Row]:
    """Over the seeds."""
    places = dict.fromkeys((row["workload"], row["policy"]) for row in found)
    lines = []
    for workload, policy in places:
        those = [row for row in found if (row["workload"], row["policy"]) == (workload, policy)]
        over = {
            name: Interval.of(row[name] for row in those)
            for name in ("attainment", "accuracy", "utility", "special")
        }
        lines.append(
            {
                "workload": workload,
                "policy": policy,
                "attainment": percent(over["attainment"]),
                "accuracy": spread(over["accuracy"]),
                "utility": spread(over["utility"]),
                "special_attainment": percent(over["special"]),
            }
        )
    return lines


def bound_job(job: tuple[Prepared, Setting, int]) -> float:
    """The price bound of a setting, for the latencies that batches there really have."""
    prepared, setting, seed = job
    load = load_of(prepared, setting, seed)
    noise = prepared.study.workload(setting.workload).noise
    profile = prepared.profile
    if isinstance(noise, Empirical) and len(noise.observed) == 1:
        profile = slower(profile, noise.observed[0])
    sizes = fleet_sizes(setting.workers, load.script)
    bound = price_bound(load.arrivals, load.arrivals + load.slo, profile, sizes, penalty=PENALTY)
    return bound.utility


@dataclass(frozen=True, slots=True)
class Point:
    """A policy on the subnets up to a cap: what it reached, and with how dear models."""

    policy: str
    workload: str
    seed: int
    cap: int  # how many of the subnets it may use
    attainment: float
    accuracy: float
    cost: float  # milliseconds per query of the models in full batches, mean over those in time


def cheaper_job(job: tuple[str, Made | None, str, Mapping[str, Any], int, int]) -> Point:
    """Without a policy: the cap alone, as Clipper+ with early drop."""
    label, made, workload, spec, seed, cap = job
    full = PAPER_PROFILE
    profile = Profile(
        full.subnets[:cap], full.accuracies[:cap], full.batch_sizes, full.latencies[:cap]
    )
    name, chosen = made or ("fixed", (("subnet", "largest"), ("drop", "early")))
    arrivals = make_arrivals(spec, seed)
    found = simulate_arrays(arrivals, SLO, profile, load_policy(name, dict(chosen)), 8, seed)
    costs = np.array([row[-1] / full.max_batch * 1e3 for row in profile.latencies])
    met = found.met
    cost = float(np.mean(costs[found.subnet[met]])) if met.any() else float("inf")
    return Point(label, workload, seed, cap, found.attainment, found.mean_accuracy or 0.0, cost)


@dataclass(slots=True)
class Contest:
    """Cases (load, seed, constraint) in which ours and another policy differ in cost."""

    cheaper: int = 0
    only_ours: int = 0  # the other one meets the constraint at no cost
    same: int = 0
    dearer: int = 0
    only_theirs: int = 0
    savings: list[float] = field(default_factory=list)

    def add(self, ours: float | None, theirs: float | None) -> None:
        if ours is None or theirs is None:
            self.only_ours += ours is not None
            self.only_theirs += theirs is not None
            return
        self.savings.append(1.0 - ours / theirs)
        if abs(ours / theirs - 1.0) <= SAME_COST:
            self.same += 1
        else:
            self.cheaper += ours < theirs
            self.dearer += ours > theirs

    @property
    def cases(self) -> int:
        """Those in which at least one of them meets the constraint."""
        return self.cheaper + self.only_ours + self.same + self.dearer + self.only_theirs

    def row(self, policy: str) -> Row:
        def share(count: int) -> float:
            return round(100.0 * count / self.cases, 1)

        saving = statistics.mean(self.savings or [0.0])  # where both meet the constraint
        return {
            "policy": policy,
            "cases": self.cases,
            "cheaper": share(self.cheaper),
            "only ours": share(self.only_ours),
            "same": share(self.same),
            "dearer": share(self.dearer),
            "only theirs": share(self.only_theirs),
            "mean saving": round(100.0 * saving, 2),
        }


def contests(points: Sequence[Point], ours: str) -> list[Row]:
    """Ours against each other policy, over all constraints on the mean accuracy.

    In each case (load, seed, constraint) a policy is given the cap with which it meets the
    constraint, and the SLO for `MET` of the queries, at the least cost.
    """
    costs: dict[tuple[str, str, int], list[Point]] = {}
    for point in points:
        costs.setdefault((point.policy, point.workload, point.seed), []).append(point)

    def least(policy: str, workload: str, seed: int, constraint: float) -> float | None:
        meeting = [
            point.cost
            for point in costs[policy, workload, seed]
            if point.attainment >= MET and point.accuracy >= constraint - 1e-9
        ]
        return min(meeting, default=None)

    loads = dict.fromkeys((workload, seed) for _, workload, seed in costs)
    lines = []
    for policy in dict.fromkeys(policy for policy, _, _ in costs if policy != ours):
        contest = Contest()
        for workload, seed in loads:
            for constraint in CONSTRAINTS:
                contest.add(
                    least(ours, workload, seed, constraint),
                    least(policy, workload, seed, constraint),
                )
        lines.append(contest.row(policy))
    return lines


def decision_rows(policies: Mapping[str, Made], waiting: Sequence[int] = WAITING) -> list[Row]:
    """Median microseconds of one `choose`, by how many queries wait in the scheduler's own queue.

    Their deadlines are even over the SLO; a policy with a memory has seen a second of the load.
    """
    return [
        {"policy": label} | {str(n): _decision(made, n) for n in waiting}
        for label, made in policies.items()
    ]


def _decision(made: Made, waiting: int) -> float:
    policy: Policy = load_policy(made[0], dict(made[1]))(PAPER_PROFILE)
    queue = EDFQueue()
    for i in range(waiting):
        queue.push(Query(i, 0.0, 1.0 + 0.010 + 0.026 * (i + 1) / waiting))
    workers = tuple(WorkerView(f"w{i}", residual=0.002 * i) for i in range(8))
    for now, view in _views(queue, workers):
        if hasattr(policy, "on_tick"):
            policy.on_tick(view, now)
    now, view = 1.0, _view(queue, workers)
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < 20 or (len(times) < 2000 and time.perf_counter() - begin < 0.2):
        start = time.perf_counter()
        policy.choose(view, now)
        times.append(time.perf_counter() - start)
    return round(1e6 * statistics.median(times), 2)


def _views(queue: EDFQueue, workers: Sequence[WorkerView]) -> Iterator[tuple[float, QueueView]]:
    for tick in range(21):
        yield tick * 0.05, _view(queue, workers)


def _view(queue: EDFQueue, workers: Sequence[WorkerView]) -> QueueView:
    return QueueView(
        WaitingView(queue),
        workers,
        arrival_rate=6400.0,
        dispersion=4.0,
        asking="w0",
        capacity=8.0,
        slo=SLO,
    )
