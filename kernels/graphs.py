"""One CUDA graph per architecture and batch bucket: recorded when first needed, replayed after.

A graph fixes every address that it reads. Inputs are therefore copied into a static buffer per
bucket, and of subnets with one architecture, which differ in their SubnetNorm row alone, one graph
serves all: it reads a static row, into which a replay for another subnet first copies that one's.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from kernels.binding import bind
from kernels.execute import execute
from kernels.program import Program
from kernels.residency import Capturing, Residency

BUCKETS = (1, 2, 4, 8, 16, 32, 64)
WARM_UPS = 2  # runs before a capture: Triton compiles, libraries make their workspaces


@dataclass(frozen=True, slots=True)
class Actuated:
    """A subnet ready to run.

    ``architecture`` is equal for subnets whose programs differ in nothing but the row; ``row``
    [2, channels], contiguous, is what the program's scales and shifts are views of, or None where
    there is no such row. A row that changes in place needs `GraphCache.forget`.
    """

    architecture: Hashable
    subnet: Hashable
    program: Program
    row: Tensor | None = None


class Recording(Protocol):
    """A program that runs again on the input it was recorded with."""

    @property
    def output(self) -> Tensor:
        """What a replay writes; the next one writes it again."""

    @property
    def nbytes(self) -> int:
        """Device memory that it takes, besides the input."""

    def replay(self) -> None:
        """Run it, on the current stream."""

    def release(self) -> None:
        """Give its memory back."""


Record = Callable[[Program, Tensor], Recording]
"""Makes a `Recording` of a program that reads this very input tensor."""


@dataclass(slots=True)
class _Bound:
    """An architecture's program on its static row, and whose row that holds now."""

    program: Program
    row: Tensor | None
    holds: Hashable = None


class GraphCache:
    """Runs subnets by replaying recordings; for one stream and one thread at a time."""

    def __init__(
        self,
        record: Record,
        limit: int,
        buckets: tuple[int, ...] = BUCKETS,
        switched: Callable[[Program | None, Program], object] = lambda *_: None,
    ) -> None:
        """``limit``: bytes that all recordings may take; the last one made always stays.

        ``switched`` is told when a run is not of the program that ran before it.
        """
        if not buckets or list(buckets) != sorted(set(buckets)) or buckets[0] < 1:
            raise ValueError(f"buckets are positive and ascend: {buckets}")
        self._record, self._limit, self._buckets = record, limit, buckets
        self._switched = switched
        self._last: Program | None = None
        self._inputs: dict[tuple[Any, ...], Tensor] = {}
        self._bound: dict[Hashable, _Bound] = {}
        self._recordings: OrderedDict[tuple[Hashable, tuple[Any, ...]], Recording] = OrderedDict()

    @torch.inference_mode()
    def __call__(self, actuated: Actuated, x: Tensor) -> Tensor:
        """The program's answer for ``x`` [N, H, W, C], in new memory.

        A batch goes into the smallest bucket that holds it, the rest of which is zeros; one larger
        than all buckets is taken in parts.
        """
        if actuated.program is not self._last:
            self._switched(self._last, actuated.program)
            self._last = actuated.program
        bound = self._bind(actuated)
        answers = []
        start = 0
        for rows, bucket in parts(len(x), self._buckets):
            recording = self._recording(actuated.architecture, bound, x, bucket, start, rows)
            recording.replay()
            answers.append(recording.output[:rows].clone())
            start += rows
        return answers[0] if len(answers) == 1 else torch.cat(answers)

    @property
    def nbytes(self) -> int:
        """Bytes that the recordings take."""
        return sum(recording.nbytes for recording in self._recordings.values())

    def __len__(self) -> int:
        return len(self._recordings)

    def forget(self, architecture: Hashable) -> None:
        """Drop all that was recorded of it: its weights moved, or a row of it changed."""
        for key in [key for key in self._recordings if key[0] == architecture]:
            self._drop(key)

    def _bind(self, actuated: Actuated) -> _Bound:
        bound = self._bound.get(actuated.architecture)
        if bound is None:
            bound = self._bound[actuated.architecture] = _on_static_row(actuated)
        if bound.row is not None and actuated.row is not None and bound.holds != actuated.subnet:
            bound.row.copy_(actuated.row)
            bound.holds = actuated.subnet
        return bound

    def _recording(
        self, architecture: Hashable, bound: _Bound, x: Tensor, bucket: int, start: int, rows: int
    ) -> Recording:
        """That of the bucket, made if need be, with rows ``start`` on of ``x`` in its input."""
        shape = (bucket, *x.shape[1:], x.dtype, x.device)
        static = self._inputs.get(shape)
        if static is None:
            static = self._inputs[shape] = x.new_zeros((bucket, *x.shape[1:]))
        static[:rows].copy_(x[start : start + rows])
        static[rows:].zero_()
        key = (architecture, shape)
        found = self._recordings.get(key)
        if found is None:
            found = self._recordings[key] = self._record(bound.program, static)
            self._make_room()
        self._recordings.move_to_end(key)
        return found

    def _make_room(self) -> None:
        while self.nbytes > self._limit and len(self._recordings) > 1:
            self._drop(next(iter(self._recordings)))

    def _drop(self, key: tuple[Hashable, tuple[Any, ...]]) -> None:
        """Release a recording, and what no other one shares with it."""
        self._recordings.pop(key).release()
        architecture, shape = key
        if all(other[0] != architecture for other in self._recordings):
            del self._bound[architecture]
        if all(other[1] != shape for other in self._recordings):
            del self._inputs[shape]


