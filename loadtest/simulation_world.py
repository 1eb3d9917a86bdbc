"""The world around the scheduler in a simulation: its clock, its queries and its workers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from heapq import heappop, heappush
from math import inf
from typing import Any

from loadtest.simulation_outcomes import Books
from loadtest.simulation_workers import (
    Fail,
    FleetEvent,
    Join,
    Restart,
    Switching,
    VirtualWorker,
    WorkerSpec,
)
from policies.types import Profile
from superserve.messages import Command, Complete, Dispatch, Drop, Query, Wake

Event = tuple[str, tuple[Any, ...]]  # a method of the scheduler and its arguments


class World:
    """When queries come, what the workers do with what they are given, and what became of it."""

    def __init__(
        self,
        *,
        queries: Iterator[Query],
        last_deadline: float,
        workers: Sequence[WorkerSpec],
        script: Sequence[FleetEvent],
        real: Mapping[str, Profile],
        credits: int,
        switching: Switching,
        times: Callable[[float], float],
        books: Books,
    ) -> None:
        """``queries`` and ``script`` ascend in time. ``real`` is, by device type, what batches
        usually take; ``times`` makes the time of each of it.
        """
        self.names: list[str] = []  # of workers, by number
        self._queries = queries
        self._last_deadline = last_deadline
        self._first = workers
        self._script = script
        self._real = real
        self._credits = credits
        self._switching = switching
        self._times = times
        self._books = books
        self._specs: dict[str, WorkerSpec] = {}  # as each joined last
        self._live: dict[str, VirtualWorker] = {}
        self._numbers: dict[str, int] = {}
        self._running: list[tuple[float, int, VirtualWorker]] = []  # a heap, by finish
        self._wake_at = inf
        self._now = 0.0

    def events(self) -> Iterator[Event]:
        """What happens, in the order of time. `carry_out` what each brings before the next."""
        for spec in self._first:
            yield self._join(spec, 0.0)
        running, queries, script = self._running, self._queries, iter(self._script)
        query, scripted = next(queries, None), next(script, None)
        arrival, scripted_at = _arrival(query), _at(scripted)
        arrived = 0
        while True:
            done = running[0][0] if running else inf
            wake = self._wake_at
            # Nearly every event is an arrival, so that is asked first although it is third in rank.
            if arrival < done and arrival < scripted_at and arrival <= wake:
                self._now = arrival
                event: Event = "arrive", (query, arrival)
                arrived += 1
                query = next(queries, None)
                arrival = _arrival(query)
                yield event
            elif done <= scripted_at and done <= wake and done < inf:
                self._now, number, worker = heappop(running)
                if worker.alive:
                    yield "worker_free", (worker.spec.name, number, done)
            elif scripted is not None and scripted_at <= wake:
                self._now = scripted_at
                event = self._happen(scripted)
                scripted = next(script, None)
                scripted_at = _at(scripted)
                yield event
            else:
                alarm_only = done == scripted_at == arrival == inf
                if alarm_only and (
                    arrived == self._books.answered or wake == inf or wake > self._last_deadline
                ):
                    return  # those that still wait, if any, are out of reach of any alarm
                self._now, self._wake_at = wake, inf
                yield "tick", (wake,)

    def carry_out(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case Dispatch():
                    self._begin(command)
                case Wake(at):
                    assert at >= self._now, "the clock never runs backwards"
                    self._wake_at = at
                case Complete(dispatch):
                    self._books.complete(dispatch)
                case Drop(query, reason):
                    self._books.drop(query.id, reason)

    def _begin(self, dispatch: Dispatch) -> None:
        worker, now = self._live[dispatch.worker], self._now
        size = len(dispatch.queries)
        start, finish = worker.begin(dispatch.subnet, size, now, self._times, self._switching)
        self._books.begin(dispatch, worker.number, now, start, finish)
        heappush(self._running, (finish, dispatch.id, worker))

    def _happen(self, event: FleetEvent) -> Event:
        match event:
            case Fail(at, name):
                self._lose(name)
                return "worker_lost", (name, at)
            case Join(at, spec):
                return self._join(spec, at)
            case Restart(at, name):
                return self._join(self._specs[name], at)

    def _lose(self, name: str) -> None:
        worker = self._live.pop(name, None)
        if worker is not None:
            worker.alive = False

    def _join(self, spec: WorkerSpec, now: float) -> Event:
        self._lose(spec.name)
        if spec.name not in self._numbers:
            self._numbers[spec.name] = len(self.names)
            self.names.append(spec.name)
        self._specs[spec.name] = spec
        self._live[spec.name] = VirtualWorker(
            self._numbers[spec.name], spec, self._real[spec.device_type], self._switching.resident
        )
        return "worker_joined", (spec.name, spec.device_type, now, self._credits)


def _arrival(query: Query | None) -> float:
    return inf if query is None else query.arrival


def _at(event: FleetEvent | None) -> float:
    return inf if event is None else event.at
