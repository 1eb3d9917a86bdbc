"""Whatever runs a program gives the same answer; what cannot run is refused in time."""

import gc
import weakref
from types import SimpleNamespace

import pytest
import torch

from kernels import native, runners
from kernels.errors import NoKernels
from kernels.execute import execute
from kernels.program import GlobalAverage, Program
from kernels.runners import Graphs, OpByOp, Plans, runner_for
from kernels.weights import Weight
from tests.kernels.programs import Builder, in_float64

CPU = torch.device("cpu")
compiled = pytest.mark.skipif(not native.variant(), reason="there was no C++ compiler")


def network(layout) -> Program:
    torch.manual_seed(0)
    b = Builder(layout)
    x = b.conv(0, 3, 16, 3, 2)
    wide = b.pointwise(x, 16, 48, "h_swish")
    y, pooled = b.depthwise(wide, 48, 5, 1, pool=True)
    y = b.pointwise(y, 48, 16, residual=x, gate=b.gates(pooled, 48, 16))
    return b.program(b.pointwise(b.add(GlobalAverage(y, b.new())), 16, 10))


def close(runner, program, x, **where):
    expected = execute(in_float64(program), x.double(), "plain")
    actual = runner(program, x, "subnet", None, **where)
    assert float((actual - expected).norm() / expected.norm()) < 1e-5


@pytest.mark.parametrize("ops", ["fast", "plain"])
@pytest.mark.parametrize("layout", ["rows", "panels"])
def test_op_by_op(ops, layout, monkeypatch):
    x, program = torch.randn(5, 12, 9, 3), network(layout)
    close(OpByOp(ops), program, x)
    monkeypatch.setattr(runners, "WORKING_SET", 1)
    close(OpByOp(ops), program, x)


@compiled
def test_one_plan_per_size_is_kept_for_as_long_as_its_program(monkeypatch):
    monkeypatch.setattr(runners, "PLANS", 3)
    runner, program = Plans(), network("panels")
    for batch, height in ((1, 12), (2, 12), (1, 8), (4, 12), (1, 12)):
        close(runner, program, torch.randn(batch, height, 12, 3))
    first = runner.plan(program, 1, (12, 12, 3))

    assert runner.plan(program, 1, (12, 12, 3)) is first
    gone, plan = weakref.ref(program), weakref.ref(first)
    del program, first
    gc.collect()
    assert gone() is None
    assert plan() is None


@compiled
def test_a_program_that_is_not_compiled_runs_all_the_same():
    b = Builder("panels")
    y, _ = b.depthwise(0, 8, 9, 1)  # no compiled kernel is so large
    close(Plans(), b.program(b.pointwise(y, 8, 8)), torch.randn(2, 11, 11, 8))


@compiled
def test_a_plan_copies_no_weight():
    """What is written into the arena afterwards is what runs."""
    program = network("panels")
    runner, x = Plans(), torch.randn(1, 12, 12, 3)
    runner(program, x, "subnet", None)
    for tensor in program.tensors().values():
        tensor.mul_(0.5)
    close(runner, program, x)


@pytest.mark.parametrize(
    ("kernels", "dtype", "kind"),
    [
        ("torch", torch.float32, OpByOp),
        ("auto", torch.float64, OpByOp),
        ("auto", torch.bfloat16, OpByOp),
        pytest.param("auto", torch.float32, Plans, marks=compiled),
    ],
)
def test_a_cpu_gets_the_fastest_that_there_is(kernels, dtype, kind):
    assert type(runner_for(CPU, dtype, kernels)) is kind


@pytest.mark.parametrize(
    ("kernels", "triton", "kind"),
    [("auto", True, Graphs), ("triton", True, Graphs), ("torch", True, OpByOp),
     ("auto", False, OpByOp)],
)  # fmt: skip
def test_a_gpu_gets_triton_in_graphs_where_triton_is(monkeypatch, kernels, triton, kind):
    """The choice alone: the device and its recorder are stand-ins."""
    memory = SimpleNamespace(total_memory=8 << 30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: memory)
    monkeypatch.setattr(runners, "CudaRecorder", lambda _: None)
    monkeypatch.setattr(runners, "find_spec", lambda _: triton or None)
    runner = runner_for(torch.device("cuda", 0), torch.bfloat16, kernels)

    assert type(runner) is kind
    assert runner.for_gpu == (kind is Graphs)
    assert runner.layout == "rows"


def test_without_a_compiler_pytorch_runs_it(monkeypatch):
    monkeypatch.setattr(native, "library", None)

    assert runner_for(CPU, torch.float32).name == "torch"


def test_triton_on_a_cpu_is_refused_with_what_to_do():
    with pytest.raises(NoKernels, match="--kernels auto"):
        runner_for(CPU, torch.float32, "triton")


def test_a_panel_layout_is_undone_where_rows_are_wanted():
    b = Builder("panels")
    weight = b.weight(21, 6, 3)
    rows = weight.matrix()

    assert rows.shape == (21, 9, 6)
    assert rows.isfinite().all()
    assert Weight(rows, 21).matrix() is rows
