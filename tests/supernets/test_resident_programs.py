"""Programs over one arena: what is hot lies first, in order, and processes can share the file."""

import gc
import weakref

import pytest
import torch
from torch import Tensor
from torchvision.models.resnet import Bottleneck, ResNet

from kernels.program import Depthwise
from supernets import calibrate, make_elastic, resident_programs
from supernets.norms import compact_norms
from supernets.resident import ResidentCopy
from supernets.resident_programs import ResidentPrograms
from tests.supernets.helpers import calibrated, images, relative, small_net


def offsets(resident: ResidentPrograms, subnet) -> dict[str, tuple[int, int]]:
    """Of each tensor that the subnet reads, in execution order: its first and last byte."""
    first = resident.arena.buffer.data_ptr()

    def span(tensor: Tensor) -> tuple[int, int]:
        reach = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
        start = tensor.data_ptr() - first
        return start, start + reach * tensor.element_size()

    return {name: span(tensor) for name, tensor in resident.tensors(subnet).items()}


@pytest.mark.parametrize("norms", ["exact", "compact"])
def test_what_the_served_subnets_read_is_the_first_part_of_the_arena(norms):
    net = small_net(1)
    smallest, largest, *others = calibrated(net, 6)
    few = [smallest, net.space.subnet(ks=3, e=2, d=2)]
    calibrate(net, few[1:], [images(net, 4)])
    resident = net.resident(subnets=few, norms=norms)
    hot = resident.arena.hot_bytes
    for subnet in few:
        assert all(last < hot for _, last in offsets(resident, subnet).values())
    for subnet in (largest, *others):
        assert any(first >= hot for first, _ in offsets(resident, subnet).values())
    assert hot < 0.8 * resident.arena.nbytes


def test_everything_is_hot_where_no_subnets_are_named():
    net = small_net(1)
    calibrated(net, 0)
    resident = net.resident()

    assert resident.arena.hot_bytes == resident.arena.nbytes


def test_weights_lie_in_the_order_in_which_subnets_read_them():
    """The hot ones and the others, each in execution order."""
    net = small_net(2)
    subnets = calibrated(net, 8)
    for served in (None, subnets[:1], subnets[2:4]):
        resident = net.resident(subnets=served)
        hot = resident.arena.hot_bytes
        for subnet in subnets:
            spans = offsets(resident, subnet)
            weights = [s for name, (s, _) in spans.items() if not name.endswith(("scale", "shift"))]
            for part in ([s for s in weights if s < hot], [s for s in weights if s >= hot]):
                assert part == sorted(part)


def test_where_subnets_lie_changes_no_answer():
    net = small_net(3)
    subnets = calibrated(net, 4)
    one, other = (
        net.resident(dtype=torch.float64, subnets=served) for served in (None, subnets[2:])
    )
    x = images(net, 2)
    for subnet in subnets:
        assert torch.equal(one(x, subnet), other(x, subnet))


def test_every_kernel_size_has_a_bank_and_the_smaller_ones_are_derived():
    net = small_net(4)
    calibrated(net, 0)
    resident = net.resident()
    names = [name for name in resident.arena.slots if "filters" in name]

    assert len(names) == 1 + 3 * 9  # the first block has one size, the nine others three
    assert resident.memory().derived == sum(
        resident.arena[name].nbytes
        for name in names
        if not name.endswith("filters7") and not name.startswith("first")
    )
    first = next(s for s in resident.program(net.space.largest).steps if isinstance(s, Depthwise))
    bank = resident.arena["first.depthwise.filters3"]
    assert first.filters.data_ptr() == bank.data_ptr()
    assert torch.equal(bank, net.first.depthwise.weight[:, 0].permute(1, 2, 0).float())


def test_a_program_is_made_once():
    net = small_net(5)
    subnet = calibrated(net, 0)[1]
    resident = net.resident()
    made = resident.program(subnet)
    resident(images(net, 1), subnet)

    assert resident.program(subnet) is made
    assert resident.program(subnet, (8, 8)) is not made


