"""Recorded subnets on a GPU: the answers of the net, whatever was replayed before, and between."""

import pytest
import torch

from kernels.execute import execute
from kernels.graphs import Actuated, CudaRecorder, GraphCache
from kernels.l2 import L2
from kernels.prefetch import UNIT, Fetch
from kernels.program import Affine, Pointwise, Program
from kernels.ranges import added, program_ranges, size
from kernels.residency import residency
from kernels.weights import Weight
from tests.kernels.gpu.on_gpu import DEVICE, ON_GPU, TOLERANCE, close
from tests.kernels.programs import in_float64
from tests.supernets.helpers import calibrated, images, small_net

pytestmark = ON_GPU

POLICIES = ["default", "arena", "core", "per-layer", "prefetch-next", "actuation-prefetch"]
DTYPE = torch.float32
EXACT = TOLERANCE[DTYPE] * 10  # of a whole net


@pytest.fixture(scope="module")
def net():
    return small_net()


@pytest.fixture(scope="module")
def subnets(net):
    return calibrated(net, 0)  # the smallest and the largest


@pytest.fixture(scope="module")
def resident(net, subnets):
    assert subnets
    return net.resident(DEVICE, DTYPE)


def recorder(policy=None):
    return CudaRecorder(torch.device(DEVICE), policy)


def actuated(resident, subnet):
    return Actuated(subnet, subnet, resident.program(subnet))


def nhwc(x):
    return x.to(DEVICE, DTYPE).permute(0, 2, 3, 1).contiguous()


def test_a_replay_is_the_nets_answer_in_every_bucket(net, subnets, resident):
    for count in (1, 3, 8, 5, 70):
        x = images(net, count)
        for subnet in subnets:
            close(resident(x.to(DEVICE), subnet).cpu(), net(x, subnet), EXACT)


def test_subnets_take_turns(net, subnets, resident):
    x = images(net, 4)
    expected = [net(x, subnet) for subnet in subnets]
    for turn in (0, 1, 1, 0, 1, 0, 0):
        close(resident(x.to(DEVICE), subnets[turn]).cpu(), expected[turn], EXACT)


def test_padding_changes_nothing_in_the_real_rows(net, subnets, resident):
    cache = GraphCache(recorder(), 1 << 30, (8,))
    one, x = actuated(resident, subnets[1]), nhwc(images(net, 8))
    whole = cache(one, x)

    assert torch.equal(cache(one, x[:3]), whole[:3])


def test_norm_rows_are_swapped_without_another_capture():
    row = torch.randn(2, 16, device=DEVICE)
    other = torch.randn(2, 16, device=DEVICE)
    cache = GraphCache(recorder(), 1 << 30)
    x = torch.randn(2, 7, 7, 8, device=DEVICE)
    weight = torch.randn(16, 8, device=DEVICE)
    for name, norms in (("s", row), ("t", other), ("s", row)):
        program = one_layer(weight, norms)
        answer = cache(Actuated("a", name, program, norms), x)
        close(answer, execute(in_float64(program), x.double(), "plain"), 1e-5)

    assert len(cache) == 1


def one_layer(weight, row):
    affine = Affine(row[0], row[1])
    return Program((Pointwise(0, 1, Weight(weight[:, None], len(weight)), affine, "relu"),), 1)


def test_what_is_evicted_is_recorded_again_with_the_same_answer(net, subnets, resident):
    cache, x = GraphCache(recorder(), 1), nhwc(images(net, 2))
    first = [cache(actuated(resident, subnet), x) for subnet in subnets]
    again = [cache(actuated(resident, subnet), x) for subnet in subnets]

    assert len(cache) == 1
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_changes_no_answer_and_leaves_no_limit_behind(policy, net, subnets, resident):
    x = nhwc(images(net, 4))
    plain = GraphCache(recorder(), 1 << 30)
    expected = [plain(actuated(resident, subnet), x) for subnet in subnets]
    before = limit()
    with residency(policy, resident.arena) as chosen:
        cache = GraphCache(recorder(chosen), 1 << 30, switched=chosen.switched)
        for _ in range(2):
            for subnet, want in zip(subnets, expected, strict=True):
                assert torch.equal(cache(actuated(resident, subnet), x), want)
        print(policy, chosen.reason or "works")
    torch.cuda.synchronize()

    assert limit() == before


def limit():
    """The device's limit of persisting L2, None where it has none."""
    l2 = L2()
    return None if l2.reason else l2._read(l2._rt.cudaLimit.cudaLimitPersistingL2CacheSize)


def test_touching_reads_what_a_switch_adds(subnets, resident):
    small, large = (resident.program(subnet) for subnet in subnets)
    buffer = resident.arena.buffer
    fetch = Fetch.of(added(small, large), buffer)
    fetch.run(touch=True)
    words = buffer.view(torch.int32).cpu()
    for start, count, digest in zip(
        fetch.starts.tolist(), fetch.counts.tolist(), fetch.digests.tolist(), strict=True
    ):
        expected = 0
        for word in words[4 * start : 4 * (start + count)].tolist():
            expected ^= word
        assert digest == expected

    assert int(fetch.counts.sum()) * UNIT >= size(added(small, large)) > 0
    assert size(program_ranges(large)) > size(program_ranges(small))


def test_asking_for_ranges_runs(subnets, resident):
    fetch = Fetch.of(program_ranges(resident.program(subnets[1])), resident.arena.buffer)
    fetch.run(touch=False)
    torch.cuda.synchronize()
