"""Our policies against all others in simulation: is DualFit ever worse, and how near to the bound?

``python -m benchmarks.policies_table`` runs ``studies/policies.toml`` and ``studies/ablation.toml``
and what study files cannot say; about a quarter of an hour on two cores. ``--quick`` only shows
that it works. Recorded traces come from the folder that SUPERSERVE_TRACES names; without it they
are left out.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from benchmarks.policies_extra import (
    CONDITIONS,
    CONSTRAINTS,
    MET,
    SAME_COST,
    WAITING,
    Made,
    bound_job,
    cheaper_job,
    condition_job,
    condition_rows,
    contests,
    decision_rows,
)
from benchmarks.study_runs import (
    Options,
    Row,
    in_parts,
    kept,
    markdown,
    options,
    parallel,
    pivot,
    records,
    run,
    runs_of,
    save,
    show,
    spread,
)
from loadtest.compare import PolicySpec, Results, Setting
from loadtest.compare.results import Interval

OURS = "DualFit"
CEILING = "INFaaS"  # the smallest subnet alone: whoever misses more than it had a choice
BOUND_SEEDS = 2  # a bound costs as much as ten simulations
NEAR, NEAR_ALONE = 0.5, 1.0  # of the bound in utility, on several workers and on one
CHEAPER_LOADS: Mapping[str, dict[str, Any]] = {
    "bursty 5000": {"kind": "bursty", "variant": 3500, "cv2": 4, "seconds": 2},
    "bursty 7500": {"kind": "bursty", "variant": 6000, "cv2": 4, "seconds": 2},
    "ramp 2500 → 10000": {
        "kind": "time_varying", "rate1": 2500, "rate2": 10000, "tau": 5000, "seconds": 2,
    },
}  # fmt: skip
CHEAPER_SEEDS = (221, 222)
CHEAPER = (
    OURS, "PaceFit", "SlackFit A.5 K=4", "SlackFit A.5 K=64", "SlackFit §4.2 K=64", "MaxBatch",
    "INFaaS autoscaling", "Symphony adaptive", "Proteus 1 s", "Model-Switching", "RAMSIS",
)  # fmt: skip
CONDITION_SEEDS = (211, 212, 213)


def main() -> None:
    chosen = options(str(__doc__).splitlines()[0])
    results = run("policies", chosen)
    specs = results.prepared.study.policies
    tables: dict[str, Any] = {"main": kept(results)}
    bounds = _bounds(results, chosen)
    verdicts = [
        verdict(results, setting, bounds.get(setting, {}))
        for setting in results.prepared.study.settings()
    ]
    tables["verdicts"] = verdicts
    ablation = run("ablation", chosen)
    tables["ablation"] = kept(ablation)
    tables["conditions"] = _conditions(specs, chosen)
    tables["cheaper"] = _cheaper(specs, chosen)
    # Alone on the machine, after all else.
    tables["decision_us"] = decision_rows(
        {spec.label: _made(spec) for spec in specs}, WAITING[:3] if chosen.quick else WAITING
    )
    show(_shown(tables), chosen)
    print(save("policies-simulated", chosen, tables, results.prepared.study.seeds[0]))


def verdict(results: Results, setting: Setting, bounds: Mapping[int, float]) -> Row:
    """What holds of ours in a setting; differences are paired by seed, in points, ours less theirs.

    ``below`` lists the variants of SlackFit that are better in attainment or utility by more than
    the 95 % interval of the difference.
    """
    ours = runs_of(results, setting, OURS)
    ceiling = runs_of(results, setting, CEILING)
    below, against = [], []
    for spec in results.prepared.study.policies:
        theirs = runs_of(results, setting, spec.label)
        seeds = ours.keys() & theirs.keys()
        if spec.name != "slackfit" or not seeds:
            continue
        attainment = Interval.of(
            100 * (ours[seed].attainment - theirs[seed].attainment) for seed in seeds
        )
        utility = Interval.of(ours[seed].utility - theirs[seed].utility for seed in seeds)
        row = {"policy": spec.label, "attainment": spread(attainment), "utility": spread(utility)}
        against.append(row)
        if surely_negative(attainment) or surely_negative(utility):
            below.append(row)
    feasible = bool(ceiling) and all(found.attainment == 1.0 for found in ceiling.values())
    gap = Interval.of(bounds[seed] - ours[seed].utility for seed in bounds if seed in ours)
    near = NEAR_ALONE if setting.workers == 1 else NEAR
    return {
        "workload": setting.workload,
        "workers": setting.workers,
        "tuned_on": results.prepared.study.workload(setting.workload).tuned_on,
        "attainment": spread(Interval.of(100 * found.attainment for found in ours.values())),
        "accuracy": spread(Interval.of(found.mean_accuracy for found in ours.values())),
        "utility": spread(Interval.of(found.utility for found in ours.values())),
        "bound": spread(Interval.of(bounds.values())),
        "gap": spread(gap),
        "all_feasible": feasible,
        "holds_slo": min(found.attainment for found in ours.values()) >= MET if feasible else None,
        "near_bound": gap.mean <= near if feasible and gap is not None else None,
        "best_other": best_other(results, setting),
        "below": below,
        "against_slackfit": against,
    }


def surely_negative(difference: Interval | None) -> bool:
    """Also where there is one seed only and no interval: then the sign decides."""
    if difference is None:
        return False
    half = difference.half if difference.count > 1 else 0.0
    # Rounding of sums must not count as a difference.
    return difference.mean + half < -1e-9


def best_other(results: Results, setting: Setting) -> Row:
    """The policy, not ours, with the highest mean utility, and how far ours is above it."""
    found = {
        row.policy: row.utility.mean
        for row in results.rows(setting)
        if row.policy not in {OURS, "PaceFit"}
    }
    best = max(found, key=lambda policy: found[policy])
    ours, theirs = (runs_of(results, setting, policy) for policy in (OURS, best))
    lead = Interval.of(ours[s].utility - theirs[s].utility for s in ours.keys() & theirs.keys())
    return {"policy": best, "utility": found[best], "ours_above_by": spread(lead)}


def _bounds(results: Results, chosen: Options) -> dict[Setting, dict[int, float]]:
    study = results.prepared.study
    places = list(product(study.settings(), study.seeds[:BOUND_SEEDS]))
    jobs = [(results.prepared, setting, seed) for setting, seed in places]
    found: dict[Setting, dict[int, float]] = {}
    for (setting, seed), bound in zip(
        places, parallel(bound_job, jobs, chosen.processes), strict=True
    ):
        found.setdefault(setting, {})[seed] = bound
    return found


def _conditions(specs: Sequence[PolicySpec], chosen: Options) -> list[Row]:
    seeds = CONDITION_SEEDS[: 1 if chosen.quick else None]
    jobs = [
        (condition, spec.label, _made(spec), seed)
        for condition, spec, seed in product(CONDITIONS, specs, seeds)
    ]
    found = condition_rows(parallel(condition_job, jobs, chosen.processes))
    bounds = {each.label: each.bound(seeds[0]) for each in CONDITIONS}
    return [{**row, "bound": bounds[row["workload"]]} for row in found]


def _cheaper(specs: Sequence[PolicySpec], chosen: Options) -> Row:
    contenders: dict[str, Made | None] = {
        spec.label: _made(spec) for spec in specs if spec.label in CHEAPER
    }
    contenders["Clipper+ (the best single model)"] = None
    seeds = CHEAPER_SEEDS[: 1 if chosen.quick else None]
    jobs = [
        (label, made, load, spec, seed, cap)
        for (label, made), (load, spec), seed, cap in product(
            contenders.items(), CHEAPER_LOADS.items(), seeds, range(1, 7)
        )
    ]
    points = parallel(cheaper_job, jobs, chosen.processes)
    return {
        "constraints": CONSTRAINTS,
        "same_cost": SAME_COST,
        "seeds": seeds,
        "loads": dict(CHEAPER_LOADS),
        "shares": contests(points, OURS),
    }


def _made(spec: PolicySpec) -> Made:
    return spec.name, tuple(spec.options.items())


def _shown(tables: Mapping[str, Any]) -> dict[str, str]:
    found, conditions = tables["main"]["rows"], tables["conditions"]
    return {
        "verdicts": verdict_table(tables["verdicts"]),
        "attainment": in_parts(found, 4),
        "utility": in_parts(found, 5, utility_cell),
        "ablation": in_parts(tables["ablation"]["rows"], 5),
        "conditions": pivot(conditions),
        "conditions-utility": pivot(conditions, utility_cell),
        "conditions-special": pivot(conditions, special_cell),
        "cheaper": records(tables["cheaper"]["shares"]),
        "decision": records(tables["decision_us"]),
    }


def utility_cell(row: Row) -> str:
    return f"{row['utility']['mean']:.3f}"


def special_cell(row: Row) -> str:
    found = row["special_attainment"]
    return f"{found['mean']:.3f}" if found else "-"


def verdict_table(verdicts: Sequence[Row]) -> str:
    lines = []
    for row in verdicts:
        best = row["best_other"]
        below = "; ".join(
            f"{each['policy']} ({each['attainment']['mean']:+.3f} att, "
            f"{each['utility']['mean']:+.3f} U)"
            for each in row["below"]
        )
        lines.append(
            [
                row["workload"] + (" *" if row["tuned_on"] else ""),
                f"{row['attainment']['mean']:.3f}",
                f"{row['accuracy']['mean']:.2f}",
                f"{row['utility']['mean']:.3f}",
                f"{row['bound']['mean']:.3f}" if row["bound"] else "-",
                f"{row['gap']['mean']:.3f}" if row["gap"] else "-",
                f"{best['policy']} {best['utility']:.3f}",
                {True: "yes", False: "NO", None: "-"}[row["holds_slo"]],
                {True: "yes", False: "NO", None: "-"}[row["near_bound"]],
                below or "none",
            ]
        )
    return markdown(
        ["workload", "attainment", "accuracy", "U", "bound of U", "gap", "best other (U)",
         "≥ 99.9 %", "near the bound", "below SlackFit"],
        lines,
    )  # fmt: skip


if __name__ == "__main__":
    main()
