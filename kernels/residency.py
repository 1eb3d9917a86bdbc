"""The L2 policies as what they do when a program is captured, and when another one takes over.

`residency` makes one for an arena. `kernels.graphs` tells it of every capture and every switch; it
never changes what a program computes. Used as a context manager, since a set-aside is a limit of
the whole device, and must be given back.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch

from kernels.arena import Arena
from kernels.l2 import L2, Policy, Window, fit
from kernels.prefetch import Fetch
from kernels.program import Program, Step, step_tensors
from kernels.ranges import Ranges, added, tensor_ranges, union


@dataclass(slots=True)
class Capturing:
    """What a capture owes a policy.

    ``before`` is called ahead of each step, ``last`` behind the last one, ``finish`` after the
    capture and before its graph is instantiated; ``kept`` must live as long as the graph.
    """

    before: Callable[[int, Step], None] | None = None
    last: Callable[[], None] = lambda: None
    finish: Callable[[], object] = lambda: None
    kept: object = None


class Residency:
    """The policy "default": nothing is done. The others override what they need."""

    policy: Policy = "default"

    def __init__(self, arena: Arena, l2: L2) -> None:
        self._buffer, self._hot, self._l2 = arena.buffer, arena.hot_bytes, l2
        self._first = arena.buffer.data_ptr()
        self._end = self._first + arena.nbytes
        self._stack = ExitStack()

    @property
    def reason(self) -> str:
        """Why the policy does nothing; empty where it does what it says."""
        return "" if self._buffer.is_cuda else "the arena is not on a GPU"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @contextmanager
    def capturing(self, program: Program, stream: Any) -> Iterator[Capturing]:
        """Around a capture of ``program`` on ``stream``, a `torch.cuda.Stream` with no work."""
        del program, stream
        yield Capturing()

    def switched(self, before: Program | None, now: Program) -> None:
        """Another program is about to run."""


class _SetAside(Residency):
    """Has a set-aside for as long as it is open: without, the graphs' windows are void."""

    _granted = 0

    def __enter__(self) -> Self:
        self._granted = self._stack.enter_context(self._l2.reserved(self._buffer.nbytes))
        return self

    @property
    def reason(self) -> str:
        if self._l2.reason or self._granted:
            return self._l2.reason
        return "nothing was set aside"

    def _fit(self, address: int, nbytes: int) -> Window:
        return fit(address, nbytes, self._granted, self._l2.capacity)


class ArenaWindow(_SetAside):
    """One window over the whole arena."""

    policy: Policy = "arena"

    @contextmanager
    def capturing(self, program: Program, stream: Any) -> Iterator[Capturing]:
        del program
        with self._l2.window(stream.cuda_stream, self._fit(self._first, self._length())):
            yield Capturing()

    def _length(self) -> int:
        return self._buffer.nbytes


class CoreWindow(ArenaWindow):
    """One window over what is in constant use, which lies first, as far as all of it persists."""

    policy: Policy = "core"

    def _length(self) -> int:
        return min(self._hot, self._granted)


class LayerWindows(_SetAside):
    """A window per kernel node, over the weights of the step that it belongs to."""

    policy: Policy = "per-layer"

    @contextmanager
    def capturing(self, program: Program, stream: Any) -> Iterator[Capturing]:
        if self.reason:
            yield Capturing()
            return
        marks: list[set[int]] = []

        def mark(*_: object) -> None:
            marks.append(set(self._l2.captured_nodes(stream.cuda_stream)))

        def windows() -> dict[int, Window]:
            found = {}
            for step, before, after in zip(program.steps, marks, marks[1:], strict=False):
                ranges = weight_ranges(step, self._first, self._end)
                if len(ranges):
                    first, end = int(ranges[0, 0]), int(ranges[-1, 1])
                    found.update(dict.fromkeys(after - before, self._fit(first, end - first)))
            return found

        yield Capturing(mark, mark, lambda: self._l2.set_nodes(windows()))


class NextPrefetch(Residency):
    """A branch of the graph asks for the next step's weights while a step runs."""

    policy: Policy = "prefetch-next"

    def __init__(self, arena: Arena, l2: L2) -> None:
        super().__init__(arena, l2)
        self._side = torch.cuda.Stream(arena.device) if self._buffer.is_cuda else None

    @contextmanager
    def capturing(self, program: Program, stream: Any) -> Iterator[Capturing]:
        side = self._side
        if side is None or len(program.steps) < 2:  # a branch that never began cannot be joined
            yield Capturing()
            return
        fetches = [
            Fetch.of(weight_ranges(step, self._first, self._end), self._buffer)
            for step in program.steps[1:]
        ]
        for fetch in fetches:  # a kernel must not be compiled and loaded during a capture
            fetch.run(touch=False)

        def before(index: int, step: Step) -> None:
            del step
            if index < len(fetches):
                side.wait_stream(stream)
                with torch.cuda.stream(side):
                    fetches[index].run(touch=False)

        yield Capturing(before, lambda: stream.wait_stream(side), kept=fetches)


class ActuationPrefetch(Residency):
    """A switch reads, beside whatever runs, the bytes that the last program had no use for."""

    policy: Policy = "actuation-prefetch"
    _KEPT = 256  # switches whose tables are kept

    def __init__(self, arena: Arena, l2: L2) -> None:
        super().__init__(arena, l2)
        self._side = torch.cuda.Stream(arena.device) if self._buffer.is_cuda else None
        self._fetches: OrderedDict[tuple[int, int], tuple[Program | None, Program, Fetch]]
        self._fetches = OrderedDict()

    def switched(self, before: Program | None, now: Program) -> None:
        if self._side is None or before is now:
            return
        with torch.cuda.stream(self._side):
            self._fetch(before, now).run(touch=True)

    def _fetch(self, before: Program | None, now: Program) -> Fetch:
        key = (id(before), id(now))
        found = self._fetches.pop(key, None)
        if found is None:
            # The programs are kept with their tables, so that no other can take their identity.
            found = (before, now, Fetch.of(added(before, now), self._buffer))
        self._fetches[key] = found
        if len(self._fetches) > self._KEPT:
            self._fetches.popitem(last=False)
        return found[2]


_POLICIES: dict[Policy, type[Residency]] = {
    kind.policy: kind
    for kind in (Residency, ArenaWindow, CoreWindow, LayerWindows, NextPrefetch, ActuationPrefetch)
}


def residency(policy: Policy, arena: Arena, l2: L2 | None = None) -> Residency:
    """What carries out ``policy`` for the arena; ``ValueError`` for an unknown one."""
    kind = _POLICIES.get(policy)
    if kind is None:
        raise ValueError(f"policy {policy!r} is not one of {', '.join(_POLICIES)}")
    return kind(arena, l2 or L2(arena.device.index or 0))


def weight_ranges(step: Step, first: int, end: int) -> Ranges:
    """What a step reads of the buffer at [first, end), besides norms and biases.

    SubnetNorm rows lie elsewhere, and are small; a window around both would cover all between.
    """
    small = (".scale", ".shift", "_bias")
    found = union(
        tensor_ranges(tensor)
        for name, tensor in step_tensors(step)
        if not f".{name}".endswith(small)
    )
    return found[(found[:, 0] >= first) & (found[:, 1] <= end)]
