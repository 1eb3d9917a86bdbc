"""A pool without workers: it keeps what it was sent, and the test plays the workers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from superserve.messages import BatchResult, Dispatch, Prediction, WorkerInfo
from superserve.pool import Done, Failed, Joined, Lost, PoolEvent
from superserve.slots import Slots
from tests.superserve.fake_engine import SHAPE, model


@dataclass(frozen=True)
class Sent:
    dispatch: Dispatch
    slots: tuple[int, ...]
    top_k: int
    pixels: tuple[int, ...]  # the first of each image, when it was sent


def worker(name: str = "w0") -> WorkerInfo:
    return WorkerInfo(name, "cpu", "fake", 1, (model(),))


class FakePool:
    def __init__(self, slots: int = 8) -> None:
        self.slots = Slots(slots, 6)
        self.sent: list[Sent] = []
        self.abandoned: list[str] = []
        self.stopped = False
        self.taken_when_stopped = 0
        self._deliver: Callable[[PoolEvent], None]

    async def start(self) -> tuple[WorkerInfo, ...]:
        return (worker(),)

    def subscribe(self, deliver: Callable[[PoolEvent], None]) -> None:
        self._deliver = deliver

    def send(self, dispatch: Dispatch, slots: Sequence[int], top_k: int) -> None:
        assert len(slots) == len(dispatch.queries)
        pixels = tuple(int(self.slots.pixels(slot, SHAPE)[0, 0, 0]) for slot in slots)
        self.sent.append(Sent(dispatch, tuple(slots), top_k, pixels))

    def abandon(self, worker: str) -> None:
        self.abandoned.append(worker)

    async def stop(self) -> None:
        self.stopped = True
        self.taken_when_stopped = self.slots.taken

    # What the test does in place of the workers.

    def answer(self, sent: Sent, inference: float = 0.25) -> None:
        """Class c of an image whose first pixel is p is p + c."""
        predictions = tuple(
            tuple(Prediction(pixel + i, 1 / sent.top_k) for i in range(sent.top_k))
            for pixel in sent.pixels
        )
        result = BatchResult(sent.dispatch.id, predictions, inference)
        self._deliver(Done(sent.dispatch.worker, result))

    def fail(self, sent: Sent) -> None:
        self._deliver(Failed(sent.dispatch.worker, sent.dispatch.id, "secret detail"))

    def lose(self, name: str = "w0") -> None:
        self._deliver(Lost(name, "was killed by SIGKILL"))

    def join(self, name: str = "w0") -> None:
        self._deliver(Joined(worker(name)))
