"""The queue of one model: queries that wait, earliest deadline first."""

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from itertools import islice
from math import inf
from typing import overload

from policies.types import Waiting
from superserve.messages import Query

# Below this many leading gaps the memory is not worth the copy.
_COMPACT_FROM = 256


class EDFQueue:
    """Queries by deadline; equal deadlines in the order in which they were pushed.

    A sorted list whose served head is only marked, and cut off once it outweighs the rest: pushing
    the latest deadline and taking from the head, which is nearly all that happens under one SLO,
    are then O(1) amortised; any other insertion or removal moves pointers with one memmove.
    """

    __slots__ = ("_by_id", "_serial", "entries", "first")

    def __init__(self) -> None:
        # For `WaitingView`, which reads them often; nobody else's.
        self.entries: list[tuple[float, int, Query]] = []  # the serial settles every tie
        self.first = 0  # where the waiting ones begin in `entries`
        self._serial = 0
        self._by_id: dict[int, tuple[float, int, Query]] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, query_id: object) -> bool:
        return query_id in self._by_id

    def holds(self, query: Query) -> bool:
        """Whether this very query waits here, not another one that came under its id."""
        entry = self._by_id.get(query.id)
        return entry is not None and entry[2] is query

    def __iter__(self) -> Iterator[Query]:
        return (entry[2] for entry in islice(self.entries, self.first, None))

    def __getitem__(self, index: int) -> Query:
        """The query at this place in EDF order, ``0 <= index < len``."""
        return self.entries[self.first + index][2]

    def __repr__(self) -> str:
        head = f", head due {self[0].deadline:g}" if self else ""
        return f"<EDFQueue {len(self)} waiting{head}>"

    @property
    def head_deadline(self) -> float:
        """The earliest deadline; infinite when nothing waits."""
        return self.entries[self.first][0] if self._by_id else inf

    def push(self, query: Query) -> None:
        """Let a query wait; no other one with its id may wait here."""
        assert query.id not in self._by_id, f"query {query.id} already waits"
        entry = (query.deadline, self._serial, query)
        self._serial += 1
        self._by_id[query.id] = entry
        entries = self.entries
        if not entries or entries[-1] < entry:
            entries.append(entry)
        else:
            insort(entries, entry, lo=self.first)

    def remove(self, query_id: int) -> Query | None:
        """Take one query out, wherever it stands; None if it does not wait."""
        entry = self._by_id.pop(query_id, None)
        if entry is None:
            return None
        del self.entries[bisect_left(self.entries, entry, lo=self.first)]
        self._compact()
        return entry[2]

    def rank(self, deadline: float) -> int:
        """How many deadlines are before this one."""
        if self.head_deadline >= deadline:
            return 0
        return bisect_left(self.entries, (deadline,), lo=self.first) - self.first

    def take(self, count: int, skip: int = 0) -> tuple[Query, ...]:
        """Take the ``count`` earliest after the first ``skip``, or as many as there are."""
        begin = self.first + skip
        taken = tuple([entry[2] for entry in self.entries[begin : begin + count]])
        for query in taken:
            del self._by_id[query.id]
        if skip:
            del self.entries[begin : begin + len(taken)]
        else:
            self.first += len(taken)
            self._compact()
        return taken

    def _compact(self) -> None:
        if not self._by_id:
            self.entries.clear()
            self.first = 0
        elif self.first >= _COMPACT_FROM and 2 * self.first >= len(self.entries):
            del self.entries[: self.first]
            self.first = 0


class WaitingView(Sequence[Waiting]):
    """What a policy sees of queries in EDF order; reading k of them costs O(k), making it O(1).

    It looks at the live queue, so it is good for the one decision that it was made for.
    """

    __slots__ = ("_begin", "_entries", "_length")

    def __init__(self, queue: EDFQueue, skip: int = 0) -> None:
        """Leave out the first ``skip``."""
        self._entries, self._begin = queue.entries, queue.first + skip
        self._length = len(self._entries) - self._begin

    def __len__(self) -> int:
        return self._length

    def deadline(self, index: int) -> float:
        """The deadline at this place, ``0 <= index < len``; faster than reading the query."""
        return self._entries[self._begin + index][0]

    def due_before(self, time: float, low: int, high: int) -> int:
        """How many deadlines are before this time, known to be from ``low`` to ``high``."""
        begin = self._begin
        return bisect_left(self._entries, (time,), begin + low, begin + high) - begin

    @overload
    def __getitem__(self, index: int) -> Waiting: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Waiting, ...]: ...
    def __getitem__(self, index: int | slice) -> Waiting | tuple[Waiting, ...]:
        length = self._length
        if isinstance(index, slice):
            return tuple([self[i] for i in range(*index.indices(length))])
        if index < 0:
            index += length
        if not 0 <= index < length:
            raise IndexError(f"{length} queries wait")
        return as_waiting(self._entries[self._begin + index][2])


def as_waiting(query: Query) -> Waiting:
    """What a policy may know of a query."""
    fields = query.deadline, query.priority, query.min_accuracy, query.model
    return tuple.__new__(Waiting, fields)  # half the time of calling Waiting
