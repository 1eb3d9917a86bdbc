"""The batching of Proteus: whether to run what waits, or to wait for a fuller batch."""

from policies.clockwork import largest_with_demand
from policies.types import Choice, Profile, QueueView, Wait


def wait_or_batch(
    profile: Profile,
    subnet: str,
    view: QueueView,
    now: float,
    *,
    max_batch: int | None = None,
    margin: float = 0.001,
) -> Choice | Wait | None:
    """Adaptive batching of Proteus (ASPLOS'24), "accscale" in its ``core/predictor.py``.

    With q queries waiting, B(q) is the largest profiled batch that they fill, and T(q) the latest
    time at which it may start: the head's deadline less the time of B(q). Until T(q) the device
    stays idle, since another query may come. It starts

    - at T(q), with B(q);
    - as soon as B(q) cannot grow any more, because it is ``max_batch``;
    - at once, with the smaller batch, when the query that came last raised B to a size the T of
      which has passed (a batch without that last query, as their code comments it).

    In front of a batch that can be filled without them, heads that would be late are given up, as
    there; see `largest_with_demand`. Where that is so, nothing is gained by waiting.

    ``max_batch`` caps B, theirs is the largest batch that takes less than half the SLO; None means
    the largest profiled one. ``margin`` (seconds) is how long before T(q) the batch starts: a
    timer that rings a moment late would find that it does not fit any more. Theirs has none,
    because simulated timers are exact. Raises ``KeyError`` for a subnet that is not profiled.

    Reduced: one queue stands before all workers, not one before each.
    """
    if not view.waiting:
        return None
    batch, shed = largest_with_demand(profile, subnet, view, now, max_batch)
    waiting = len(view)
    full = profile.max_batch if max_batch is None else profile.batch_bucket(max_batch)
    if waiting < full and batch == profile.batch_bucket(waiting):
        # In the past when a head is given up: it is too late for this batch.
        until = view.head.deadline - profile.latency(subnet, batch) - margin
        if until > now:
            return Wait(until)
    return Choice(subnet, batch, shed)
