"""All that waits for one model: its EDF queue, the late ones, and when each becomes hopeless."""

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterable
from heapq import heappop, heappush
from itertools import islice
from math import inf

from policies.types import Profile
from superserve.edf_queue import EDFQueue
from superserve.load_statistics import LoadStatistics
from superserve.messages import Query


class FloorTable:
    """For one profile: the subnet that serves an accuracy floor fastest, for one query."""

    __slots__ = ("_profile", "_rows", "best")

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self.best = profile.accuracies[-1]
        # A profile need not be Pareto-optimal, so a more accurate subnet may be the faster one.
        rows = range(len(profile.subnets))
        self._rows = [min(rows[i:], key=lambda row: profile.latencies[row][0]) for i in rows]

    def subnet(self, floor: float) -> str:
        """Raises ``IndexError`` if the floor is above every subnet."""
        return self._profile.subnets[self._row(floor)]

    def latency(self, floor: float) -> float:
        """Seconds for one query on that subnet; infinite if the floor is above every subnet."""
        return self._profile.latencies[self._row(floor)][0] if floor <= self.best else inf

    def _row(self, floor: float) -> int:
        return self._rows[bisect_left(self._profile.accuracies, floor)]


class ModelQueue:
    """Queries of one model; a query is hopeless once its expiry time has passed.

    The expiry time is the deadline less the time of the cheapest subnet that meets the query's
    floor, alone, on the fastest device type of the model. Without floors it ascends with the
    deadline, so that only the head needs a look; queries with a floor stand in a heap as well.
    """

    __slots__ = ("_cheapest", "_expiries", "_floors", "_lowest", "_serial", "best", "edf", "late",
                 "model", "statistics")  # fmt: skip

    def __init__(self, model: str, profiles: Iterable[Profile]) -> None:
        profiles = tuple(profiles)
        self.model = model
        self.edf = EDFQueue()
        self.late: OrderedDict[int, Query] = OrderedDict()  # hopeless but still served, in order
        self.statistics = LoadStatistics()
        self._floors = [FloorTable(profile) for profile in profiles]
        self.best = max(table.best for table in self._floors)  # accuracy of any device type
        self._lowest = min(profile.accuracies[0] for profile in profiles)
        self._cheapest = self.cost(0.0)
        self._expiries: list[tuple[float, int, Query]] = []  # may hold some that wait no more
        self._serial = 0

    def __repr__(self) -> str:
        return f"<ModelQueue {self.model!r} {len(self.edf)} waiting, {len(self.late)} late>"

    def __len__(self) -> int:
        return len(self.edf) + len(self.late)

    def __contains__(self, query_id: int) -> bool:
        return query_id in self.edf or query_id in self.late

    @property
    def late_head(self) -> Query:
        """The one that is late for longest; there must be one."""
        return next(iter(self.late.values()))

    @property
    def has_floors(self) -> bool:
        """Whether a waiting query may ask for more than the least accurate subnet."""
        return bool(self._expiries)

    def cost(self, floor: float) -> float:
        """The least time (seconds) in which any device type serves one query with this floor."""
        return min(table.latency(floor) for table in self._floors)

    def expiry(self, query: Query) -> float:
        """After this time the query is hopeless."""
        if query.min_accuracy <= self._lowest:
            return query.deadline - self._cheapest
        return query.deadline - self.cost(query.min_accuracy)

    def push(self, query: Query) -> None:
        self.edf.push(query)
        if query.min_accuracy > self._lowest:
            heappush(self._expiries, (self.expiry(query), self._serial, query))
            self._serial += 1

    def remove(self, query_id: int) -> Query | None:
        """Take one query out; None if it does not wait."""
        return self.edf.remove(query_id) or self.late.pop(query_id, None)

    def take_hopeless(self, now: float) -> list[Query]:
        """Take the queries whose expiry time has passed out of the EDF queue."""
        edf, expiries = self.edf, self._expiries
        hopeless: list[Query] = []
        while now > edf.head_deadline - self._cheapest:
            hopeless += edf.take(1)
        while expiries and now > expiries[0][0]:
            query = heappop(expiries)[2]
            if edf.holds(query):
                edf.remove(query.id)
                hopeless.append(query)
        return hopeless

    def next_expiry(self) -> float:
        """When the next query becomes hopeless; infinite if none waits."""
        head = self.edf.head_deadline - self._cheapest
        return min(head, self._expiries[0][0]) if self._expiries else head

    def take_late(self, count: int, accuracy: float) -> tuple[Query, ...]:
        """Take the ``count`` longest late that ask for no more than ``accuracy``."""
        lawful = (query for query in self.late.values() if query.min_accuracy <= accuracy)
        taken = tuple(islice(lawful, count))
        for query in taken:
            del self.late[query.id]
        return taken