def parts(rows: int, buckets: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """(rows, bucket) of each part of a batch, in order; ``ValueError`` for an empty batch."""
    if rows < 1:
        raise ValueError("an empty batch has no answer")
    while rows > buckets[-1]:
        yield buckets[-1], buckets[-1]
        rows -= buckets[-1]
    yield rows, next(bucket for bucket in buckets if bucket >= rows)


def _on_static_row(actuated: Actuated) -> _Bound:
    """The program with views of a row of its own in the place of views of the subnet's row."""
    row = actuated.row
    if row is None:
        return _Bound(actuated.program, None)
    if not row.is_contiguous():
        raise ValueError(f"a row with strides {row.stride()} is not contiguous")
    static = torch.empty_like(row)
    first, end = row.data_ptr(), row.data_ptr() + row.nbytes

    def find(tensor: Tensor) -> Tensor:
        if tensor.dtype != row.dtype or not first <= tensor.data_ptr() < end:
            return tensor
        offset = (tensor.data_ptr() - first) // row.element_size()
        return static.as_strided(tensor.shape, tensor.stride(), offset)

    return _Bound(bind(actuated.program, find), static)


class CudaRecorder:
    """Records CUDA graphs, all in one memory pool: two of them must never run at once."""

    def __init__(self, device: torch.device, residency: Residency | None = None) -> None:
        self._residency = residency
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, program: Program, x: Tensor) -> Recording:
        """Warm up, capture and instantiate, on a stream of its own."""
        stream, policy = self._stream, self._residency
        with torch.cuda.device(x.device):
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UPS):
                    execute(program, x)
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            free, _ = torch.cuda.mem_get_info()
            graph = torch.cuda.CUDAGraph(keep_graph=True)
            around = policy.capturing(program, stream) if policy else nullcontext(Capturing())
            # Other threads of the process may go on calling CUDA meanwhile.
            capture = torch.cuda.graph(graph, self._pool, stream, "thread_local")
            with around as capturing:
                with capture:
                    output = execute(program, x, before=capturing.before)
                    capturing.last()
                capturing.finish()
            graph.instantiate()
            taken = free - torch.cuda.mem_get_info()[0]
        return _CudaGraph(output, max(taken, output.nbytes), graph, capturing.kept)


@dataclass(frozen=True, slots=True)
class _CudaGraph:
    output: Tensor
    nbytes: int
    graph: torch.cuda.CUDAGraph
    kept: object

    def replay(self) -> None:
        self.graph.replay()

    def release(self) -> None:
        torch.cuda.synchronize(self.output.device)  # it may be running
        self.graph.reset()
