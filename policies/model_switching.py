"""Model-Switching: one subnet for all workers, looked up by the load of the last window."""

from bisect import bisect_left
from dataclasses import dataclass
from math import inf

import numpy as np
import numpy.typing as npt

from policies.fixed import Fixed
from policies.load_meter import LoadMeter
from policies.types import Choice, Profile, QueueView

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LoadTable:
    """``subnets[i]`` for loads above ``loads[i - 1]`` and up to ``loads[i]`` (queries per second),
    the last one for any load above.
    """

    loads: tuple[float, ...]
    subnets: tuple[str, ...]

    def at(self, load: float) -> str:
        """O(log loads)."""
        return self.subnets[min(bisect_left(self.loads, load), len(self.loads) - 1)]


class ModelSwitching:
    """Model-Switching (HotCloud'20): the subnet that had the best *effective accuracy* (accuracy
    times the share of queries that are done by their deadline) at the load of the last window.

    The authors measure that table offline; here it is calculated, see `effective_accuracy`, for
    ``levels`` loads up to what the fastest subnet can serve, and a load counts as the next one up.
    ``workers`` (by default the capacity that the view shows) and ``slo`` (seconds; by default the
    mean of what arrives, see `LoadMeter`; without it there is no limit) are what it is calculated
    for. At the end of each ``window`` (seconds) all workers change over. Before the first arrivals
    the load is unknown, and the smallest subnet serves.

    Batches are those of `Fixed` with early drop, which is kinder than the original on Clipper.
    Only the abstract of the paper was read, and what RAMSIS (EuroSys'24) says of it in its code,
    ``MS_gen.py``: one model for all at a load, found by simulation. There it is the most accurate
    one with less than 1 percent of the deadlines missed. The window is unverified.
    """

    def __init__(
        self,
        profile: Profile,
        window: float = 1.0,
        workers: int | None = None,
        slo: float | None = None,
        levels: int = 64,
    ) -> None:
        if workers is not None and workers < 1:
            raise ValueError(f"workers must be 1 or more, not {workers}")
        if slo is not None and not slo > 0:
            raise ValueError(f"slo must be positive seconds, not {slo}")
        if levels < 1:
            raise ValueError(f"levels must be 1 or more, not {levels}")
        self._profile = profile = profile.pareto()
        self._workers = workers
        self._slo = slo
        self._levels = levels
        self._window = window
        self._meter = LoadMeter(window)
        self.tick_period = self._meter.period
        self._serving = {s: Fixed(profile, s, drop="early") for s in profile.subnets}
        self._subnet = profile.smallest
        self._tables: dict[tuple[int, float], LoadTable] = {}
        if workers is not None and slo is not None:
            self._table(workers, slo)

    def __repr__(self) -> str:
        return f"ModelSwitching(window={self._window})"

    def choose(self, view: QueueView, now: float) -> Choice | None:
        """O(batch sizes), and O(heads shed)."""
        return self._serving[self._subnet].choose(view, now)

    def on_tick(self, view: QueueView, now: float) -> None:
        """Change over, if a window is over."""
        if self._meter.sample(view, now) and self._meter.rate:
            workers = self._workers or max(1, round(view.capacity))
            table = self._table(workers, self._slo or self._meter.slo or inf)
            self._subnet = table.at(self._meter.rate)

    def _table(self, workers: int, slo: float) -> LoadTable:
        if (workers, slo) not in self._tables:
            self._tables[workers, slo] = load_table(self._profile, workers, slo, self._levels)
        return self._tables[workers, slo]


def load_table(profile: Profile, workers: int, slo: float, levels: int) -> LoadTable:
    """The subnet of the best effective accuracy at ``levels`` evenly spaced loads, the last of
    which is what the fastest subnet could just serve. Where none meets a deadline: the fastest.
    """
    sizes = np.array(profile.batch_sizes)
    throughput = (sizes / np.array(profile.latencies)).max(axis=1)
    loads = throughput.max() * workers * np.arange(1, levels + 1) / levels
    effective = effective_accuracy(profile, loads, workers, slo)
    best = np.where(effective.max(axis=1) > 0, effective.argmax(axis=1), throughput.argmax())
    return LoadTable(tuple(loads.tolist()), tuple(profile.subnets[row] for row in best.tolist()))


def effective_accuracy(profile: Profile, loads: Floats, workers: int, slo: float) -> Floats:
    """[loads, subnets] accuracy times the share of queries within ``slo`` seconds, if each subnet
    is served in the batch size that suits it best at that load (queries per second).

    An M/D/c queue whose customers are batches: of b queries from a Poisson stream, on c workers
    that take l for each, at the load rho = load · l / (b · c) < 1.

    - A query waits for the later ones of its batch: the i-th of b for (b - i) / load on average.
    - The batch waits at all with probability C(c, c · rho), Erlang's formula for M/M/c, and then
      for an exponential time with the mean l / (c · (1 - rho)) · (1/b + 0) / 2, the correction of
      Allen and Cunneen for batches that come evenly (the sum of b gaps varies by 1/b) and take a
      constant time. For one worker and b = 1 the mean is that of M/D/1, exactly.

    At rho >= 1 the queue grows without end, and no deadline is met.
    """
    accuracies, latencies = np.array(profile.accuracies), np.array(profile.latencies)
    within = np.zeros((len(loads), len(accuracies)))
    load = np.asarray(loads, dtype=np.float64)[:, None]
    for b, latency in zip(profile.batch_sizes, latencies.T, strict=True):
        rho = load * latency / (b * workers)
        stable = rho < 1.0
        rho = np.where(stable, rho, 0.0)
        decay = 2 * b * workers * (1.0 - rho) / latency  # of the wait of a batch that waits
        left = slo - latency  # for the query that completes its batch; 1 / load less for each other
        count = np.clip(np.floor(left * load) + 1, 0, b)  # of those with any time left
        least = left - (count - 1) / load
        late = np.exp(-decay * np.maximum(least, 0.0))  # of a batch that waits; summed over those
        late *= np.expm1(-decay * count / load) / np.expm1(-decay / load)
        share = (count - erlang_c(workers, rho * workers) * late) / b
        within = np.maximum(within, np.where(stable, share, 0.0))
    effective: Floats = within * accuracies
    return effective


def erlang_c(servers: int, offered: Floats) -> Floats:
    """The probability of waiting in M/M/c, for ``offered`` < c erlangs. O(servers)."""
    blocked = np.ones_like(offered)  # Erlang B, server by server
    for server in range(1, servers + 1):
        blocked = offered * blocked / (server + offered * blocked)
    waiting: Floats = servers * blocked / (servers - offered * (1.0 - blocked))
    return waiting
