"""RAMSIS: for each load a table of what to do by queue length and slack, solved beforehand."""

from bisect import bisect_left
from math import ceil, inf
from typing import Literal

from policies.hull import Hull
from policies.load_meter import LoadMeter
from policies.maxbatch import MaxBatch
from policies.ramsis_mdp import Table, solve
from policies.types import Choice, Profile, QueueView

MOST_ACTIONS = 32  # subnets times batch sizes


class Ramsis:
    """RAMSIS (EuroSys'24): model selection as a Markov decision process of each worker.

    Offline, `solve` finds for each of ``levels`` evenly spaced loads, up to what the fastest subnet
    can serve within the SLO, what a worker does with n queries waiting for it and a slack of m for
    the earliest. Online, the load of the last ``window`` seconds, counted as the next level up,
    says which table holds, and the queue says where to look.

    - The queue is one for all workers here, not one for each behind a round-robin balancer. So n is
      this worker's part of it: with ``share="even"`` one of as many parts as there are workers;
      with ``"staggered"`` up to twice that, as it would be if the workers became free one after the
      other at even distances, since the one that asks has had the longest time to collect queries.
      m is the slack of the head.
    - Heads for which the action is too late are given up, in the tables (see `solve`) and here.
      Theirs are served late by the fastest model. Where the hopeless are dropped anyway, the head
      of a long queue is always about to be so, and a worker that hurries after it, or is late for
      it, never catches up: at 15 percent overload 4 percent of the queries were in time instead of
      86 (simulated).
    - ``slo`` (seconds) is by default the mean of what arrives, see `LoadMeter`. Until the first
      arrivals are seen `MaxBatch` decides, looking at the queue. If the SLO is given, all tables
      are solved by the constructor, otherwise each at the tick that needs it.

    From the paper's code (``RAMSIS_gen.py``, ``VarBatchSMDP.py``, ``solver.py``,
    ``simulator_script.py`` and ``simulator.py`` of dmmendo/RAMSIS at 9b74967; the text itself was
    not read): the state, the reward of accuracy in time, the queue of 32, the window of 0.5 s and
    the next load up. Different:

    - The reward counts each query, and time counts (there: each decision, a hundred of them ahead).
    - Smaller batches than all that waits are actions, too; there it is an option, by default off.
    - A worker's part of the stream is Poisson: the balancer's even turns are left out. Simulated
      on eight workers, tables that had them were better by at most 0.05 points of accuracy.
    - At most `MOST_ACTIONS` actions, of subnets evenly spaced on the hull; 16 even slacks besides
      the latencies, instead of a hundred: for six subnets and five batch sizes 1,504 states and
      about 0.04 s a table; for a large profile with batches up to 128, 0.1 s.
    """

    def __init__(
        self,
        profile: Profile,
        slo: float | None = None,
        window: float = 0.5,
        levels: int = 10,
        share: Literal["even", "staggered"] = "even",
    ) -> None:
        if slo is not None and not 0 < slo < inf:
            raise ValueError(f"slo must be positive seconds, not {slo}")
        if levels < 1:
            raise ValueError(f"levels must be 1 or more, not {levels}")
        if share not in {"even", "staggered"}:
            raise ValueError(f"share must be even or staggered, not {share!r}")
        self._profile = thinned(profile.pareto(), MOST_ACTIONS)
        self._slo = slo
        self._levels = levels
        self._share = share
        self._meter = LoadMeter(window)
        self.tick_period = self._meter.period
        self._unplanned = MaxBatch(profile, queue_aware=True)
        self._tables: dict[int, Table] = {}  # by level, for one SLO
        self._solved_for = 0.0
        self._table: Table | None = None
        if slo is not None:
            for level in range(1, levels + 1):
                self._solved(slo, level)

    def __repr__(self) -> str:
        return f"Ramsis(levels={self._levels}, share={self._share!r})"

    def choose(self, view: QueueView, now: float) -> Choice | None:
        """O(log queue lengths + log slacks)."""
        if not view.waiting or self._table is None:
            return self._unplanned.choose(view, now)
        workers = max(1.0, view.capacity)
        parts = workers if self._share == "even" else (workers + 1.0) / 2.0
        subnet, batch = self._table.at(ceil(len(view) / parts), view.head.deadline - now)
        latency = self._profile.latency(subnet, batch)
        late = bisect_left(view.waiting, latency, key=lambda query: query.deadline - now)
        return Choice(subnet, batch, late)

    def on_tick(self, view: QueueView, now: float) -> None:
        """Take up the table of the load, if there is a new estimate of it."""
        new = self._meter.sample(view, now)
        slo = self._slo or self._meter.slo
        if new and slo and self._meter.rate:
            each = self._meter.rate / max(1.0, view.capacity)
            level = ceil(self._levels * each / capacity(self._profile, slo))
            self._table = self._solved(slo, min(max(level, 1), self._levels))

    def _solved(self, slo: float, level: int) -> Table:
        if slo != self._solved_for:
            self._solved_for = slo
            self._tables.clear()
        if level not in self._tables:
            rate = capacity(self._profile, slo) * level / self._levels
            self._tables[level] = solve(self._profile, slo, rate)
        return self._tables[level]


def capacity(profile: Profile, slo: float) -> float:
    """Queries per second of one worker, as fast as it can within ``slo``; without regard to that,
    where nothing can be done within it.
    """
    rates = [
        (latency > slo, -size / latency)
        for row in profile.latencies
        for size, latency in zip(profile.batch_sizes, row, strict=True)
    ]
    return -min(rates)[1]


def thinned(profile: Profile, most: int) -> Profile:
    """As many subnets as make at most ``most`` pairs with the batch sizes, but at least two: of a
    larger profile those on the hull, and evenly spaced if still too many. The least and the most
    accurate one are always among them.
    """
    room = max(2, most // len(profile.batch_sizes))
    if len(profile.subnets) <= room:
        return profile
    hull = [profile.index(subnet) for subnet in Hull.of(profile).subnets]
    ranks = sorted({0, *hull, len(profile.subnets) - 1})
    if len(ranks) > room:
        ranks = [ranks[round(i * (len(ranks) - 1) / (room - 1))] for i in range(room)]
    return Profile(
        tuple(profile.subnets[rank] for rank in ranks),
        tuple(profile.accuracies[rank] for rank in ranks),
        profile.batch_sizes,
        tuple(profile.latencies[rank] for rank in ranks),
    )
