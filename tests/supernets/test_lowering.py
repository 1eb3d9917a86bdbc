"""A forward pass as a program computes what it did; what is no program is refused with a reason."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kernels.program import Conv, Depthwise, GlobalAverage, Pointwise, Pool, Program
from supernets import Preprocessing, SearchSpace, calibrate, create_supernet
from supernets.lowering import lower
from supernets.operators import DepthwiseSlice, SubnetNorm, WeightSlice
from supernets.opt_in import ModuleSupernet
from supernets.recording import NotLowered
from supernets.resident import ResidentCopy
from supernets.resident_programs import ResidentPrograms
from supernets.space import Dimension
from supernets.stored_weights import Skeleton
from tests.supernets.helpers import randomise, relative

SPACE = SearchSpace("own", [Dimension("width", 1, (5, 8))])
SIZE = 12
STEP = Preprocessing(SIZE, SIZE, 8, (0.5,) * 8, (0.5,) * 8)


class Parts(nn.Module):
    """Layers of all kinds; which of them run is a function's choice."""

    def __init__(self, forward):
        super().__init__()
        self.run = forward
        self.dense = WeightSlice(8, 8, 3, 2, bias=True)
        self.point = WeightSlice(8, 8)
        self.strided = WeightSlice(8, 8, 1, 2)
        self.depthwise = DepthwiseSlice(8, (3, 5), 2)
        self.plain = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.norm = SubnetNorm(0, 8)
        self.batch_norm = nn.BatchNorm2d(8)
        self.flat_norm = nn.BatchNorm1d(8, affine=False)
        self.linear = nn.Linear(8, 8)
        self.bias = nn.Parameter(torch.zeros(8))
        self.matrix = nn.Parameter(torch.zeros(8, 8))
        self.head = nn.Parameter(torch.zeros(6, 8))

    def forward(self, x, subnet, normalise):
        y = self.run(self, x, subnet["width"][0], normalise)
        if y.dim() == 4:
            y = y.mean((2, 3))
        return F.linear(y, self.head[:, : y.shape[1]])


def net_of(forward) -> ModuleSupernet:
    torch.manual_seed(0)
    net = ModuleSupernet(Parts(forward), SPACE, STEP, "abcdef")
    randomise(net, 0)
    with torch.no_grad():
        net.module.batch_norm.running_mean.normal_()
        net.module.batch_norm.running_var.uniform_(0.5, 2.0)
        net.module.batch_norm.eps = 0.1
        net.module.flat_norm.running_mean.normal_()
    net.double().eval()
    for subnet in SPACE:
        calibrate(net, [subnet], [pictures(6, seed=1)])
    return net


def pictures(count=3, size=SIZE, seed=0):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, 8, size, size + 2, dtype=torch.float64, generator=generator)
    return noise + torch.randn(count, 8, 1, 1, dtype=torch.float64, generator=generator)


def program_of(forward, width=5) -> Program:
    return lower(Skeleton(net_of(forward), "rows"), SPACE.subnet(width=width))


def in_place(m, x, width, normalise):
    y = m.point(x, width)
    z = y.clone()
    F.relu(y, inplace=True)
    z += y  # not what y was
    return F.hardswish(z, inplace=True)


def gated(m, x, width, normalise):
    gates = F.hardsigmoid(m.point(x.mean((2, 3), keepdim=True)))
    return gates * x if width == 5 else x * gates