def test_a_program_is_forgotten_with_the_row_that_it_reads(monkeypatch):
    monkeypatch.setattr(compact_norms, "DECODED_ROWS", 1)
    net = small_net(6)
    smallest, largest = calibrated(net, 0)
    resident = net.resident(norms="compact", dtype=torch.float64)
    x = images(net, 2)
    made, answer = resident.program(largest), resident(x, largest)
    resident(x, smallest)

    assert torch.equal(resident(x, largest), answer)
    assert resident.program(largest) is not made


def test_a_file_of_the_arena_is_mapped_by_the_next_one(tmp_path):
    net = small_net(7)
    subnets = calibrated(net, 2)
    file = tmp_path / "arena"
    alone = net.resident(subnets=subnets)
    first = net.resident(subnets=subnets, arena_file=file)
    inode = file.stat().st_ino
    second = net.resident(subnets=subnets, arena_file=file)
    x = images(net, 3)

    assert file.stat().st_ino == inode, "it is not written again"
    for subnet in subnets:
        for shared in (first, second):
            assert torch.equal(shared(x, subnet), alone(x, subnet))
            assert shared.arena.holds(shared.tensors(subnet).values())


def test_a_net_with_other_weights_or_statistics_has_another_file(tmp_path):
    net = small_net(8)
    smallest, _ = calibrated(net, 0)
    file = tmp_path / "arena"
    x = images(net, 2)
    before = net.resident(arena_file=file)
    answer = before(x, smallest)
    inode = file.stat().st_ino
    calibrate(net, [smallest], [3 * images(net, 4) + 1])
    after = net.resident(arena_file=file)

    assert file.stat().st_ino != inode
    assert relative(after(x, smallest), net.resident()(x, smallest)) < 1e-6
    assert relative(after(x, smallest), answer) > 0.01
    assert torch.equal(before(x, smallest), answer), "who has mapped the old file keeps it"


def test_rows_of_compact_norms_are_decoded_in_a_mapped_arena(tmp_path):
    net = small_net(9)
    subnets = calibrated(net, 3)
    file = tmp_path / "arena"
    alone = net.resident(norms="compact")
    mapped = [net.resident(norms="compact", arena_file=file) for _ in range(2)]
    x = images(net, 2)
    for subnet in subnets:
        for form in mapped:
            assert torch.equal(form(x, subnet), alone(x, subnet))


def elastic(**options):
    """A small ResNet of torchvision made elastic."""
    torch.manual_seed(0)
    model = ResNet(Bottleneck, [1, 2, 1, 1], 5, **options).eval()
    return make_elastic(model, image_size=32), torch.randn(2, 3, 32, 32)


def test_a_net_that_is_no_program_shares_its_file_too(tmp_path):
    net, x = elastic(groups=32, width_per_group=4)
    file = tmp_path / "arena"
    first, second = (net.resident(arena_file=file) for _ in range(2))

    assert isinstance(first, ResidentCopy)
    assert "a grouped convolution" in first.reason
    assert torch.equal(first(x, net.space.largest), second(x, net.space.largest))
    assert file.stat().st_size >= first.arena.nbytes


@pytest.mark.parametrize("width", [64, 128], ids=["plain", "wide"])
def test_elastic_resnets_are_programs(width):
    net, x = elastic(width_per_group=width)
    resident = net.resident()

    assert isinstance(resident, ResidentPrograms)
    assert resident.reason == ""
    with torch.no_grad():
        for subnet in (net.space.smallest, net.space.largest):
            assert relative(resident(x, subnet), net(x, subnet)) < 1e-5


def test_programs_of_ever_more_subnets_do_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr(resident_programs, "PROGRAMS", 3)
    net = small_net(5)
    subnets = list(dict.fromkeys(calibrated(net, 12)))
    resident, x = net.resident(dtype=torch.float64), images(net, 1)
    first = weakref.ref(resident.program(subnets[0]))
    answers = [resident(x, subnet) for subnet in subnets]
    gc.collect()

    assert len(subnets) > 4
    assert first() is None
    assert all(
        torch.equal(resident(x, subnet), answer)
        for subnet, answer in zip(subnets, answers, strict=True)
    )
