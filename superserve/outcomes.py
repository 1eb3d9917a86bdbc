"""What a client is told: the answer to a query that was run, the error of one that was not."""

from collections.abc import Callable
from math import isfinite

from superserve.errors import (
    DeadlineExceeded,
    InternalError,
    NotReady,
    Overloaded,
    Shed,
    SuperServeError,
    WorkerLost,
)
from superserve.messages import Answer, Complete, Drop, DropReason, Prediction, Query

# Seconds to wait where nothing can be computed: without a worker there is no rate.
UNKNOWN_RETRY = 1.0


def answer(
    query: Query, complete: Complete, predictions: tuple[Prediction, ...], inference: float
) -> Answer:
    """``predictions`` are those of this query; ``inference`` is the whole batch's, in seconds.

    All time that is not inference counts as queue: decoding, waiting and transfer.
    """
    dispatch, total = complete.dispatch, complete.now - query.arrival
    return Answer(
        predictions=predictions,
        subnet=dispatch.subnet,
        accuracy=dispatch.accuracy,
        deadline_met=complete.now <= query.deadline,
        queue=max(0.0, total - inference),
        inference=inference,
        total=total,
        batch_size=len(dispatch.queries),
    )


def error(drop: Drop, drain_time: Callable[[str], float]) -> SuperServeError:
    """``drain_time`` tells, where it matters, in how many seconds what waits for a model could be
    done; it is infinite without a worker.
    """
    match drop.reason:
        case DropReason.EXPIRED:
            allowed = (drop.query.deadline - drop.query.arrival) * 1e3
            return DeadlineExceeded(
                f"no subnet can answer within {allowed:g} ms any more; allow more time"
            )
        case DropReason.SHED | DropReason.REFUSED:
            return Shed(
                "this query was given up so that others are on time; ask again later",
                retry_after=_finite(drain_time(drop.query.model)),
            )
        case DropReason.FULL:
            return Overloaded(
                "too many queries wait; ask again later",
                retry_after=_finite(drain_time(drop.query.model)),
            )
        case DropReason.NO_WORKER:
            return no_worker()
        case DropReason.WORKER_LOST:
            return WorkerLost("the worker died while it had this query; ask again")
        case DropReason.CANCELLED:
            return Shed("this query was cancelled")


def no_worker() -> NotReady:
    return NotReady("no worker is connected now; ask again later", retry_after=UNKNOWN_RETRY)


def shutting_down() -> NotReady:
    return NotReady("the server is starting or shutting down; ask again when it is ready",
                    retry_after=UNKNOWN_RETRY)  # fmt: skip


def full(drain_time: float) -> Overloaded:
    return Overloaded(
        "the server holds as many images as it can; ask again later, or less often",
        retry_after=_finite(drain_time),
    )


def batch_failed() -> InternalError:
    return InternalError("the worker could not run this query; the server's log says why")


def _finite(seconds: float) -> float:
    return seconds if isfinite(seconds) else UNKNOWN_RETRY
