"""Who can work: each worker's credits, what it holds, and when it will be done."""

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from typing import NamedTuple, overload

from policies.types import WorkerView
from superserve.messages import Dispatch


class Worker:
    """One connected worker. It runs its dispatches one after the other."""

    __slots__ = (
        "began",
        "busy_until",
        "capacity",
        "device_type",
        "in_flight",
        "name",
        "order",
        "subnet",
    )

    def __init__(self, name: str, device_type: str, capacity: int, order: int) -> None:
        self.name = name
        self.device_type = device_type
        self.capacity = capacity  # credits when idle: how many dispatches it may hold
        self.order = order  # of joining
        self.in_flight: dict[int, Dispatch] = {}
        self.began = 0.0  # when it began with what it runs now
        self.busy_until = 0.0  # planned finish of the last dispatch it holds
        self.subnet = ""  # of the last dispatch it was given

    def residual(self, now: float) -> float:
        """Seconds until all that it holds is planned to be done; 0 when it holds nothing."""
        return max(0.0, self.busy_until - now) if self.in_flight else 0.0


class Ended(NamedTuple):
    """A dispatch that came back, and the seconds that the worker had for nothing but it."""

    dispatch: Dispatch
    device_type: str
    took: float


class WorkerTable:
    """Connected workers by name, those without work in the order of joining."""

    __slots__ = ("_idle", "_joined", "_spare", "_workers")

    def __init__(self) -> None:
        self._workers: dict[str, Worker] = {}
        self._idle: list[tuple[int, Worker]] = []  # by order of joining, which is unique
        self._spare: dict[str, Worker] = {}  # busy, with a credit left
        self._joined = 0

    def __len__(self) -> int:
        return len(self._workers)

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._workers.values())

    def __contains__(self, name: str) -> bool:
        return name in self._workers

    @property
    def idle(self) -> int:
        return len(self._idle)

    @property
    def in_flight(self) -> int:
        """How many queries the workers hold."""
        held = (dispatch for w in self for dispatch in w.in_flight.values())
        return sum(len(dispatch.queries) for dispatch in held)

    @property
    def has_credit(self) -> bool:
        return bool(self._idle or self._spare)

    def candidates(self) -> list[Worker]:
        """Workers with a credit, best first: idle ones as they joined, then the soonest done."""
        workers = [worker for _, worker in self._idle]
        if self._spare:
            workers += sorted(self._spare.values(), key=lambda w: (w.busy_until, w.order))
        return workers

    def join(self, name: str, device_type: str, capacity: int) -> Worker:
        worker = Worker(name, device_type, capacity, self._joined)
        self._joined += 1
        self._workers[name] = worker
        insort(self._idle, (worker.order, worker))
        return worker

    def lose(self, name: str) -> Worker | None:
        """Forget a worker; None if it is unknown. What it held is still in its ``in_flight``."""
        worker = self._workers.pop(name, None)
        if worker is not None:
            self._spare.pop(name, None)
            if not worker.in_flight:
                self._leave_idle(worker)
        return worker

    def begin(self, worker: Worker, dispatch: Dispatch) -> None:
        """Note a dispatch as given to this worker, which spends a credit."""
        assert len(worker.in_flight) < worker.capacity, f"{worker.name} has no credit"
        if not worker.in_flight:
            self._leave_idle(worker)
            worker.began = dispatch.start
        worker.in_flight[dispatch.id] = dispatch
        worker.busy_until = dispatch.finish
        worker.subnet = dispatch.subnet
        if len(worker.in_flight) < worker.capacity:
            self._spare[worker.name] = worker
        else:
            self._spare.pop(worker.name, None)

    def end(self, name: str, dispatch_id: int, now: float) -> Ended | None:
        """Take back a dispatch and its credit; None if this worker does not hold it."""
        worker = self._workers.get(name)
        dispatch = worker.in_flight.pop(dispatch_id, None) if worker is not None else None
        if worker is None or dispatch is None:
            return None
        took, worker.began = now - worker.began, now
        if worker.in_flight:
            # What it still holds begins now, whether this one was early or late.
            worker.busy_until = now + sum(d.finish - d.start for d in worker.in_flight.values())
            self._spare[name] = worker
        else:
            self._spare.pop(name, None)
            insort(self._idle, (worker.order, worker))
        return Ended(dispatch, worker.device_type, took)

    def overdue(self, since: float) -> list[str]:
        """Workers that still hold work, all of which was planned to be done before ``since``."""
        return [w.name for w in self._workers.values() if w.in_flight and w.busy_until < since]

    def _leave_idle(self, worker: Worker) -> None:
        del self._idle[bisect_left(self._idle, (worker.order,))]


class WorkersView(Sequence[WorkerView]):
    """What a policy sees of the workers at one moment, made only as far as it is read."""

    __slots__ = ("_now", "_workers")

    def __init__(self, workers: Sequence[Worker], now: float) -> None:
        self._workers = workers
        self._now = now

    def __len__(self) -> int:
        return len(self._workers)

    @overload
    def __getitem__(self, index: int) -> WorkerView: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[WorkerView, ...]: ...
    def __getitem__(self, index: int | slice) -> WorkerView | tuple[WorkerView, ...]:
        if isinstance(index, slice):
            return tuple([self[i] for i in range(*index.indices(len(self)))])
        worker = self._workers[index]
        return WorkerView(
            worker.name, worker.device_type, worker.residual(self._now), worker.subnet
        )
