"""In which order a capture, its policy and the streams come, on a PyTorch that only keeps a log."""

from contextlib import contextmanager, nullcontext

import pytest
import torch

from kernels import graphs, residency
from kernels.arena import Arena
from kernels.graphs import WARM_UPS, CudaRecorder
from kernels.l2 import L2
from kernels.prefetch import Fetch
from kernels.program import Pointwise, Program
from kernels.weights import Weight
from tests.kernels.fake_cuda import FakeRuntime


class Log(list):
    """What happened, in words."""

    def context(self, before, after):
        @contextmanager
        def entered(*_):
            self.append(before)
            try:
                yield
            finally:
                self.append(after)

        return entered()


class FakeStream:
    cuda_stream = 5

    def __init__(self, log, name):
        self.log, self.name = log, name

    def wait_stream(self, other):
        self.log.append(f"{self.name} waits for {other.name}")


class FakeGraph:
    def __init__(self, log):
        self.log = log

    def instantiate(self):
        self.log.append("instantiate")

    def replay(self):
        self.log.append("replay")

    def reset(self):
        self.log.append("reset")


@pytest.fixture
def log(monkeypatch):
    """What the recorder calls of `torch.cuda`, and every run of a program, is logged."""
    log = Log()
    free = iter([1000, 400, 400, 400])
    fakes = {
        "Stream": lambda _: FakeStream(log, "capture"),
        "current_stream": lambda: FakeStream(log, "current"),
        "graph_pool_handle": lambda: "pool",
        "device": lambda _: nullcontext(),
        "stream": lambda stream: log.context(f"on {stream.name}", f"off {stream.name}"),
        "synchronize": lambda *_: log.append("synchronize"),
        "empty_cache": lambda: None,
        "mem_get_info": lambda: (next(free), 0),
        "CUDAGraph": lambda keep_graph: FakeGraph(log),
        "graph": lambda *_: log.context("begin", "end"),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)

    def execute(program, x, before=None):
        for index, step in enumerate(program.steps):
            if before is not None:
                before(index, step)
        log.append("run")
        return x[:, 0, 0]

    monkeypatch.setattr(graphs, "execute", execute)
    return log


ARENA = Arena({"first": torch.zeros(8, 8), "second": torch.zeros(8, 8)})
TWO_LAYERS = Program(
    tuple(Pointwise(i, i + 1, Weight(ARENA[n][:, None], 8)) for i, n in enumerate(ARENA.slots)), 2
)
X = torch.zeros(2, 4, 4, 8)
WARM_UP = ["capture waits for current", "on capture", *["run"] * WARM_UPS, "off capture"]


def test_a_program_is_warm_before_it_is_captured_and_alone_then(log):
    recording = CudaRecorder(torch.device("cuda"))(TWO_LAYERS, X)

    assert log == [*WARM_UP, "synchronize", "begin", "run", "end", "instantiate"]
    assert recording.nbytes == 600  # what less was free behind it


def test_a_release_waits_for_what_may_be_running(log):
    recording = CudaRecorder(torch.device("cuda"))(TWO_LAYERS, X)
    log.clear()
    recording.replay()
    recording.release()

    assert log == ["replay", "synchronize", "reset"]


def test_a_window_stands_before_the_capture_begins_and_until_it_ends(log, monkeypatch):
    runtime = FakeRuntime(persisting=10**6, window=10**6)
    real = runtime.cudaStreamSetAttribute

    def installed(stream, name, value):
        log.append("window" if value.accessPolicyWindow.num_bytes else "no window")
        return real(stream, name, value)

    monkeypatch.setattr(runtime, "cudaStreamSetAttribute", installed)
    with residency.residency("arena", ARENA, L2(runtime=runtime)) as policy:
        CudaRecorder(torch.device("cuda"), policy)(TWO_LAYERS, X)

    assert log[len(WARM_UP) + 1 :] == [
        "window", "begin", "run", "end", "no window", "instantiate",
    ]  # fmt: skip


def test_nodes_get_their_windows_after_the_capture_and_before_the_graph_is_instantiated(
    log, monkeypatch
):
    runtime = FakeRuntime(persisting=10**6, window=10**6)
    real = runtime.cudaStreamGetCaptureInfo

    def captured(stream):
        runtime.nodes[len(runtime.nodes) + 1] = "kernel"  # of the step before
        return real(stream)

    monkeypatch.setattr(runtime, "cudaStreamGetCaptureInfo", captured)
    monkeypatch.setattr(
        runtime, "cudaGraphNodeGetType", lambda node: log.append(f"node {node}") or (0, "kernel")
    )
    with residency.residency("per-layer", ARENA, L2(runtime=runtime)) as policy:
        CudaRecorder(torch.device("cuda"), policy)(TWO_LAYERS, X)

    assert log[len(WARM_UP) + 1 :] == [
        "begin", "run", "end", "node 2", "node 3", "instantiate",
    ]  # fmt: skip
    assert [window.base_ptr for window in runtime.node_windows.values()] == [
        ARENA[name].data_ptr() for name in ARENA.slots
    ]


@pytest.fixture
def prefetching(log, monkeypatch):
    """A policy with a side stream, though its arena is on a CPU; launches are logged."""
    monkeypatch.setattr(
        Fetch, "run", lambda self, *, touch: log.append(f"{'touch' if touch else 'ask'}")
    )

    def made(policy):
        chosen = residency.residency(policy, ARENA)
        chosen._side = FakeStream(log, "side")
        return chosen

    return made


def test_the_next_layers_weights_are_asked_for_beside_a_layer_in_the_same_graph(log, prefetching):
    recording = CudaRecorder(torch.device("cuda"), prefetching("prefetch-next"))(TWO_LAYERS, X)

    assert log[len(WARM_UP) + 1 :] == [
        "ask",  # compiled and loaded
        "begin",
        "side waits for capture", "on side", "ask", "off side",
        "run",
        "capture waits for side",
        "end",
        "instantiate",
    ]  # fmt: skip
    (fetch,) = recording.kept
    first = ARENA["second"].data_ptr() - ARENA.buffer.data_ptr()
    assert fetch.starts.tolist() == [first // 16]
    assert fetch.counts.tolist() == [8 * 8 * 4 // 16]


def test_a_program_of_one_step_has_no_branch_to_join(log, prefetching):
    one = Program(TWO_LAYERS.steps[:1], 1)
    CudaRecorder(torch.device("cuda"), prefetching("prefetch-next"))(one, X)

    assert "capture waits for side" not in log


def test_a_switch_reads_what_the_new_program_adds_once_it_is_another(log, prefetching):
    chosen = prefetching("actuation-prefetch")
    one = Program(TWO_LAYERS.steps[:1], 1)
    for before, now in ((None, one), (one, one), (one, TWO_LAYERS), (None, one)):
        chosen.switched(before, now)
    fetches = [fetch for _, _, fetch in chosen._fetches.values()]

    assert log == ["on side", "touch", "off side"] * 3
    assert [int(f.counts.sum()) * 16 for f in fetches] == [256, 256]  # the second layer, the first
