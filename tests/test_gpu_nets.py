"""The nets that are measured on GPUs, their steps one by one, and the roofline."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks.gpu import nets
from benchmarks.gpu.frozen import frozen
from benchmarks.gpu.gate import of_step, relative
from benchmarks.gpu.roofline import Cost, Peaks, costs, floor_seconds, peaks_of, program_floor
from benchmarks.gpu.settings import Settings
from benchmarks.gpu.steps import label, walk
from kernels.execute import execute, run_step
from kernels.fusion import fuse
from kernels.program import DepthwiseProject, GlobalAverage, Head
from supernets import extract
from supernets.cost import macs as counted_macs
from tests.kernels.programs import Builder


def whole_program():
    """Every kind of step that a network has on a GPU, over slices of poisoned weights."""
    torch.manual_seed(0)
    build = Builder("rows")
    x = build.conv(0, 3, 16, 3, 2)
    wide = build.pointwise(x, 16, 48, "h_swish")
    deep, _ = build.depthwise(wide, 48, 3, 1)
    x = build.pointwise(deep, 48, 16, residual=x)
    wide = build.pointwise(x, 16, 40, "relu")
    deep, pooled = build.depthwise(wide, 40, 5, 2, pool=True)
    gates = build.gates(pooled, 40, 16)
    x = build.pointwise(deep, 40, 24, gate=gates)
    mean = build.add(GlobalAverage(x, build.new()))
    return fuse(build.program(build.pointwise(mean, 24, 10)), gpu=True)


class TestSteps:
    def test_every_step_gets_what_it_reads_in_a_whole_run(self):
        program, x = whole_program(), torch.randn(2, 16, 16, 3)
        for work in walk(program, x):
            for answer, wanted in zip(
                run_step(work.step, dict(work.inputs)), work.reference(), strict=True
            ):
                assert of_step(answer, wanted, torch.float32).passed
        assert relative(answer, execute(program, x)) < 1e-5

    def test_the_frozen_form_of_every_step_computes_the_same(self):
        program = whole_program()
        kinds = {type(step) for step in program.steps}
        assert {DepthwiseProject, Head} <= kinds
        for work in walk(program, torch.randn(2, 16, 16, 3)):
            answer = frozen(work.step)(work.inputs)
            assert of_step(answer, work.reference()[0], torch.float32).passed

    def test_steps_that_do_the_same_work_have_one_label(self):
        def labels(rows):
            build = Builder("rows")
            x = build.pointwise(0, 3, 8)
            build.pointwise(build.pointwise(x, 8, 8), 8, rows)
            return [label(work) for work in walk(build.program(3), torch.randn(1, 4, 4, 3))]

        _, one, other = labels(8)
        assert one == other
        _, one, other = labels(16)
        assert one != other


class TestRoofline:
    def test_bytes_and_operations_of_one_product_by_hand(self):
        build = Builder("rows", torch.bfloat16)
        x = build.pointwise(0, 8, 8)
        build.pointwise(0, 8, 8, residual=x, gate=None)
        _, cost = costs(build.program(2), (4, 5, 8), 3, 2)
        pixels = 3 * 4 * 5
        assert cost.macs == pixels * 8 * 8
        assert cost.read == 2 * pixels * 8 * 2  # the input and the residual
        assert cost.written == pixels * 8 * 2
        assert cost.weights == (8 * 8 + 8 + 8) * 2
        assert cost.intensity == 2 * cost.macs / cost.nbytes

    @pytest.mark.parametrize("name", ["mobilenetv3-w1.0", "resnet50"])
    def test_a_program_has_the_operations_that_the_net_is_counted_with(self, name):
        settings = replace(Settings.dry(Path()), nets=(name,), side=64, extra=0)
        each = nets.subject(name, settings)
        form = each.resident(settings)
        for subnet in (each.subnets["mid"], each.subnets["min"]):
            for program in (form.program(subnet), fuse(form.program(subnet), gpu=True)):
                steps = costs(program, (224, 224, 3), 2, 2)
                assert sum(cost.macs for cost in steps) == 2 * counted_macs(each.net, subnet)

    def test_fusion_takes_bytes_away_and_no_operations(self):
        program = whole_program()
        separate = [
            part
            for step in program.steps
            for part in (
                (step.depthwise, step.project) if isinstance(step, DepthwiseProject) else (step,)
            )
        ]
        apart = costs(replace(program, steps=tuple(separate)), (16, 16, 3), 1, 2)
        joined = costs(program, (16, 16, 3), 1, 2)
        assert sum(c.macs for c in joined) == sum(c.macs for c in apart)
        assert sum(c.nbytes for c in joined) < sum(c.nbytes for c in apart)

    def test_the_floor_is_the_longer_of_moving_and_computing(self):
        moving, matrix, vector = (Cost("op", 50, 60, 30, 10, matrix=m) for m in (True, True, False))
        peaks = Peaks(bandwidth=100.0, matrix=1000.0, vector=10.0, source="properties")
        assert floor_seconds(moving, peaks) == 1.0
        assert floor_seconds(replace(matrix, macs=5000), peaks) == 10.0
        assert floor_seconds(vector, peaks) == 10.0
        assert program_floor([moving, vector], peaks) == 11.0

    def test_an_h200s_peaks_are_those_of_its_data_sheet(self):
        properties = SimpleNamespace(
            major=9, minor=0, multi_processor_count=132, clock_rate=1_830_000,
            memory_clock_rate=3_201_000, memory_bus_width=6144,
        )  # fmt: skip
        peaks = peaks_of(properties)
        assert peaks.matrix == pytest.approx(989e12, rel=0.01)
        assert peaks.vector == pytest.approx(62e12, rel=0.01)
        assert peaks.bandwidth == pytest.approx(4.9e12, rel=0.01)

    def test_without_clocks_or_for_another_architecture_there_are_no_peaks(self):
        known = SimpleNamespace(major=9, minor=0, multi_processor_count=132)
        assert peaks_of(known) is None
        assert peaks_of(SimpleNamespace(major=99, minor=0, multi_processor_count=1)) is None


def test_what_is_to_be_compiled_can_be_captured_whole():
    """On a GPU a break in the graph would make the baseline slower than it needs to be."""
    settings = Settings.dry(Path())
    captured = {"backend": "eager", "fullgraph": True, "dynamic": False}
    each = nets.subject("tiny-mobilenetv3", settings)
    x = each.images(1, settings)
    module = extract(each.net, each.subnets["mid"])
    with torch.no_grad():
        assert relative(torch.compile(module, **captured)(x), module(x)) < 1e-5
    for work in walk(whole_program(), torch.randn(1, 8, 8, 3)):
        call = frozen(work.step)
        answer = torch.compile(call, **captured)(dict(work.inputs))
        assert relative(answer, call(work.inputs)) < 1e-5


class TestNets:
    def test_both_projects_nets_have_the_same_weights_and_statistics(self):
        pytest.importorskip("ofa")
        settings = replace(Settings.dry(Path()), side=64, extra=1)
        each = nets.subject("mobilenetv3-w1.0", settings, theirs=True)
        x = each.images(1, settings)
        with torch.no_grad():
            for name in ("min", "mid"):
                wanted = each.reference(each.subnets[name])(x.double())
                theirs = each.theirs[name](x)
                assert relative(theirs, wanted) < 1e-4
                assert each.subnets[name] in each.net.statistics
        assert each.extra[0] in each.net.statistics
        assert float(wanted.std()) > 0.01

    def test_nothing_in_a_net_is_as_it_was_initialised(self):
        each = nets.subject("tiny-mobilenetv3", Settings.dry(Path()))
        for name, tensor in each.net.named_parameters():
            assert len(tensor.detach().unique()) > 1, name
            assert torch.equal(tensor, tensor.bfloat16().float()), name
        for statistics in (each.net.statistics[s] for s in each.subnets.values()):
            for layer in statistics.values():
                assert len(layer.mean.unique()) > 1
                assert not torch.allclose(layer.var, torch.ones_like(layer.var))

    def test_without_the_package_there_is_a_reason(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "ofa", None)
        monkeypatch.setitem(sys.modules, "ofa.imagenet_classification.elastic_nn", None)
        assert nets._package("resnet50", 0)[0] is None
        assert "not installed" in nets._package("resnet50", 0)[1]
