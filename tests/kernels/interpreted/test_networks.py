"""Whole subnets on the Triton kernels, fused as for a GPU, equal the extracted module."""

from importlib import import_module

import pytest
import torch

from kernels import execute as execution
from kernels.execute import execute
from kernels.program import DepthwiseProject, Head, SqueezeExcite
from supernets import create_supernet, extract
from supernets.calibration import calibrate
from tests.supernets.helpers import calibrated, images, randomise, relative, small_net

OPS = ("pointwise", "conv", "depthwise", "depthwise_project", "squeeze_excite", "head")


class Interpreted:
    """The runner of a GPU, on tensors that the interpreter can read."""

    name, layout, for_gpu = "interpreted", "rows", True

    def __call__(self, program, x, subnet, row):
        self.program = program
        return execute(program, x)


@pytest.fixture
def runner(monkeypatch):
    chosen = Interpreted()
    kernels = {op: getattr(import_module(f"kernels.ops.{op}.kernel"), op) for op in OPS}
    monkeypatch.setattr(execution, "_FAST", kernels)
    monkeypatch.setattr("supernets.resident_programs.runner_for", lambda *_: chosen)
    return chosen


def middle(space):
    """The middle option of every setting, as no space names one between smallest and largest."""
    return space.subnet(**{d.name: d.options[len(d.options) // 2] for d in space.dimensions})


def agree(net, subnet, x, runner):
    with torch.no_grad():
        expected = extract(net, subnet)(x)
    actual = net.resident(dtype=torch.float32)(x, subnet)

    assert relative(expected[0], expected[1]) > 0.1, "two images must not have one answer"
    assert relative(actual.double(), expected) < 1e-3, (
        "float32 alone is off by less, any wrong channel by more"
    )
    return {type(step) for step in runner.program.steps}


@pytest.mark.parametrize("which", ["smallest", "middle", "largest", "random"])
def test_mobilenetv3(which, runner):
    net = small_net(3)
    smallest, largest, *_, drawn = calibrated(net, 2)
    between = middle(net.space)
    calibrate(net, [between], [images(net, 8)])
    named = {"smallest": smallest, "middle": between, "largest": largest, "random": drawn}
    kinds = agree(net, named[which], images(net, 2), runner)

    assert {SqueezeExcite, Head, DepthwiseProject} <= kinds


@pytest.mark.parametrize("which", ["smallest", "largest"])
def test_bottlenecks(which, runner):
    net = create_supernet(
        "ofa_resnet50", num_classes=5, image_size=64, stem_width=16,
        stage_widths=[16, 24, 32, 40], base_depths=[1, 1, 1, 1], depths=[0, 1],
    )  # fmt: skip
    randomise(net, 1)
    net.double().eval()
    subnet = getattr(net.space, which)
    x = torch.randn(16, 3, 64, 64, dtype=torch.float64)
    calibrate(net, [subnet], [x])
    agree(net, subnet, x[:2], runner)


@pytest.mark.parametrize("which", [0, -1])
def test_basic_blocks_and_stitches(which, runner):
    """A whole ResNet18, and the last stitch from it to a ResNet34."""
    net = create_supernet(
        "stitched_resnet", anchors=("resnet18", "resnet34"), num_classes=5, image_size=64, width=8
    )
    randomise(net, 1)
    net.double().eval()
    subnet = list(net.space)[which]
    x = torch.randn(16, 3, 64, 64, dtype=torch.float64)
    calibrate(net, [subnet], [x])
    agree(net, subnet, x[:2], runner)
