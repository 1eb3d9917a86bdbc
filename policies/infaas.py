"""INFaaS, the cheapest model variant that is accurate enough, and its reactive autoscaler."""

from typing import Literal

from policies.fixed import Fixed
from policies.types import Choice, Profile, QueueView


class INFaaS:
    """INFaaS (ATC'21): users state what they need, and the cheapest variant that meets it serves.

    The variants are the subnets, of which those that another one beats are left out. Without an
    accuracy requirement the cheapest is the least accurate, as its authors confirmed to those of
    SuperServe (NSDI'25, section 6.1); with ``min_accuracy`` (percent) it is the least accurate that
    reaches it. The batch follows the slack as that of Clipper+ does, see `Fixed`, and ``drop`` is
    as there; INFaaS itself gives nothing up, so that ``"early"`` is kinder to it.

    With ``autoscale`` it takes part in accuracy scaling as in Proteus' port
    (``core/executor.py``): the cost of a variant is what it lacks in accuracy, and each
    ``tick_period`` the load (queries per second) is held against the capacity of all workers, each
    running the largest batch that takes less than half of ``slo`` (seconds; None: the largest).

    - Load above 1 - ``slack`` of the capacity: change to the cheapest variant for which it is not,
      or, if there is none, to the one with the most capacity.
    - Load within (1 - ``slack``)(1 - ``downscale_slack``) of the capacity of a less costly
      variant: change to the cheapest such one. What lies between keeps it from flapping.

    Reduced: replicas and hardware are not chosen, since each worker holds the whole supernet. The
    port works out the second rule for each variant and then takes the least accurate, whatever it
    found; here the rule is carried out. The load is the scheduler's short-term rate at the tick,
    not a count over the period, so that the first tick, at the first query, changes nothing. A
    floor of a single query is the scheduler's to enforce.

    Raises ``ValueError`` if no subnet reaches ``min_accuracy``.
    """

    tick_period = 1.0  # seconds, that of INFaaS's model autoscaler

    def __init__(
        self,
        profile: Profile,
        min_accuracy: float = 0.0,
        autoscale: bool = False,
        slo: float | None = None,
        slack: float = 0.05,
        downscale_slack: float = 0.6,
        drop: Literal["none", "lazy", "early"] = "early",
    ) -> None:
        if not (0 <= slack < 1 and 0 <= downscale_slack < 1):
            raise ValueError(f"slacks are shares below 1, not {slack} and {downscale_slack}")
        profile = profile.pareto()
        if profile.cheapest_above(min_accuracy) is None:
            raise ValueError(
                f"no subnet reaches {min_accuracy} percent; the best has {profile.accuracies[-1]}"
            )
        self._autoscale = autoscale
        self._high = 1 - slack
        self._low = self._high * (1 - downscale_slack)
        self._allowed = [
            Fixed(profile, subnet, drop)
            for subnet, accuracy in zip(profile.subnets, profile.accuracies, strict=True)
            if accuracy >= min_accuracy
        ]
        self._throughput = [
            _throughput(profile, row, slo) for row in profile.latencies[-len(self._allowed) :]
        ]
        self._active = 0
        self._started = False

    def __repr__(self) -> str:
        return f"INFaaS({self._allowed[self._active]!r}, autoscale={self._autoscale})"

    def choose(self, view: QueueView, now: float) -> Choice | None:
        """As `Fixed.choose`, with the active variant."""
        return self._allowed[self._active].choose(view, now)

    def on_tick(self, view: QueueView, now: float) -> None:  # noqa: ARG002  # the policy form
        """Change the variant if the load asks for it. O(subnets)."""
        load = view.arrival_rate
        first, self._started = not self._started, True
        if first or not self._autoscale or not view.workers:
            return
        capacity = [view.capacity * throughput for throughput in self._throughput]
        if load > self._high * capacity[self._active]:
            enough = [i for i, most in enumerate(capacity) if load <= self._high * most]
            self._active = enough[-1] if enough else capacity.index(max(capacity))
        else:
            ample = [i for i, most in enumerate(capacity) if load <= self._low * most]
            self._active = max([self._active, *ample])


def _throughput(profile: Profile, row: tuple[float, ...], slo: float | None) -> float:
    """Queries per second of one worker with the largest batch allowed; 0 if none is."""
    pairs = list(zip(profile.batch_sizes, row, strict=True))
    if slo is not None:
        pairs = [(size, latency) for size, latency in pairs if latency < slo / 2]
    return pairs[-1][0] / pairs[-1][1] if pairs else 0.0
