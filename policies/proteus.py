"""Proteus: how many workers serve with which subnet, planned anew every so many seconds."""

from collections import Counter
from collections.abc import Mapping, Sequence
from math import floor, inf
from typing import Literal

from policies.accscale import wait_or_batch
from policies.fixed import Fixed
from policies.hull import Hull
from policies.load_meter import LoadMeter
from policies.types import Choice, Profile, QueueView, Wait

MEMORY = 1.6  # windows; the centre of mass of the weights, ``ewma_decay`` in their configurations
MIN_BETA = 0.2
WINDOW = 1.0  # seconds, of the demand
# Throughput is a constraint of theirs: no accuracy makes up for a query that nobody has time for.
NEVER = 1e6


class Proteus:
    """Proteus (ASPLOS'24), accuracy scaling, after ``algorithms/ilp.py``, ``core/predictor.py``,
    ``core/simulator.py`` and ``run.py`` of UMass-LIDS/Proteus at 6967c93.

    Every ``period`` seconds each worker is assigned a subnet, so that the mean accuracy is the
    highest with which the workers can serve ``beta`` times the demand; if they cannot serve that,
    ``beta`` is lowered in steps of 0.05 until they can, and from 0.2 on it is given up.

    - Demand: the arrival rate in windows of one second, see `LoadMeter`, of which the latest has
      the weight 1 and each older one that of the next times 1.6 / 2.6, as there. The known weakness
      is that nothing else makes it react, and that only once per period.
    - Throughput: that of the largest profiled batch that takes less than half of the SLO; a subnet
      that has none is not used, or if none has, only the smallest is. ``slo`` (seconds) is by
      default the mean of what arrives, see `LoadMeter`; without it there is no limit.
    - Their mixed-integer program is, for one model on workers of one kind, a linear one over how
      many workers have which subnet, and its solution two neighbours on the `Hull`; see `planned`
      for whole workers. Workers keep their subnet where the plan allows it. The more accurate ones
      go to those first in the view, who are asked first when several are idle: that comes near to
      their routing, which fills accurate workers first.
    - Batches: their ``"accscale"`` (`wait_or_batch`), or ``"greedy"``, which waits for nothing: the
      largest batch that is filled and in time, with early drop (`Fixed`). Either way a worker gives
      up what its own subnet cannot serve, as it does in their queues, one before each worker.
    - Until arrivals are seen the demand is unknown, and all have the smallest subnet, greedily: the
      one that no demand hurts. The first plan is made as soon as they are seen, another one when a
      whole window is over, and from then on one each period.
    - A worker that joins within a period does as most do.

    Left out: several models and kinds of workers (all workers of the view are planned with this
    profile), and the extra plans of their ``run.py`` at seconds chosen for their traces.
    """

    def __init__(
        self,
        profile: Profile,
        period: float = 10.0,
        slo: float | None = None,
        beta: float = 1.05,
        batching: Literal["accscale", "greedy"] = "accscale",
    ) -> None:
        if not 0 < period < inf:
            raise ValueError(f"period must be positive seconds, not {period}")
        if slo is not None and not slo > 0:
            raise ValueError(f"slo must be positive seconds, not {slo}")
        if not 0 < beta < inf:
            raise ValueError(f"beta must be positive, not {beta}")
        if batching not in {"accscale", "greedy"}:
            raise ValueError(f"batching must be accscale or greedy, not {batching!r}")
        self._profile = profile = profile.pareto()
        self._period = period
        self._slo = slo
        self._beta = beta
        self._batching = batching
        self._meter = LoadMeter(WINDOW)
        self.tick_period = self._meter.period
        self._greedy = {s: Fixed(profile, s, drop="early") for s in profile.subnets}
        self._weighted = self._weights = 0.0  # forgetting sums over windows: of rates, of ones
        self._due = -inf  # the next plan
        self._assigned: dict[str, str] = {}  # worker to subnet
        self._usual = profile.smallest  # of those that the plan does not know
        self._largest: dict[str, int] = {}  # subnet to the cap on its batches, once there is a plan

    def __repr__(self) -> str:
        return f"Proteus(period={self._period}, batching={self._batching!r})"

    def choose(self, view: QueueView, now: float) -> Choice | Wait | None:
        """O(batch sizes · log queries)."""
        subnet = self._assigned.get(view.asking, self._usual)
        if self._batching == "greedy" or not self._largest:
            return self._greedy[subnet].choose(view, now)
        return wait_or_batch(self._profile, subnet, view, now, max_batch=self._largest[subnet])

    def on_tick(self, view: QueueView, now: float) -> None:
        """Take note of the load, and plan if it is time."""
        if self._meter.sample(view, now) and (self._meter.rate or self._weights):
            keep = MEMORY / (1.0 + MEMORY)
            self._weighted = self._weighted * keep + self._meter.rate
            self._weights = self._weights * keep + 1.0
        if self._weights and now >= self._due:
            self._due = now + (self._period if self._largest else min(self._period, WINDOW))
            self._plan([worker.name for worker in view.workers])

    def _plan(self, workers: Sequence[str]) -> None:
        demand = self._weighted / self._weights
        self._largest = largest_batches(self._profile, self._slo or self._meter.slo or inf)
        rates = {
            subnet: size / self._profile.latency(subnet, size)
            for subnet, size in self._largest.items()
        }
        counts = planned(self._profile, rates, max(1, len(workers)), demand, self._beta)
        self._usual = max(counts, key=lambda subnet: (counts[subnet], rates[subnet]))
        self._assigned = assigned(workers, counts, self._assigned)