PROGRAMS = {
    "dense": lambda m, x, w, n: m.dense(x, w),
    "narrow input": lambda m, x, w, n: m.dense(m.point(x, 6), w),
    "pointwise": lambda m, x, w, n: m.point(x, w),
    "strided pointwise": lambda m, x, w, n: m.strided(x, w),
    "padded pointwise": lambda m, x, w, n: F.conv2d(x, m.point.weight[:w], padding=1),
    "linear as convolution": lambda m, x, w, n: F.conv2d(x, m.matrix[:w, :, None, None]),
    "copied slice": lambda m, x, w, n: F.conv2d(m.point(x, 6), m.point.weight[:w, :6].contiguous()),
    "largest kernel": lambda m, x, w, n: m.depthwise(m.point(x, w), 5),
    "smaller kernel": lambda m, x, w, n: m.depthwise(m.point(x, w), 3),
    "plain depthwise": lambda m, x, w, n: m.plain(x),
    "norm": lambda m, x, w, n: F.relu(m.norm(m.point(x, w), n)),
    "norm of the input": lambda m, x, w, n: m.norm(x, n),
    "batch norm": lambda m, x, w, n: m.batch_norm(x),
    "batch norm of means": lambda m, x, w, n: m.flat_norm(x.mean((2, 3))),
    "activations": lambda m, x, w, n: F.hardswish(F.hardsigmoid(F.relu(x))),
    "sum": lambda m, x, w, n: m.point(x) + x,
    "in place": in_place,
    "gate": gated,
    "bias": lambda m, x, w, n: m.point(x, w) + m.bias[:w].view(1, -1, 1, 1),
    "scale": lambda m, x, w, n: m.bias[:, None, None] * x,
    "max pool": lambda m, x, w, n: F.max_pool2d(x, 3, 2, 1),
    "max pool, ceil": lambda m, x, w, n: F.max_pool2d(x, 3, 3, ceil_mode=True),
    "average pool": lambda m, x, w, n: F.avg_pool2d(x, 2),
    "average pool, ceil": lambda m, x, w, n: F.avg_pool2d(x, 5, 5, ceil_mode=True),
    "average inside": lambda m, x, w, n: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "adaptive pool": lambda m, x, w, n: F.adaptive_avg_pool2d(x, 1).flatten(1),
    "whole window": lambda m, x, w, n: F.avg_pool2d(x, tuple(x.shape[2:])).view(len(x), -1),
    "mean and squeeze": lambda m, x, w, n: x.mean((-1, -2), keepdim=True).squeeze(-1).squeeze(-1),
    "mean of a mean": lambda m, x, w, n: x.mean((2, 3), True).mean((2, 3), True),
    "linear": lambda m, x, w, n: F.relu(m.linear(x.mean((2, 3)))),
    "linear slices": lambda m, x, w, n: F.linear(x.mean((2, 3))[:, :], m.matrix[:w]),
    "dropout": lambda m, x, w, n: F.dropout(x, 0.5, m.training),
    "memory format": lambda m, x, w, n: x.contiguous(memory_format=torch.channels_last),
    "one pixel": lambda m, x, w, n: F.avg_pool2d(x, tuple(x.shape[2:])) + x.mean((2, 3), True),
}


