"""Clockwork: one subnet, the largest batch that enough queries can still be in."""

from bisect import bisect_left

from policies.fixed import find_subnet
from policies.types import Choice, Profile, QueueView


class Clockwork:
    """Clockwork (OSDI'20), section 5.3 and ``src/clockwork/controller/infer5`` of its code.

    There, each batch size has a queue of its own, from which the requests that this size would
    make late are taken; the strategies (batch size, latest start of the first request) are tried
    earliest start first, and the one that is carried out is raised to the largest size for which
    enough requests are left. With one model the order of the strategies cancels out, and what
    remains is `largest_with_demand`. Who is passed over by the batch is given up, as there.

    ``subnet`` is as for `Fixed`; Clockwork itself knows no accuracy, so that the default is the
    most accurate one. Left out: loading of weights and the order of models (there is one
    supernet), the measured 99th percentile (the profile is taken for it), the 10 ms of work that
    are sent ahead (the credits of a worker), and the worker's refusal of a batch that starts late.
    """

    def __init__(self, profile: Profile, subnet: str | int = "largest") -> None:
        self._profile = profile
        self._subnet = find_subnet(profile, str(subnet))

    def __repr__(self) -> str:
        return f"Clockwork(subnet={self._subnet!r})"

    def choose(self, view: QueueView, now: float) -> Choice | None:
        """O(batch sizes · log queries)."""
        if not view.waiting:
            return None
        batch, shed = largest_with_demand(self._profile, self._subnet, view, now)
        return Choice(self._subnet, batch, shed)


def largest_with_demand(
    profile: Profile,
    subnet: str,
    view: QueueView,
    now: float,
    most: int | None = None,
    *,
    padded: bool = False,
) -> tuple[int, int]:
    """The largest profiled batch (up to ``most``) which as many queries could all be in and be in
    time, and how many heads could not.

    With ``padded``, a batch may be smaller than the profiled one whose time it takes. When there
    is no such batch: the smallest size; when nobody can be in time, all are counted. Something
    must wait.
    """
    row = profile.latencies[profile.index(subnet)]
    sizes, waiting = profile.batch_sizes, len(view)
    for column in range(len(sizes) - 1, -1, -1):
        if most is not None and sizes[column] > most:
            continue
        least = sizes[column] if not padded else sizes[column - 1] + 1 if column else 1
        if least <= waiting:
            late = _too_late(view, now, row[column])
            if waiting - late >= least:
                return min(sizes[column], waiting - late), late
    return sizes[0], _too_late(view, now, row[0])


def _too_late(view: QueueView, now: float, latency: float) -> int:
    """How many deadlines are less than ``latency`` seconds away."""
    if latency <= view.head.deadline - now:
        return 0
    return bisect_left(view.waiting, latency, key=lambda query: query.deadline - now)
