"""Norm tables: exact ones are exact, compact ones near, small and in the arena; none mixed up."""

import random
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from kernels.arena import Arena
from supernets import MissingStatistics, save
from supernets.checkpoint import active_channels, load_into
from supernets.norms import compact_norms
from supernets.norms.compact_norms import EXACT_UP_TO, norm_tables
from supernets.norms.statistics import LayerStatistics
from supernets.resident import ResidentCopy
from supernets.resident_programs import ResidentPrograms
from tests.supernets.helpers import calibrated, images, relative, small_net

FORMS = {"programs": ResidentPrograms, "copy": ResidentCopy}
CPU = torch.device("cpu")


@pytest.fixture(params=FORMS.values(), ids=FORMS.keys())
def form(request):
    return request.param


def similar(net, count, seed=0):
    """``count`` subnets with statistics that differ a little, without calibrating each."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    largest = calibrated(net, 0)[1]
    common = net.statistics[largest]
    subnets, layouts = list(net.statistics), {}
    while len(subnets) < count:
        ratio, depth = rng.choice((2, 3, 6)), rng.choice((1, 2, 3))
        kernels = [rng.choice((3, 5, 7)) for _ in range(9)]
        subnet = net.space.subnet(ks=kernels, e=ratio, d=depth)
        if subnet in net.statistics:
            continue
        if (ratio, depth) not in layouts:  # widths do not depend on kernels
            layouts[ratio, depth] = active_channels(net, subnet)
        entries = {}
        for layer, channels in layouts[ratio, depth].items():
            mean, var = common[layer].mean[:channels], common[layer].var[:channels]
            a, b = (torch.randn(channels, generator=generator) * 0.1 for _ in range(2))
            entries[layer] = LayerStatistics(mean + a * var.sqrt(), var * (1 + b).clamp_min(0.5))
        net.statistics[subnet] = entries
        subnets.append(subnet)
    return subnets


def with_rows(monkeypatch, rows):
    """Room for fewer subnets, so that few are enough to fill it."""
    monkeypatch.setattr(compact_norms, "DECODED_ROWS", rows)


# --- exact ---------------------------------------------------------------------------------------


def test_exact_tables_are_exact(form):
    net = small_net(1)
    subnets = calibrated(net, 4)
    resident = form(net, CPU, torch.float64, "exact")
    x = images(net, 3)
    for subnet in subnets:
        with torch.no_grad():
            assert relative(resident(x, subnet), net(x, subnet)) < 1e-12
    assert resident.memory().norms.error == 0.0


def test_the_copy_runs_the_same_arithmetic_to_the_last_bit():
    net = small_net(2).float()
    subnets = calibrated(net.double(), 2)
    net.float()
    resident = ResidentCopy(net, CPU, torch.float32)
    x = images(net, 2).float()
    with torch.no_grad():
        for subnet in subnets:
            assert torch.equal(resident(x, subnet), net(x, subnet))


def test_few_subnets_have_exact_tables_and_many_compact_ones():
    net = small_net(3)
    few = similar(net, EXACT_UP_TO)
    assert net.resident().memory().norms.storage == "exact"
    net.statistics[net.space.subnet(ks=5, e=3, d=2)] = net.statistics[few[1]]
    assert len(net.statistics) == EXACT_UP_TO + 1
    assert net.resident().memory().norms.storage == "compact"


# --- compact -------------------------------------------------------------------------------------


def test_compact_tables_are_near_the_exact_ones(form):
    """Half a percent of σ per layer at most; a mixed-up row or layer would be off by about one."""
    net = small_net(4)
    subnets = similar(net, 40)
    exact, compact = (form(net, CPU, torch.float64, kind) for kind in ("exact", "compact"))
    x = images(net, 3)
    for subnet in subnets:
        assert relative(compact(x, subnet), exact(x, subnet)) < 0.05
    assert 0.0 < compact.memory().norms.error <= 0.005


def test_compact_rows_say_what_the_statistics_say(form):
    """Scale and shift, or mean and variance, against the formulas, channel by channel."""
    net = small_net(5)
    subnets = similar(net, 20)
    for subnet in subnets:
        net.statistics[subnet][net.stem_norm.layer].var[0] = 1e-6  # a tenth of ε
    norms = net.norms()
    tables = norm_tables(
        norms,
        net.statistics,
        torch.float64,
        "mean-variance" if form is ResidentCopy else "scale-shift",
        "compact",
    )
    tables.attach(Arena(tables.slots, CPU, torch.float64))
    for subnet in subnets:
        for layer, entry in net.statistics[subnet].items():
            channels = len(entry.mean)
            norm, sigma = norms[layer], torch.sqrt(entry.var + norms[layer].eps)
            first, second = tables[subnet].layer(layer, channels)
            if form is ResidentCopy:
                mean, deviation = first, torch.sqrt(second + norm.eps)
            else:
                scale = norm.weight[:channels].detach()
                deviation = scale / first
                mean = (norm.bias[:channels].detach() - second) / first
            assert ((mean - entry.mean).abs() / sigma).max() < 0.0051
            assert torch.log(deviation / sigma).abs().max() < 0.0051


def test_hundreds_of_subnets_take_a_third_of_the_naive_bytes_at_most():
    """Even though here no two of them have a vector in common."""
    net = small_net(6)
    subnets = similar(net, 500)
    naive = sum(8 * len(e.mean) for s in subnets for e in net.statistics[s].values())
    exact, compact = (net.resident(norms=kind).memory() for kind in ("exact", "compact"))

    assert exact.norms.naive_bytes == compact.norms.naive_bytes == naive
    assert naive <= exact.norms.bytes < 1.1 * naive
    assert compact.norms.bytes <= naive / 3
    assert exact.total - compact.total == exact.norms.bytes - compact.norms.bytes


def test_the_memory_adds_up(form):
    net = small_net(7)
    calibrated(net, 3)
    resident = form(net, CPU, torch.float32)
    memory = resident.memory()
    kernels = sum(
        (25 + 9) * block.depthwise.weight.shape[0] * 4 for stage in net.blocks() for block in stage
    )

    assert memory.total == resident.arena.nbytes
    assert memory.weights + memory.derived + memory.norms.bytes == memory.total
    if form is ResidentPrograms:
        assert kernels <= memory.derived < kernels + 64 * 2 * 9  # slots are aligned
    else:
        assert memory.derived == 0
    assert memory.to_json()["norm_bytes_per_subnet"] == memory.norms.bytes / 5


def test_every_tensor_lies_in_the_arena_for_every_one_of_many_subnets(form):
    net = small_net(8)
    subnets = similar(net, 80)
    resident = form(net, CPU, torch.float32, "compact")
    for subnet in subnets:
        tensors = resident.tensors(subnet)
        assert len(tensors) > 20
        assert resident.arena.holds(tensors.values())


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_more_subnets_than_there_is_room_for_decoded_rows(form, rows, monkeypatch):
    """Whatever order they come in, each has its own norms."""
    net = small_net(9)
    subnets = similar(net, 12)
    x = images(net, 1)
    whole = form(net, CPU, torch.float64, "compact")
    expected = {subnet: whole(x, subnet) for subnet in subnets}
    with_rows(monkeypatch, rows)
    resident = form(net, CPU, torch.float64, "compact")
    assert resident.memory().norms.decoded_bytes < whole.memory().norms.decoded_bytes
    rng = random.Random(rows)
    for subnet in rng.choices(subnets, k=40):
        assert torch.equal(resident(x, subnet), expected[subnet])


def test_threads_do_not_take_rows_from_each_other(form, monkeypatch):
    net = small_net(10)
    subnets = similar(net, 8)
    x = images(net, 1)
    whole = form(net, CPU, torch.float64, "compact")
    expected = {subnet: whole(x, subnet) for subnet in subnets}
    with_rows(monkeypatch, 2)
    resident = form(net, CPU, torch.float64, "compact")
    jobs = subnets * 8
    with ThreadPoolExecutor(4) as pool:
        for subnet, logits in zip(jobs, pool.map(lambda s: resident(x, s), jobs), strict=True):
            assert torch.equal(logits, expected[subnet])


def test_a_row_that_is_held_stays_and_who_waits_for_it_gets_its_turn(monkeypatch):
    net = small_net(11)
    _, largest, *others = similar(net, 6)
    with_rows(monkeypatch, 1)  # the largest fills the room, so all others wait
    tables = norm_tables(net.norms(), net.statistics, torch.float64, storage="compact")
    tables.attach(Arena(tables.slots, CPU, torch.float64))
    alone = {subnet: tables[subnet].row.clone() for subnet in others}
    with ThreadPoolExecutor(2) as pool:
        with tables.held(largest) as table:
            before = table.row.clone()
            waiting = [pool.submit(lambda s=s: tables[s].row.shape) for s in others]
            assert torch.equal(table.row, before)
        shapes = [job.result() for job in waiting]

    assert shapes == [alone[subnet].shape for subnet in others]
    for subnet in others:
        assert torch.equal(tables[subnet].row, alone[subnet])


@pytest.mark.parametrize("storage", ["exact", "compact"])
def test_a_subnet_without_statistics_is_an_error(form, storage):
    net = small_net(12)
    calibrated(net, 3)
    unknown = net.space.subnet(ks=5, e=3, d=2)
    resident = form(net, CPU, torch.float32, storage)
    with pytest.raises(MissingStatistics, match=unknown.id):
        resident(images(net, 1), unknown)
    with pytest.raises(MissingStatistics, match=unknown.id):
        resident.tensors(unknown)


@pytest.mark.parametrize("storage", ["exact", "compact"])
def test_shared_statistics_serve_those_that_have_none_of_their_own(form, storage):
    net = small_net(13)
    smallest, largest = calibrated(net, 0)
    net.statistics.shared = dict(net.statistics[largest])
    del net.statistics[largest]
    resident = form(net, CPU, torch.float64, storage)
    x = images(net, 2)
    other = net.space.subnet(ks=5, e=3, d=2)
    with torch.no_grad():
        assert relative(resident(x, other), net(x, other)) < 1e-12
        assert relative(resident(x, smallest), net(x, smallest)) < 0.05
        assert relative(resident(x, other), resident(x, smallest)) > 0.05


# --- sixteen bits --------------------------------------------------------------------------------


def large_activations(net):
    """Calibrated on images so bright that variances exceed what float16 holds."""
    subnets = calibrated(net, 1)
    with torch.no_grad():
        net.stem.weight.mul_(3000.0)
        layer = net.stem_norm.layer
    for subnet in subnets:
        entry = net.statistics[subnet][layer]
        net.statistics[subnet] = {
            **net.statistics[subnet],
            layer: LayerStatistics(entry.mean * 3000.0, entry.var * 9e6),
        }
        assert net.statistics[subnet][layer].var.max() > 65504
    return subnets


@pytest.mark.parametrize("storage", ["exact", "compact"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_variances_that_float16_cannot_hold_do_no_harm(form, dtype, storage):
    net = small_net(14)
    subnets = large_activations(net)
    resident = form(net, CPU, dtype, storage)
    x = images(net, 2) / 4
    for subnet in subnets:
        with torch.no_grad():
            exact = net(x, subnet)
        assert relative(resident(x, subnet).double(), exact) < (
            0.02 if dtype is torch.float16 else 0.15
        )


def test_a_row_that_its_type_cannot_hold_is_refused():
    net = small_net(15)
    subnet = calibrated(net, 0)[0]
    layer = net.stem_norm.layer
    entry = net.statistics[subnet][layer]
    net.statistics[subnet] = {
        **net.statistics[subnet],
        layer: LayerStatistics(entry.mean + 1e6, entry.var),
    }
    with pytest.raises(ValueError, match=r"not finite in torch\.float16"):
        net.resident(dtype=torch.float16)
    net.resident(dtype=torch.bfloat16)


def test_a_checkpoint_in_float16_keeps_statistics_that_float16_would_spoil(tmp_path):
    net = small_net(16)
    safe, *_ = calibrated(net, 0)
    rest = large_activations(net)[1:]
    with torch.no_grad():
        net.stem.weight.div_(3000.0)
    net.float()
    save(net, tmp_path / "net.safetensors", torch.float16)
    again = small_net(17).float()
    load_into(again, tmp_path / "net.safetensors")
    for subnet in [safe, *rest]:
        for layer, entry in net.statistics[subnet].items():
            read, sigma = again.statistics[subnet][layer], torch.sqrt(entry.var + 1e-5)
            assert ((read.mean - entry.mean).abs() / sigma).max() < 0.005
            assert torch.log((read.var + 1e-5) / (entry.var + 1e-5)).abs().max() < 0.01


def test_the_layout_of_a_subnet_is_that_of_its_statistics():
    net = small_net(18)
    for subnet in calibrated(net, 6):
        widths = {layer: len(entry.mean) for layer, entry in net.statistics[subnet].items()}
        assert active_channels(net, subnet) == widths
        assert list(active_channels(net, subnet)) == list(widths)
