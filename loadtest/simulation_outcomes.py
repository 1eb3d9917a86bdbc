"""What became of each query and each dispatch of a simulation, in arrays, and what they say."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt

from loadtest.records import Record
from superserve.messages import Dispatch, DropReason

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

UNANSWERED = "unanswered"  # the run was over and the query still waited
DROPPED: tuple[str | None, ...] = (None, *map(str, DropReason), UNANSWERED)
_COLUMNS = 8  # of `Dispatches`
_CODES: dict[str | None, int] = {reason: code for code, reason in enumerate(DROPPED)}


@dataclass(frozen=True, slots=True, eq=False)
class Dispatches:
    """The dispatches [D] in the order of the decisions. Times are seconds from the start.

    ``decided`` <= ``start``: a worker with credits to spare is given its next batch before it is
    done with the last. ``finish`` is nan where the worker died with the batch. ``slack`` is what
    the most urgent query of the batch had left at the planned start.
    """

    decided: Floats
    start: Floats
    finish: Floats
    slack: Floats
    subnet: Ints  # index into `Outcomes.subnets`
    accuracy: Floats  # percent
    size: Ints
    worker: Ints  # index into ``workers``
    workers: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.start)


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """A run in windows [W] by time of arrival; the shares of an empty window are nan."""

    start: Floats
    seconds: Floats
    queries: Ints
    met: Ints
    attainment: Floats
    mean_accuracy: Floats  # percent, over those that met their deadline
    mean_batch: Floats  # queries per dispatch, by time of decision

    @property
    def rate(self) -> Floats:
        """Arrivals per second."""
        return self.queries / self.seconds


@dataclass(frozen=True, slots=True, eq=False)
class Outcomes:
    """The queries [N] in order of arrival. Times are seconds from the start, accuracy percent.

    A query has either a ``finish`` and the ``subnet``, ``accuracy`` and ``dispatch`` that it was
    answered by, or (nan, -1, nan and -1) the code of the reason why it was ``dropped``. The shares
    raise ``ValueError`` if there are no queries, for then they are not defined.
    """

    arrival: Floats
    deadline: Floats
    finish: Floats
    subnet: Ints  # index into ``subnets``
    accuracy: Floats
    dropped: Ints  # index into `DROPPED`, 0 where it was not
    dispatch: Ints  # index into ``dispatches``
    subnets: tuple[str, ...]
    dispatches: Dispatches

    def __len__(self) -> int:
        return len(self.arrival)

    @property
    def met(self) -> npt.NDArray[np.bool_]:
        """Was the result there by the deadline? [N]"""
        return self.finish <= self.deadline  # nan is not

    @property
    def latency(self) -> Floats:
        """Seconds from arrival to result [N], nan where no result came."""
        return self.finish - self.arrival

    @property
    def attainment(self) -> float:
        """The share of all queries that met their deadline, 0..1."""
        if not len(self):
            raise ValueError("there are no queries to report on")
        return float(np.mean(self.met))

    @property
    def mean_accuracy(self) -> float | None:
        """Profiled accuracy (percent) over queries that met their deadline; None if none did."""
        met = self.met
        return float(np.mean(self.accuracy[met])) if met.any() else None

    @property
    def effective_accuracy(self) -> float:
        """Attainment times mean accuracy."""
        return self.attainment * (self.mean_accuracy or 0.0)

    def utility(self, penalty: float = 100.0) -> float:
        """Accuracy if met and ``-penalty`` if missed, mean over all queries."""
        return self.effective_accuracy - penalty * (1 - self.attainment)

    @property
    def mean_batch(self) -> float | None:
        """Queries per dispatch; None without dispatches."""
        return float(np.mean(self.dispatches.size)) if len(self.dispatches) else None

    @property
    def drops(self) -> dict[str, int]:
        """How many were dropped, by reason."""
        counts = np.bincount(self.dropped, minlength=len(DROPPED)).tolist()
        return {r: n for r, n in zip(DROPPED, counts, strict=True) if r is not None and n}

    def series(self, window: float, seconds: float | None = None) -> Series:
        """Cut into windows of ``window`` seconds.

        ``seconds`` is how long queries were sent; the last window is shorter where ``window`` does
        not divide it. Without it there are whole windows up to the last arrival. Raises
        ``ValueError`` for a window without length and for arrivals beyond ``seconds``.
        """
        last = float(self.arrival[-1]) if len(self) else 0.0
        if not window > 0 or (seconds is not None and not seconds > last):
            raise ValueError(f"no windows of {window} s in {seconds} s with arrivals until {last}")
        if seconds is None:
            seconds = (last // window + 1) * window
        # The small allowance keeps 0.3 / 0.1 = 2.9999999999999996 from making a sliver of a window.
        count = max(ceil(seconds / window - 1e-9), 1)
        start = window * np.arange(count, dtype=np.float64)
        place = np.minimum((self.arrival / window).astype(np.int64), count - 1)
        met = self.met
        queries = np.bincount(place, minlength=count)
        good = np.bincount(place[met], minlength=count)
        accuracy = np.bincount(place[met], self.accuracy[met], minlength=count)
        made = self.dispatches.decided < count * window
        when = (self.dispatches.decided[made] / window).astype(np.int64)
        size = np.bincount(when, self.dispatches.size[made], minlength=count)
        with np.errstate(invalid="ignore"):  # 0 / 0 is the nan of an empty window
            return Series(
                start=start,
                seconds=np.minimum(window, seconds - start),
                queries=queries,
                met=good,
                attainment=good / queries,
                mean_accuracy=accuracy / good,
                mean_batch=size / np.bincount(when, minlength=count),
            )

    def records(self) -> list[Record]:
        """One record per query, in order of arrival."""
        columns = (self.arrival, self.deadline, self.finish, self.subnet, self.accuracy,
                   self.dropped)  # fmt: skip
        return [
            Record(arrival, deadline, None, dropped=DROPPED[dropped])
            if dropped
            else Record(arrival, deadline, finish, self.subnets[subnet], accuracy)
            for arrival, deadline, finish, subnet, accuracy, dropped in zip(
                *(column.tolist() for column in columns), strict=True
            )
        ]


class Books:
    """Collects what happens, in flat arrays of numbers: a run may have millions of queries."""

    __slots__ = ("_completed", "_drop_codes", "_dropped", "_queries", "_rows", "_subnets")

    def __init__(self, subnets: Sequence[str]) -> None:
        self._subnets = {subnet: index for index, subnet in enumerate(subnets)}
        self._rows = array("d")  # `_COLUMNS` numbers for each dispatch
        self._completed = array("q")  # dispatches
        self._queries = array("q")  # of those, one after the other
        self._dropped = array("q")  # queries
        self._drop_codes = array("q")

    @property
    def answered(self) -> int:
        """Queries that were completed or dropped."""
        return len(self._queries) + len(self._dropped)

    def begin(
        self, dispatch: Dispatch, worker: int, decided: float, start: float, finish: float
    ) -> None:
        """Dispatches are numbered from 0 in the order of their decisions."""
        assert dispatch.id * _COLUMNS == len(self._rows)
        slack = dispatch.queries[0].deadline - dispatch.start
        subnet, size = self._subnets[dispatch.subnet], len(dispatch.queries)
        self._rows.extend((decided, start, finish, slack, dispatch.accuracy, subnet, size, worker))

    def complete(self, dispatch: Dispatch) -> None:
        self._completed.append(dispatch.id)
        self._queries.extend([query.id for query in dispatch.queries])

    def drop(self, query: int, reason: str) -> None:
        self._dropped.append(query)
        self._drop_codes.append(_CODES[reason])

    def outcomes(self, arrival: Floats, deadline: Floats, workers: Sequence[str]) -> Outcomes:
        """What became of the queries 0 to N-1, which came at ``arrival`` [N]."""
        rows = np.array(self._rows).reshape(-1, _COLUMNS).T
        decided, start, planned, slack, accuracy = rows[:5]
        subnet, size, worker = rows[5:].astype(np.int64)
        completed, queries = _ints(self._completed), _ints(self._queries)
        finish = np.full(len(size), np.nan)
        finish[completed] = planned[completed]
        dispatch = np.full(len(arrival), -1)
        dispatch[queries] = np.repeat(completed, size[completed])
        dropped = np.full(len(arrival), _CODES[UNANSWERED])
        dropped[_ints(self._dropped)] = _ints(self._drop_codes)
        dropped[queries] = 0
        done = dispatch >= 0

        def of_its_dispatch(values: npt.NDArray[Any], otherwise: float) -> npt.NDArray[Any]:
            found = np.full(len(arrival), otherwise, values.dtype)
            found[done] = values[dispatch[done]]
            return found

        return Outcomes(
            arrival=arrival,
            deadline=deadline,
            finish=of_its_dispatch(finish, np.nan),
            subnet=of_its_dispatch(subnet, -1),
            accuracy=of_its_dispatch(accuracy, np.nan),
            dropped=dropped,
            dispatch=dispatch,
            subnets=tuple(self._subnets),
            dispatches=Dispatches(
                decided, start, finish, slack, subnet, accuracy, size, worker, tuple(workers)
            ),
        )


def _ints(values: "array[Any]") -> Ints:
    return np.array(values, dtype=np.int64)
