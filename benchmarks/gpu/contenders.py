"""What is compared: each takes the same images, channels last, and gives logits in new memory.

All are handed images on the device. Those that replay a CUDA graph copy them into the graph's
input and the answer out of it, as a server must; that is part of what is timed.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kernels.execute import execute
from kernels.graphs import Actuated, CudaRecorder, GraphCache, Record, Recording
from kernels.program import Program
from kernels.residency import Residency
from supernets.resident_programs import ResidentPrograms
from supernets.space import Subnet

Call = Callable[[], Tensor]

OURS = "ours, graph"
ROOM = 8 << 30  # bytes that recorded graphs may take


@dataclass(frozen=True, slots=True)
class Again:
    """Stands for a CUDA graph on a CPU: the program runs anew."""

    program: Program
    x: Tensor
    output: Tensor
    nbytes: int = 0

    def replay(self) -> None:
        self.output.copy_(execute(self.program, self.x))

    def release(self) -> None:
        """Nothing is held."""


def recorder(device: torch.device, residency: Residency | None = None) -> Record:
    """CUDA graphs on a GPU."""
    if device.type == "cuda":
        return CudaRecorder(device, residency)

    def record(program: Program, x: Tensor) -> Recording:
        return Again(program, x, execute(program, x))

    return record


def cache(
    resident: ResidentPrograms, batches: tuple[int, ...], residency: Residency | None = None
) -> GraphCache:
    """Graphs for exactly these batch sizes, under a policy for L2."""
    record = recorder(resident.device, residency)
    if residency is None:
        return GraphCache(record, ROOM, batches)
    return GraphCache(record, ROOM, batches, residency.switched)


def ours(resident: ResidentPrograms, graphs: GraphCache, subnet: Subnet, x: Tensor) -> Call:
    """Our kernels on slices of the arena, replayed."""
    actuated = Actuated(subnet, subnet, resident.program(subnet, (x.shape[2], x.shape[3])))
    nhwc = x.permute(0, 2, 3, 1).contiguous()
    return lambda: graphs(actuated, nhwc)


def ours_eager(resident: ResidentPrograms, subnet: Subnet, x: Tensor) -> Call:
    """Our kernels, launched one by one from Python."""
    program = resident.program(subnet, (x.shape[2], x.shape[3]))
    nhwc = x.permute(0, 2, 3, 1).contiguous()
    return lambda: execute(program, nhwc)


def prepared(module: nn.Module, x: Tensor) -> nn.Module:
    """In the images' type and memory format, on their device."""
    return module.to(x.device, x.dtype).to(memory_format=torch.channels_last).eval()


def eager(module: nn.Module, x: Tensor) -> Call:
    """As PyTorch runs it."""

    def call() -> Tensor:
        with torch.no_grad():
            answer: Tensor = module(x)
            return answer

    return call


@torch.no_grad()
def graphed(module: nn.Module, x: Tensor) -> Call:
    """The same in a CUDA graph; on a CPU it is `eager`."""
    if x.device.type != "cuda":
        return eager(module, x)
    static, stream = x.clone(), torch.cuda.Stream(x.device)
    stream.wait_stream(torch.cuda.current_stream(x.device))
    with torch.cuda.stream(stream):
        for _ in range(3):
            module(static)
    torch.cuda.current_stream(x.device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output: Tensor = module(static)

    def call() -> Tensor:
        static.copy_(x)
        graph.replay()
        return output.clone()

    return call


def compiled(module: nn.Module, x: Tensor) -> Call:
    """torch.compile, max-autotune with its CUDA graphs, and freezing: norms folded into weights.

    On a CPU it is `eager`: compiling there takes long, and shows nothing.
    """
    if x.device.type != "cuda":
        return eager(module, x)
    import torch._inductor.config

    torch.compiler.reset()
    torch._inductor.config.freezing = True  # noqa: SLF001
    return eager(torch.compile(module, mode="max-autotune", dynamic=False), x)  # type: ignore[arg-type]


def compiled_function(function: Callable[..., Tensor], device: torch.device) -> Any:
    """One op under torch.compile, max-autotune, to be captured in a graph; on a CPU, as it is."""
    if device.type != "cuda":
        return function
    torch.compiler.reset()  # after eight variants of one function it would be run uncompiled
    return torch.compile(function, mode="max-autotune-no-cudagraphs", dynamic=False)


def skipped_graphs() -> int:
    """How many compiled functions did without a CUDA graph, by the compiler's own count."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    return int(dynamo.counters["inductor"]["cudagraph_skips"]) if dynamo else 0