def largest_batches(profile: Profile, slo: float) -> dict[str, int]:
    """For each subnet the largest profiled batch that takes less than half of ``slo`` seconds,
    without those that have none; if no subnet has any, the smallest one with the smallest batch.
    """
    found = {
        subnet: max(fitting)
        for subnet, row in zip(profile.subnets, profile.latencies, strict=True)
        if (fitting := [b for b, t in zip(profile.batch_sizes, row, strict=True) if t < slo / 2])
    }
    return found or {profile.smallest: profile.batch_sizes[0]}


def planned(
    profile: Profile, rates: Mapping[str, float], workers: int, demand: float, beta: float
) -> dict[str, int]:
    """How many of ``workers`` have each subnet, the most accurate first; none has 0.

    ``rates`` (queries per second of one worker) are of the subnets that may be used. The linear
    program splits the workers between two neighbours on the hull, which leaves one worker split:
    it gets the most accurate subnet with which they still serve ``beta · demand``.
    """
    hull = Hull.over(((s, 1.0 / rate, profile.accuracy(s)) for s, rate in rates.items()), NEVER)
    fastest = workers / hull.taus[0]
    while beta * demand > fastest and beta > MIN_BETA:
        beta -= 0.1 if beta > 1.5 else 0.05
    wanted = beta * demand
    if wanted > fastest or not wanted:
        return {hull.subnets[0] if wanted else hull.subnets[-1]: workers}
    mix = hull.mix(workers / wanted)
    upper, share = mix[-1]
    if len(mix) == 1:
        return {upper: workers}
    lower = mix[0][0]
    # The allowance keeps 2.9999999999999996 workers from being two.
    whole = min(floor(wanted * share / rates[upper] + 1e-9), workers - 1)
    counts = Counter({upper: whole, lower: workers - whole - 1})
    missing = wanted - whole * rates[upper] - counts[lower] * rates[lower]
    counts[_most_accurate(profile, rates, missing) or lower] += 1
    return {s: counts[s] for s in reversed(profile.subnets) if counts[s]}


def _most_accurate(profile: Profile, rates: Mapping[str, float], least: float) -> str | None:
    """The most accurate subnet with this rate or more, but for rounding; None if there is none."""
    enough = least * (1 - 1e-9)
    return next((s for s in reversed(profile.subnets) if rates.get(s, 0.0) >= enough), None)


def assigned(
    workers: Sequence[str], counts: Mapping[str, int], before: Mapping[str, str]
) -> dict[str, str]:
    """A subnet for each worker, as often as ``counts`` say in all; the most accurate of what is
    left (they are first there) for the first workers, after each keeps what it had if it can.
    """
    left = dict(counts)
    kept: dict[str, str] = {}
    for worker in workers:
        subnet = before.get(worker, "")
        if left.get(subnet):
            kept[worker] = subnet
            left[subnet] -= 1
    rest = (subnet for subnet, count in left.items() for _ in range(count))
    return {worker: kept.get(worker) or next(rest) for worker in workers}
