"""Memory that stays in a GPU's L2 cache: the set-aside, and the windows of addresses it is for.

CUDA's own words (Programming Guide, "L2 cache access management"): part of L2 is *set aside* for
persisting accesses, a limit of the whole device; an *access policy window* says which addresses of
a stream, or of a graph's kernel node, count as such, and which share of them (*hit ratio*). A
stream's window is written into every kernel node captured while it is installed, and is not looked
up again at replay; the set-aside must stand whenever the graph runs.

Every call's code is checked. Where there is no device, no driver, no bindings, or no set-aside
(MIG, MPS, before compute capability 8.0), everything here does nothing, and `L2.reason` says why.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

Policy = Literal["default", "arena", "core", "per-layer", "prefetch-next", "actuation-prefetch"]
"""What is done to have weights in L2 when they are needed.

"default": nothing. "arena": one window over the arena. "core": one window over its beginning, as
much as the set-aside holds. "per-layer": each kernel node has a window over its own weights.
"prefetch-next": a side stream fetches the next layer's weights while a layer runs.
"actuation-prefetch": a switch to another subnet fetches the bytes that the last one did not read.
"""


@dataclass(frozen=True, slots=True)
class Capacity:
    """Bytes: of the cache, of the largest set-aside, of the largest window."""

    l2: int
    persisting: int
    window: int


@dataclass(frozen=True, slots=True)
class Window:
    """``nbytes`` from ``address`` on, a random share ``hit_ratio`` of which persists."""

    address: int
    nbytes: int
    hit_ratio: float


def fit(address: int, nbytes: int, set_aside: int, capacity: Capacity) -> Window:
    """A window over as much of the range as a window may cover.

    The hit ratio is such that what persists fits the set-aside: beyond it, lines would drive each
    other out.
    """
    covered = min(nbytes, capacity.window)
    return Window(address, covered, min(1.0, set_aside / covered) if covered else 0.0)


class L2:
    """One device's L2 through the CUDA runtime; a no-op with a `reason` where that cannot be."""

    def __init__(self, device: int = 0, runtime: Any = None) -> None:
        """``device`` is to be the current one whenever this is used.

        ``runtime`` is `cuda.bindings.runtime`, or anything with the same functions.
        """
        self.capacity, self.reason = Capacity(0, 0, 0), ""
        try:
            self._rt: Any = runtime or import_module("cuda.bindings.runtime")
        except ImportError:
            self.reason = "the package cuda-bindings is not installed"
            return
        attribute = self._rt.cudaDeviceAttr
        sizes = []
        for name in (
            attribute.cudaDevAttrL2CacheSize,
            attribute.cudaDevAttrMaxPersistingL2CacheSize,
            attribute.cudaDevAttrMaxAccessPolicyWindowSize,
        ):
            error, value = self._rt.cudaDeviceGetAttribute(name, device)
            if not self._succeeded(error, "no device to ask"):
                return
            sizes.append(int(value))
        self.capacity = Capacity(*sizes)
        if not self.capacity.persisting or not self.capacity.window:
            self.reason = (
                "the device has no set-aside: a MIG slice, or a GPU before compute capability 8.0"
            )

    @contextmanager
    def reserved(self, nbytes: int) -> Iterator[int]:
        """Set aside up to ``nbytes`` of L2 and yield how many were granted; restore at the end.

        The limit is the device's, and holds for the current CUDA context. At the end no line of
        what was kept stays behind as a persisting one.
        """
        limit = self._rt.cudaLimit.cudaLimitPersistingL2CacheSize if not self.reason else None
        before = None if limit is None else self._read(limit)
        if before is None:
            yield 0
            return
        try:
            wanted = min(nbytes, self.capacity.persisting)
            set_code = self._rt.cudaDeviceSetLimit(limit, wanted)
            done = self._succeeded(set_code, "the limit of persisting L2 cannot be set (MPS?)")
            yield (self._read(limit) or 0) if done else 0
        finally:
            self._rt.cudaDeviceSetLimit(limit, before)
            self._rt.cudaCtxResetPersistingL2Cache()

    @contextmanager
    def window(self, stream: int, window: Window) -> Iterator[None]:
        """Have work submitted to ``stream`` (its handle) carry ``window``; none afterwards."""
        if self.reason or not window.nbytes:
            yield
            return
        try:
            self._install(stream, window)
            yield
        finally:
            self._install(stream, Window(0, 0, 0.0))

    def set_nodes(self, windows: Mapping[int, Window]) -> int:
        """Give kernel nodes of a graph that is not instantiated yet a window each; how many took.

        The keys are node handles (`captured_nodes`). Nodes of other kinds are left alone.
        """
        if self.reason:
            return 0
        kind = self._rt.cudaGraphNodeType.cudaGraphNodeTypeKernel
        name = self._rt.cudaKernelNodeAttrID.cudaLaunchAttributeAccessPolicyWindow
        taken = 0
        for node, window in windows.items():
            error, found = self._rt.cudaGraphNodeGetType(node)
            if self._succeeded(error, "a node cannot be read") and found == kind:
                value = self._rt.cudaKernelNodeAttrValue()
                self._describe(value, window)
                code = self._rt.cudaGraphKernelNodeSetAttribute(node, name, value)
                taken += self._succeeded(code, "a node's window cannot be set")
        return taken

    def captured_nodes(self, stream: int) -> list[int]:
        """Handles of the nodes captured so far on a stream that is capturing; else none."""
        if self.reason:
            return []
        error, status, _, graph, *_ = self._rt.cudaStreamGetCaptureInfo(stream)
        active = self._rt.cudaStreamCaptureStatus.cudaStreamCaptureStatusActive
        if not self._succeeded(error, "the capture cannot be read") or status != active:
            return []
        error, _, count = self._rt.cudaGraphGetNodes(graph)
        if not self._succeeded(error, "the captured graph cannot be read"):
            return []
        error, nodes, _ = self._rt.cudaGraphGetNodes(graph, count)
        known = self._succeeded(error, "the captured graph cannot be read")
        return [int(node) for node in nodes] if known else []

    def _read(self, limit: Any) -> int | None:
        error, value = self._rt.cudaDeviceGetLimit(limit)
        known = self._succeeded(error, "the limit of persisting L2 cannot be read")
        return int(value) if known else None

    def _install(self, stream: int, window: Window) -> None:
        value = self._rt.cudaStreamAttrValue()
        self._describe(value, window)
        name = self._rt.cudaStreamAttrID.cudaLaunchAttributeAccessPolicyWindow
        self._succeeded(
            self._rt.cudaStreamSetAttribute(stream, name, value), "a window cannot be installed"
        )

    def _describe(self, value: Any, window: Window) -> None:
        described, property_ = value.accessPolicyWindow, self._rt.cudaAccessProperty
        described.base_ptr, described.num_bytes = window.address, window.nbytes
        described.hitRatio = window.hit_ratio
        if window.nbytes:
            described.hitProp = property_.cudaAccessPropertyPersisting
            # The rest of the window is weights too, and wanted again: not the first to be evicted.
            described.missProp = property_.cudaAccessPropertyNormal

    def _succeeded(self, result: Any, otherwise: str) -> bool:
        """Whether a call's code says so; if not, `reason` tells it, and everything is a no-op."""
        code = result[0] if isinstance(result, tuple) else result
        if int(code) == 0:
            return True
        self.reason = f"{otherwise}: {getattr(code, 'name', code)}"
        return False