@pytest.mark.parametrize("layout", ["rows", "panels"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_computes_what_the_forward_pass_does(name, layout, monkeypatch):
    net = net_of(PROGRAMS[name])
    monkeypatch.setattr("kernels.runners.OpByOp.layout", layout)
    resident = net.resident(dtype=torch.float64)
    assert isinstance(resident, ResidentPrograms)
    assert resident.reason == ""
    x = pictures()
    for subnet in SPACE:
        with torch.no_grad():
            expected = net(x, subnet)
        assert relative(expected[0], expected[1]) > 0.01
        assert relative(resident(x, subnet), expected) < 1e-9
        assert resident.arena.holds(resident.tensors(subnet).values())


def test_images_of_another_size_have_a_program_of_their_own():
    """A window as large as the map is one of that size only."""
    net = net_of(PROGRAMS["whole window"])
    resident = net.resident(dtype=torch.float64)
    with torch.no_grad():
        for size in (SIZE, 7):
            x = pictures(size=size)
            assert relative(resident(x, SPACE.largest), net(x, SPACE.largest)) < 1e-9


REFUSED = {
    "gelu": (lambda m, x, w, n: F.gelu(x), "no step of a program computes aten.gelu"),
    "maximum": (lambda m, x, w, n: x.amax((2, 3)), "amax"),
    "grouped": (lambda m, x, w, n: m.grouped(x), "a grouped convolution"),
    "dilated": (lambda m, x, w, n: F.conv2d(x, m.dense.weight, dilation=2), "dilated"),
    "rectangular": (lambda m, x, w, n: F.conv2d(x, m.dense.weight, padding=(1, 0)), "not square"),
    "unpadded depthwise": (lambda m, x, w, n: F.conv2d(x, m.plain.weight, groups=8), "depthwise"),
    "last channels": (lambda m, x, w, n: F.conv2d(x, m.point.weight[-w:]), "point.weight is read"),
    "every other": (lambda m, x, w, n: F.conv2d(x, m.point.weight[::2]), "point.weight is read"),
    "turned": (lambda m, x, w, n: x.mean((2, 3)) @ m.matrix, "matrix is read in another way"),
    "turned slice": (lambda m, x, w, n: F.linear(x.mean((2, 3)), m.matrix.t()), "matrix is read"),
    "computed": (lambda m, x, w, n: F.conv2d(x, 2 * m.point.weight), "computed from others"),
    "computed filters": (lambda m, x, w, n: F.conv2d(
        x, m.depthwise.filters(5) * 2, padding=2, groups=8), "computed from others"),
    "a number": (lambda m, x, w, n: 2 * x, "a sum or product with a number"),
    "weighted sum": (lambda m, x, w, n: torch.add(x, x, alpha=2), "a weighted sum"),
    "square": (lambda m, x, w, n: x * x, "a product of"),
    "part": (lambda m, x, w, n: x[:, :w], "aten.slice"),
    "turned image": (lambda m, x, w, n: x.transpose(2, 3), "aten.transpose"),
    "flat image": (lambda m, x, w, n: x.flatten(1)[:, :8], "seen as"),
    "mean of a row": (lambda m, x, w, n: x.mean(3).mean(2), "a mean over dimensions"),
    "padded average": (lambda m, x, w, n: F.avg_pool2d(x, 3, 2, 1), "outside the image"),
    "adaptive": (lambda m, x, w, n: F.adaptive_avg_pool2d(x, 2), "a pooling to"),
    "conversion": (lambda m, x, w, n: x.float().double(), "a conversion to torch.float32"),
    "batch statistics": (lambda m, x, w, n: F.batch_norm(x, None, None, training=True), "batch's"),
    "other norm": (lambda m, x, w, n: F.batch_norm(
        x, m.batch_norm.running_mean, m.batch_norm.running_var), "another one's weights"),
    "the image's values": (lambda m, x, w, n: x if x.mean() > 0 else -x, "aten.mean.default"),
    "values": (lambda m, x, w, n: x if m.bias.sum() > 0 else -x, "does not run without values"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_program_is_refused_with_its_reason(name):
    forward, reason = REFUSED[name]
    with pytest.raises(NotLowered) as raised:
        program_of(forward)
    assert reason in str(raised.value)


def test_a_net_that_is_no_program_runs_its_own_forward_pass_and_says_why():
    net = net_of(REFUSED["gelu"][0])
    resident = net.resident(dtype=torch.float64)
    x = pictures()

    assert isinstance(resident, ResidentCopy)
    assert resident.reason.startswith("own is no program of our kernels: no step")
    assert "aten.gelu" in resident.reason
    with torch.no_grad():
        assert relative(resident(x, SPACE.smallest), net(x, SPACE.smallest)) < 1e-12


def test_one_setting_that_is_no_program_makes_the_whole_net_run_as_it_is():
    """Found when the form is made, even if it is neither the smallest nor the largest setting."""
    space = SearchSpace("own", [Dimension("width", 1, (4, 5, 8))])

    def forward(m, x, width, normalise):
        return F.gelu(x) if width == 5 else x

    net = ModuleSupernet(Parts(forward), space, STEP, "abcdef")
    assert isinstance(net.resident(), ResidentCopy)


def kinds(program: Program) -> list[str]:
    return [type(step).__name__ for step in program.steps]


def test_steps_say_what_they_read():
    first, mean, head = program_of(PROGRAMS["dense"]).steps
    assert isinstance(first, Conv)
    assert (first.kernel, first.stride, first.padding) == (3, 2, 1)
    assert (first.weight.rows, first.weight.taps, first.weight.columns) == (5, 9, 8)
    assert first.affine.shift is not None
    assert first.affine.shift.shape == (5,)
    assert isinstance(mean, GlobalAverage)
    assert isinstance(head, Pointwise)
    assert head.weight.columns == 5


def test_a_depthwise_step_reads_the_bank_made_for_its_kernel():
    step = program_of(PROGRAMS["smaller kernel"]).steps[1]
    assert isinstance(step, Depthwise)
    assert step.filters.shape == (3, 3, 5)
    assert step.stride == 2


def test_a_pool_keeps_its_window():
    step = program_of(PROGRAMS["max pool, ceil"]).steps[0]
    assert isinstance(step, Pool)
    assert (step.kind, step.window, step.stride, step.padding, step.ceil) == ("max", 3, 3, 0, True)


def test_what_changes_nothing_is_no_step():
    for name in ("dropout", "memory format", "mean and squeeze", "mean of a mean", "adaptive pool"):
        assert kinds(program_of(PROGRAMS[name])) == ["GlobalAverage", "Pointwise"], name


def test_a_pass_without_values_does_not_touch_the_net():
    net = net_of(PROGRAMS["norm"])
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    lower(Skeleton(net, "rows"), SPACE.largest)

    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in before.items())
    assert {t.device.type for t in net.parameters()} == {"cpu"}


@pytest.mark.parametrize("name", ["ofa_mobilenetv3", "ofa_resnet50", "stitched_resnet", "digits"])
def test_our_convolutional_families_are_programs(name):
    net = create_supernet(name)
    skeleton = Skeleton(net, "rows")
    for subnet in (net.space.smallest, net.space.largest):
        assert len(lower(skeleton, subnet).steps) > 40


def test_a_transformer_is_none():
    net = create_supernet("elastic_vit", image_size=32, patch=8, dim=32, heads=2, depth=2)
    assert isinstance(net.resident(), ResidentCopy)
