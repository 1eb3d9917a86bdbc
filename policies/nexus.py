"""Nexus: a planned batch size, and its early drop, which can stand before any other policy."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import inf, nextafter
from typing import Literal, overload

from policies.fixed import Fixed, find_subnet
from policies.maxacc import MaxAcc
from policies.maxbatch import MaxBatch
from policies.slackfit import SlackFit
from policies.types import Choice, Policy, Profile, QueueView, Wait, Waiting


class Nexus:
    """Nexus (SOSP'19) for one session on each of its devices: one subnet, batches of the planned
    size, and a drop rule.

    - Plan: a saturated device takes the largest batch of which two fit into the SLO, because a
      query that just misses a batch must wait for it to end (``GetMaxBatch`` in
      ``common/model_db.cpp``). ``slo`` is in seconds; without it the largest profiled batch.
    - Dispatch: with ``drop="early"``, heads are given up until the planned batch, or as much of it
      as the queue still fills, is in time for the next one (``GetBatchTaskSlidingWindow`` in
      ``backend/model_exec.cpp``, the default there). With ``"lazy"``, only heads are that could
      not even be served alone, and the batch shrinks to what the next one allows
      (``GetBatchTaskEarliest``).

    Both drop rules are those of `Fixed`; sizes that are not profiled round down. ``subnet`` is as
    there. Left out: several sessions packed onto a device (squishy bin packing), and the epochs in
    which the plan follows the load. With one supernet a device has one session.
    """

    def __init__(
        self,
        profile: Profile,
        subnet: str | int = "largest",
        slo: float | None = None,
        drop: Literal["early", "lazy"] = "early",
    ) -> None:
        if drop not in {"early", "lazy"}:
            raise ValueError(f"drop must be early or lazy, not {drop!r}")
        subnet = find_subnet(profile, str(subnet))
        if slo is not None:
            most = profile.largest_batch(subnet, slo / 2)
            profile = limited(profile, lambda size: size <= most)
        self._planned = profile.max_batch
        self._fixed = Fixed(profile, subnet, drop)

    def __repr__(self) -> str:
        return f"Nexus({self._fixed!r}, planned={self._planned})"

    def choose(self, view: QueueView, now: float) -> Choice | None:
        """O(batch sizes), and O(heads shed)."""
        return self._fixed.choose(view, now)


class EarlyDrop:
    """Any policy behind the early drop of Nexus and an execution margin.

    Heads are given up until the largest batch that the queue still fills is in time for the next
    one with the smallest subnet. A policy that never sees a more urgent head keeps its batches
    full, where it would otherwise fall to small batches just when many wait. ``margin`` (seconds)
    is kept free of every slack, for batches that take longer than planned; without early drop a
    margin makes that fall worse.

    ``inner`` is the name of a greedy policy (``maxbatch`` then looks at the queue), or whatever
    builds a policy from a profile. Its ``admit`` and ``on_tick`` are passed on.
    """

    def __init__(
        self,
        profile: Profile,
        inner: Literal["slackfit", "maxbatch", "maxacc"] | Callable[[Profile], Policy] = "slackfit",
        margin: float = 0.001,
    ) -> None:
        if isinstance(inner, str) and inner not in _GREEDY:
            raise ValueError(f"inner must be one of {', '.join(_GREEDY)}, not {inner!r}")
        if not 0 <= margin < inf:
            raise ValueError(f"the margin must be 0 or more seconds, not {margin}")
        self._inner = (_GREEDY[inner] if isinstance(inner, str) else inner)(profile)
        self._margin = margin
        profile = profile.pareto()
        self._bucket = profile.batch_bucket
        self._smallest = profile.smallest
        self._latency = dict(zip(profile.batch_sizes, profile.latencies[0], strict=True))
        for optional in ("admit", "on_tick", "tick_period"):
            if hasattr(self._inner, optional):
                setattr(self, optional, getattr(self._inner, optional))

    def __repr__(self) -> str:
        return f"EarlyDrop({self._inner!r}, margin={self._margin})"

    def choose(self, view: QueueView, now: float) -> Choice | Wait | None:
        """O(heads shed), and what the inner policy needs."""
        if not view.waiting:
            return None
        start = now + self._margin
        shed = self._in_the_way(view, start)
        if shed == len(view):
            return Choice(self._smallest, 1, shed)
        answer = self._inner.choose(_behind(view, shed), start)
        if isinstance(answer, Wait):
            return Wait(max(answer.until - self._margin, nextafter(now, inf)))
        if answer is None or not shed:
            return answer
        return Choice(answer.subnet, answer.batch_size, shed + answer.shed)

    def _in_the_way(self, view: QueueView, start: float) -> int:
        waiting = len(view)
        for ahead, query in enumerate(view.waiting):
            if self._latency[self._bucket(waiting - ahead)] <= query.deadline - start:
                return ahead
        return waiting


_GREEDY: dict[str, Callable[[Profile], Policy]] = {
    "slackfit": SlackFit,
    "maxbatch": partial(MaxBatch, queue_aware=True),
    "maxacc": MaxAcc,
}


def limited(profile: Profile, allowed: Callable[[int], bool]) -> Profile:
    """The profile with the batch sizes that are ``allowed``, or with the smallest if none is."""
    kept = [i for i, size in enumerate(profile.batch_sizes) if allowed(size)] or [0]
    return Profile(
        profile.subnets,
        profile.accuracies,
        tuple(profile.batch_sizes[i] for i in kept),
        tuple(tuple(row[i] for i in kept) for row in profile.latencies),
    )


def _behind(view: QueueView, skip: int) -> QueueView:
    """The view without its first ``skip`` queries."""
    return replace(view, waiting=_Behind(view.waiting, skip)) if skip else view


class _Behind(Sequence[Waiting]):
    """All but the first; as lazy as what it is made from."""

    __slots__ = ("_skip", "_waiting")

    def __init__(self, waiting: Sequence[Waiting], skip: int) -> None:
        self._waiting = waiting
        self._skip = skip

    def __len__(self) -> int:
        return len(self._waiting) - self._skip

    @overload
    def __getitem__(self, index: int) -> Waiting: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Waiting, ...]: ...
    def __getitem__(self, index: int | slice) -> Waiting | tuple[Waiting, ...]:
        if isinstance(index, slice):
            return tuple([self[i] for i in range(*index.indices(len(self)))])
        # range checks the index and counts a negative one from the end.
        return self._waiting[range(self._skip, len(self._waiting))[index]]
