"""Trainable, resident and extracted forms agree, for every subnet, with everything randomised."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from kernels import runners
from supernets import MissingStatistics, extract
from supernets.ofa_mobilenetv3 import MobileNetV3Definition
from tests.supernets.helpers import SMALL, calibrated, images, relative, small_net

DEFINITIONS = {
    "three-stages": SMALL,
    "colour-two-stages": replace(
        SMALL,
        in_channels=3,
        image_size=20,
        stem_width=16,
        first_width=8,
        stem_stride=1,
        stage_widths=(16, 32),
        strides=(2, 2),
        activations=("relu", "h_swish"),
        squeezes=(True, False),
        kernels=(3, 7),
        expands=(1, 4),
        depths=(2, 4),
    ),
    "one-kernel": replace(SMALL, kernels=(5,), expands=(4,), depths=(2,)),
}


@pytest.mark.parametrize("definition", DEFINITIONS.values(), ids=DEFINITIONS.keys())
def test_the_three_forms_agree(definition: MobileNetV3Definition):
    net = small_net(1, definition)
    subnets = calibrated(net, 12)
    resident = net.resident(dtype=torch.float64)
    x = images(net, 3, seed=9)
    for subnet in subnets:
        with torch.no_grad():
            trained, extracted = net(x, subnet), extract(net, subnet)(x)

        assert relative(resident(x, subnet), extracted) < 1e-12
        assert relative(trained, extracted) < 1e-12


def test_randomised_nets_tell_images_and_subnets_apart():
    """Without this the laws would hold for a network that ignores its input."""
    net = small_net(2)
    first, second, *_ = subnets = calibrated(net, 4)
    x = images(net, 2)
    with torch.no_grad():
        logits = net(x, first)

        assert relative(logits[0], logits[1]) > 0.05
        assert relative(net(x, second), logits) > 0.05
    assert len({subnet.id for subnet in subnets}) > 3


def test_float32_resident_form_is_close_to_float64():
    net = small_net(3)
    subnets = calibrated(net, 6)
    resident = net.resident(dtype=torch.float32)
    x = images(net, 4)
    for subnet in subnets:
        with torch.no_grad():
            exact = net(x, subnet)

        assert relative(resident(x, subnet).double(), exact) < 2e-5


def test_the_largest_subnet_is_the_whole_network():
    """All weights are in use at full width: the extracted net has every parameter but matrices."""
    net = small_net(4)
    largest = calibrated(net, 0)[1]
    matrices = sum(p.numel() for n, p in net.named_parameters() if "transforms" in n)
    whole = sum(p.numel() for p in net.parameters()) - matrices

    assert sum(p.numel() for p in extract(net, largest).parameters()) == whole


def test_batches_do_not_mix_rows():
    net = small_net(5)
    subnet = calibrated(net, 1)[2]
    resident = net.resident(dtype=torch.float64)
    x = images(net, 5)
    together = resident(x, subnet)
    alone = torch.cat([resident(row[None], subnet) for row in x])

    assert relative(together, alone) < 1e-12


def test_taking_a_batch_in_parts_changes_no_answer(monkeypatch):
    net = small_net(5)
    subnet = calibrated(net, 1)[2]
    resident = net.resident(dtype=torch.float64)
    x = images(net, 5)
    whole = resident(x, subnet)
    monkeypatch.setattr(runners, "WORKING_SET", 1)

    assert relative(resident(x, subnet), whole) < 1e-12


def test_two_subnets_run_at_the_same_time():
    """The subnet is an argument, so concurrent calls cannot see each other's setting."""
    net = small_net(6)
    subnets = calibrated(net, 6)
    resident = net.resident(dtype=torch.float64)
    x = images(net, 2)
    expected = {subnet: resident(x, subnet) for subnet in subnets}
    jobs = subnets * 20
    with ThreadPoolExecutor(4) as pool:
        for subnet, logits in zip(jobs, pool.map(lambda s: resident(x, s), jobs), strict=True):
            assert torch.equal(logits, expected[subnet])


def test_every_active_tensor_lies_inside_the_one_arena():
    net = small_net(7)
    subnets = calibrated(net, 20)
    resident = net.resident()
    buffer = resident.arena.buffer
    first, last = buffer.data_ptr(), buffer.data_ptr() + buffer.nbytes
    for subnet in subnets:
        tensors = resident.tensors(subnet)
        assert len(tensors) > 20
        for name, tensor in tensors.items():
            assert first <= tensor.data_ptr() < last, name
            assert tensor.untyped_storage().data_ptr() == first, name
        assert resident.arena.holds(tensors.values())


def test_actuation_allocates_no_weight():
    """Making the program of a new subnet copies nothing, and allocates nothing."""
    net = small_net(8)
    subnets = calibrated(net, 3)
    resident = net.resident()
    with torch.profiler.profile(profile_memory=True) as profiled:
        for subnet in subnets:
            resident.program(subnet)
    allocated = sum(max(0, event.self_cpu_memory_usage) for event in profiled.events())

    assert allocated == 0


def test_weights_are_shared_between_subnets():
    net = small_net(9)
    subnets = calibrated(net, 2)
    resident = net.resident()
    small, large = (
        {t.data_ptr(): t.numel() for t in resident.tensors(subnet).values()}
        for subnet in subnets[:2]
    )
    shared = small.keys() & large.keys()

    assert len(shared) > 20
    assert sum(small[start] < large[start] for start in shared) > 5, "slices of the same weights"


def test_the_extracted_net_shares_no_storage():
    net = small_net(10)
    subnet = calibrated(net, 0)[1]
    ours = {p.untyped_storage().data_ptr() for p in net.parameters()}
    plain = extract(net, subnet)

    assert not ours & {p.untyped_storage().data_ptr() for p in plain.parameters()}


def test_the_resident_form_is_independent_of_the_trainable_net():
    net = small_net(11)
    subnet = calibrated(net, 0)[1]
    resident = net.resident(dtype=torch.float64)
    x = images(net, 2)
    before = resident(x, subnet)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()

    assert torch.equal(resident(x, subnet), before)


def test_a_subnet_without_statistics_is_an_error_in_every_form():
    net = small_net(12)
    calibrated(net, 0)
    unknown = net.space.subnet(ks=5, e=3, d=2)
    resident = net.resident()
    x = images(net, 1)
    for call in (
        lambda: net(x, unknown),
        lambda: resident(x, unknown),
        lambda: extract(net, unknown),
    ):
        with pytest.raises(MissingStatistics, match=unknown.id):
            call()
