"""LayerSelect, WeightSlice and SubnetNorm, against plain torch written out by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from supernets.calibration import calibrate
from supernets.norms.statistics import Collector, LayerStatistics, Recorded, batch_statistics
from supernets.operators import DepthwiseSlice, LayerSelect, SubnetNorm, WeightSlice
from tests.supernets.helpers import calibrated, images, small_net


def test_layer_select_runs_the_first_d_blocks():
    stage = LayerSelect([nn.Identity() for _ in range(4)])
    ran: list[int] = []

    def run(index: int, block: nn.Module, x: torch.Tensor) -> torch.Tensor:
        ran.append(index)
        return block(x) + 1

    assert stage(torch.zeros(1), 3, run).item() == 3
    assert ran == [0, 1, 2]


def test_weight_slice_uses_the_first_channels_of_both_sides():
    layer = WeightSlice(8, 6, kernel=3, bias=True)
    nn.init.normal_(layer.bias)
    x = torch.randn(2, 5, 7, 7)
    expected = F.conv2d(x, layer.weight[:4, :5], layer.bias[:4], padding=1)

    assert torch.equal(layer(x, 4), expected)


def test_weight_slice_is_a_view():
    layer = WeightSlice(8, 6)

    assert layer.slice(3, 2).data_ptr() == layer.weight.data_ptr()


def test_depthwise_kernels_shrink_through_the_learnt_matrices():
    """7 -> 5 -> 3: crop the centre, flatten by rows, multiply by the matrix from the left."""
    layer = DepthwiseSlice(3, (3, 5, 7)).double()
    for matrix in layer.transforms.values():
        nn.init.normal_(matrix)
    seven = layer.weight.detach()
    five = torch.empty(3, 25, dtype=torch.float64)
    three = torch.empty(3, 9, dtype=torch.float64)
    for c in range(3):
        centre = seven[c, 0, 1:6, 1:6].reshape(25)
        five[c] = layer.transforms["7to5"].detach() @ centre
        three[c] = layer.transforms["5to3"].detach() @ five[c].reshape(5, 5)[1:4, 1:4].reshape(9)

    torch.testing.assert_close(layer.filters(7), layer.weight)
    torch.testing.assert_close(layer.filters(5).flatten(1), five)
    torch.testing.assert_close(layer.filters(3).flatten(1), three)


def test_narrowing_and_shrinking_a_depthwise_filter_commute():
    layer = DepthwiseSlice(6, (3, 5, 7))
    for matrix in layer.transforms.values():
        nn.init.normal_(matrix)

    torch.testing.assert_close(layer.filters(3)[:4], layer.filters(3, 4))


def test_a_kernel_that_is_not_offered_is_an_error():
    with pytest.raises(ValueError, match="kernel 4 is not one of"):
        DepthwiseSlice(2, (3, 5)).filters(4)


def test_subnet_norm_is_batch_norm_with_the_subnets_statistics():
    norm = SubnetNorm(0, 6)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(3, 4, 5, 5)
    mean, var = torch.randn(4), torch.rand(4) + 0.5
    expected = (x - mean[:, None, None]) / torch.sqrt(var[:, None, None] + norm.eps)
    expected = expected * norm.weight[:4, None, None] + norm.bias[:4, None, None]

    actual = norm(x, Recorded({0: LayerStatistics(mean, var)}))

    torch.testing.assert_close(actual, expected)


def test_training_normalises_with_the_batch():
    norm = SubnetNorm(0, 4)
    x = torch.randn(16, 4, 6, 6) * 3 + 2
    y = norm(x, batch_statistics)

    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.var((0, 2, 3), correction=0), torch.ones(4), atol=1e-4, rtol=0)


def test_calibration_averages_batches_by_their_size():
    collector = Collector()
    norm = SubnetNorm(5, 2)
    first, second = torch.randn(6, 2, 3, 3), torch.randn(2, 2, 3, 3) * 2 + 1
    for batch in (first, second):
        norm(batch, collector)
    entry = collector.statistics()[5]
    mean = (6 * first.mean((0, 2, 3)) + 2 * second.mean((0, 2, 3))) / 8
    var = (6 * first.var((0, 2, 3), correction=0) + 2 * second.var((0, 2, 3), correction=0)) / 8

    torch.testing.assert_close(entry.mean, mean)
    torch.testing.assert_close(entry.var, var)


def test_calibrating_one_subnet_changes_no_other():
    net = small_net(0)
    subnets = calibrated(net, 3)
    x = images(net, 2)
    with torch.no_grad():
        before = [net(x, subnet) for subnet in subnets]
        calibrate(net, [subnets[1]], [images(net, 8, seed=77)])

        for index, subnet in enumerate(subnets):
            assert torch.equal(net(x, subnet), before[index]) == (subnet != subnets[1])


def test_calibration_needs_images():
    net = small_net(0)
    with pytest.raises(ValueError, match="at least one batch"):
        calibrate(net, [net.space.smallest], [])
