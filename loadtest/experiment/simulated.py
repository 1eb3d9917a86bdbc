"""A live run again in virtual time: same queries, policy and scheduler, learnt service times."""

from dataclasses import replace
from typing import Any

from loadtest.arrivals import Times
from loadtest.compare.study import PolicySpec
from loadtest.experiment.design import System
from loadtest.experiment.service import ServiceModel
from loadtest.simulate import simulate_arrays
from loadtest.simulation_outcomes import Outcomes
from policies import load_policy
from policies.types import Profile


def simulate_run(
    policy: PolicySpec,
    arrivals: Times,
    slo: float,
    *,
    planned: Profile,
    base: Profile,
    service: ServiceModel,
    workers: int,
    slots: int,
    credits_: int,
    system: System,
    seed: int,
) -> Outcomes:
    """What clients would have seen; times in seconds.

    ``planned`` is what the server plans with, ``base`` what batches take on an idle device.
    ``slots`` limits the queries in the server, as there.
    """
    serving = policy.serving
    loading: dict[str, float] = {}
    if system.worker == "extracted":
        # A subnet that was never loaded while we looked costs what the others cost on average.
        known = service.loading
        usual = sum(known.values()) / len(known) if known else 0.0
        loading = {subnet: known.get(subnet, usual) for subnet in planned.subnets}
    options: dict[str, Any] = {"loading": loading} if any(loading.values()) else {}
    outcomes = simulate_arrays(
        arrivals,
        slo,
        planned,
        load_policy(policy.name, policy.options),
        workers,
        seed,
        late=serving.late,
        reserve=serving.reserve,
        compensate=True,
        credits=credits_,
        max_waiting=slots,
        resident=system.resident_models,
        noise=service.scatter,
        true_profile=service.true_profile(base),
        **options,
    )
    # The deadline of a client begins when it sends, the server's when it has read.
    return replace(outcomes, finish=outcomes.finish + service.overhead)
