"""What runs a program on a device: compiled plans, Triton kernels in CUDA graphs, or PyTorch's ops.

The arena is laid out for the runner, and programs are fused for it; otherwise it is exchangeable.
"""

from collections import OrderedDict
from collections.abc import Hashable
from importlib.util import find_spec
from typing import Literal, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from kernels import native
from kernels.errors import NoKernels
from kernels.execute import Ops, execute
from kernels.graphs import Actuated, CudaRecorder, GraphCache
from kernels.native.plan import NativePlan
from kernels.native.steps import NotCompiled
from kernels.program import Program
from kernels.shapes import Shape, value_shapes
from kernels.weights import Layout

Kernels = Literal["auto", "triton", "torch"]

# Bytes of the widest activation that is worked on at once on a CPU, op by op. Parts of a batch stay
# in the cache, and the allocator reuses their memory instead of mapping fresh pages for every op.
WORKING_SET = 4 << 20
PLANS = 64  # compiled plans that a program may have: one for each size of batch and of image
GRAPH_BYTES = 8 << 30  # of a GPU's memory, at most a quarter of it, that recordings may take


class Runner(Protocol):
    """Runs programs whose weights lie in `layout`."""

    @property
    def name(self) -> str:
        """What people see: which kernels these are."""

    @property
    def layout(self) -> Layout:
        """How weights must lie in the arena."""

    @property
    def for_gpu(self) -> bool:
        """Whether programs are fused for a GPU."""

    def __call__(self, program: Program, x: Tensor, subnet: Hashable, row: Tensor | None) -> Tensor:
        """Logits of ``x`` [N, H, W, C]; ``row`` is what the subnet's norms are views of."""


def runner_for(device: torch.device, dtype: torch.dtype, kernels: Kernels = "auto") -> Runner:
    """The fastest one there is, or the one asked for; `NoKernels` where that cannot be."""
    on_gpu = device.type == "cuda"
    if kernels == "torch":
        return OpByOp("plain" if on_gpu else "fast")
    if on_gpu and find_spec("triton") is not None:
        return Graphs(device)
    if kernels == "triton":
        lack = "triton is not installed" if on_gpu else f"{device} is no GPU"
        raise NoKernels(f"the Triton kernels cannot run: {lack}; use --kernels auto")
    if device.type == "cpu" and dtype is torch.float32 and native.variant():
        return Plans()
    return OpByOp("plain" if on_gpu else "fast")


class OpByOp:
    """One call per step: any device, any type."""

    layout: Layout = "rows"
    for_gpu = False

    def __init__(self, ops: Ops = "fast") -> None:
        self._ops: Ops = ops

    @property
    def name(self) -> str:
        return "torch"

    def __call__(self, program: Program, x: Tensor, subnet: Hashable, row: Tensor | None) -> Tensor:
        del subnet, row
        together = len(x)
        if x.device.type == "cpu":
            together = max(1, WORKING_SET // (widest(program, x) * x.element_size()))
        if together >= len(x):
            return execute(program, x, self._ops)
        return torch.cat([execute(program, part, self._ops) for part in x.split(together)])


class Plans:
    """`kernels.native`: the whole program in one call, float32 on a CPU."""

    layout: Layout = "panels"
    for_gpu = False

    def __init__(self) -> None:
        self._plans: WeakKeyDictionary[Program, OrderedDict[tuple[int, Shape], NativePlan]] = (
            WeakKeyDictionary()
        )
        self._otherwise = OpByOp()

    @property
    def name(self) -> str:
        return f"compiled {native.variant()}"

    def __call__(self, program: Program, x: Tensor, subnet: Hashable, row: Tensor | None) -> Tensor:
        try:
            plan = self.plan(program, len(x), (x.shape[1], x.shape[2], x.shape[3]))
        except NotCompiled:
            return self._otherwise(program, x, subnet, row)
        return plan(x)

    def plan(self, program: Program, batch: int, image: Shape) -> NativePlan:
        """Made once, unless very many sizes are in use; raises `NotCompiled`."""
        known = self._plans.setdefault(program, OrderedDict())
        found = known.get((batch, image))
        if found is None:
            found = known[batch, image] = NativePlan(program, image, batch)
            if len(known) > PLANS:
                known.popitem(last=False)
        return found


class Graphs:
    """The Triton kernels, in CUDA graphs."""

    layout: Layout = "rows"
    for_gpu = True

    def __init__(self, device: torch.device) -> None:
        memory = torch.cuda.get_device_properties(device).total_memory
        self._cache = GraphCache(CudaRecorder(device), min(GRAPH_BYTES, memory // 4))

    @property
    def name(self) -> str:
        return "triton in CUDA graphs"

    def __call__(self, program: Program, x: Tensor, subnet: Hashable, row: Tensor | None) -> Tensor:
        architecture = (subnet, tuple(x.shape[1:]))
        return self._cache(Actuated(architecture, subnet, program, row), x)


def widest(program: Program, x: Tensor) -> int:
    """Elements, per image, of the widest value of a program for images like ``x``'s."""
    shapes = value_shapes(program, (x.shape[1], x.shape[2], x.shape[3]))
    return max(height * width * channels for height, width, channels in shapes.values())
