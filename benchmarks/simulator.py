"""How many queries a second does the simulator serve, and what does a decision cost?

``python -m benchmarks.simulator``: every policy on the same bursty arrivals at the paper's load,
6,400 queries a second on 8 workers, interleaved in one run, on one thread. The decisions are timed
in a run of their own, so that the stopwatch does not slow the others.
"""

import statistics
from functools import partial
from typing import Any

import torch

from benchmarks.common import arguments, header, interleaved, show, write
from loadtest.arrivals import gamma
from loadtest.paper_profile import PAPER_PROFILE
from loadtest.simulate import simulate_arrays
from loadtest.simulation_outcomes import Outcomes
from policies import POLICIES

RATE, CV2, SLO, WORKERS = 6400.0, 4.0, 0.036, 8
QUERIES = 100_000


def main() -> None:
    options = arguments("Queries per second of the simulator, by policy.", rounds=5)
    torch.set_num_threads(1)
    arrivals = gamma(RATE, QUERIES / RATE, CV2, options.seed)
    names = [name for name in POLICIES if name != "default"]  # which is another name of one

    def run(policy: str, decisions: list[float] | None = None) -> Outcomes:
        return simulate_arrays(
            arrivals, SLO, PAPER_PROFILE, policy, WORKERS, options.seed, decisions=decisions
        )

    seconds = interleaved({name: partial(run, name) for name in names}, options.rounds, warm_up=1)
    rows = []
    for name in names:
        decisions: list[float] = []
        outcomes = run(name, decisions)
        rows.append(_row(name, seconds[name], decisions, outcomes))
    show(f"Simulated queries per second of real time ({len(arrivals)} queries)",
         list(rows[0]), [list(row.values()) for row in rows])  # fmt: skip
    more = {"queries": len(arrivals), "rate": RATE, "cv2": CV2, "slo": SLO, "workers": WORKERS}
    document = {
        **header(options.seed, rounds=options.rounds, **more),
        "policies": rows,
        "seconds": seconds,
    }
    print(write("simulator-cpu", document, options.output))


def _row(
    name: str, seconds: list[float], decisions: list[float], outcomes: Outcomes
) -> dict[str, Any]:
    median = statistics.median(seconds)
    return {
        "policy": name,
        "queries/s": round(len(outcomes) / median),
        "us per query": 1e6 * median / len(outcomes),
        "decisions": len(decisions),
        "us per decision, median": 1e6 * statistics.median(decisions),
        "us per decision, p99": 1e6 * sorted(decisions)[int(0.99 * len(decisions))],
        "mean batch": outcomes.mean_batch,
        "attainment, %": 100 * outcomes.attainment,
        "mean accuracy, %": outcomes.mean_accuracy,
    }


if __name__ == "__main__":
    main()
