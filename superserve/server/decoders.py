"""The threads that decode images, most urgent deadline first: a large upload with time to spare
does not hold up a small one without.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from heapq import heappop, heappush
from itertools import count
from threading import Lock


class Decoders:
    """A thread pool whose waiting jobs are ordered by deadline instead of arrival."""

    __slots__ = ("_lock", "_serial", "_threads", "_waiting")

    def __init__(self, threads: int) -> None:
        self._threads = ThreadPoolExecutor(threads, "decode")
        self._lock = Lock()
        self._waiting: list[tuple[float, int, Future[None], Callable[[], None]]] = []
        self._serial = count()  # equal deadlines keep their order, and jobs are never compared

    def __repr__(self) -> str:
        return f"<Decoders {len(self._waiting)} jobs waiting>"

    def submit(self, deadline: float, job: Callable[[], None]) -> Future[None]:
        """Run ``job`` in a thread; its future can be cancelled as long as it has not begun."""
        future: Future[None] = Future()
        with self._lock:
            heappush(self._waiting, (deadline, next(self._serial), future, job))
        self._threads.submit(self._run_most_urgent)
        return future

    def close(self) -> None:
        """Cancel what waits, and return when what runs is done."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for _, _, future, _ in waiting:
            future.cancel()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _run_most_urgent(self) -> None:
        with self._lock:
            if not self._waiting:
                return  # closed meanwhile
            _, _, future, job = heappop(self._waiting)
        if not future.set_running_or_notify_cancel():
            return
        try:
            job()
        except BaseException as error:
            # Carried to whoever waits for the future, as any executor does.
            future.set_exception(error)
        else:
            future.set_result(None)
