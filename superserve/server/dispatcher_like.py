"""What the HTTP server needs of a dispatcher, and no more."""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from policies.types import Policy, Profile
from superserve.messages import Answer, ModelInfo
from superserve.worker_board import WorkerStatus


class MetricsLike(Protocol):
    def snapshot(self) -> dict[str, Any]: ...


class DispatcherLike(Protocol):
    """The surface of `superserve.dispatcher.Dispatcher` that the front end relies on."""

    @property
    def models(self) -> Mapping[str, ModelInfo]: ...
    @property
    def workers(self) -> Sequence[WorkerStatus]: ...
    @property
    def ready(self) -> bool: ...
    @property
    def policy_name(self) -> str: ...
    @property
    def metrics(self) -> MetricsLike: ...
    @property
    def clock(self) -> Callable[[], float]: ...

    def reserve(self) -> int:
        """A slot; raises `superserve.errors.Overloaded`."""
        ...

    def release(self, slot: int) -> None:
        """Only for a slot that was never submitted."""
        ...

    def slot_pixels(self, slot: int, shape: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
        """A writable uint8 [H, W, C] view of the slot's memory."""
        ...

    def submit(
        self,
        slot: int,
        *,
        model: str,
        shape: tuple[int, int, int],
        arrival: float,
        slo: float,
        min_accuracy: float = 0.0,
        priority: int = 0,
        top_k: int = 5,
    ) -> Coroutine[Any, Any, Answer]:
        """Owns the slot from the call on; to cancel the coroutine is to cancel the query."""
        ...

    def set_policy(self, make_policy: Callable[[Profile], Policy], name: str) -> None: ...
