"""Coded statistics stay within the tolerance whatever their size, and equal ones lie there once."""

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from supernets import calibrate
from supernets.norms.shared_statistics import TOLERANCE, SharedStatistics
from supernets.norms.statistics import LayerStatistics, StatisticsTable
from supernets.space import Subnet
from tests.supernets.helpers import images, small_net

EPS = 1e-5


def layer(mean, var):
    return LayerStatistics(torch.as_tensor(mean).float(), torch.as_tensor(var).float())


def alike(subnets, channels, seed=0, spread=0.3):
    """Subnets whose statistics vary a little about common ones, as those of one supernet do."""
    rng = np.random.default_rng(seed)
    mean, log_sigma = rng.normal(0, 2, channels), rng.normal(0, 1, channels)
    return [
        {
            0: layer(
                mean + spread * np.exp(log_sigma) * rng.uniform(-1, 1, channels),
                np.exp(2 * (log_sigma + spread * rng.uniform(-1, 1, channels))),
            )
        }
        for _ in range(subnets)
    ]


def errors(statistics, eps=EPS):
    """Of each subnet and layer what decoding changed: µ in σ, and log σ."""
    coded = SharedStatistics.encode(statistics, dict.fromkeys(range(100), eps))
    found = []
    for index, entries in enumerate(statistics):
        decoded = coded.decode(index)
        assert decoded.channels == {i: len(entry.mean) for i, entry in entries.items()}
        true_mean = torch.cat([entry.mean for entry in entries.values()]).double()
        sigma = torch.sqrt(torch.cat([e.var for e in entries.values()]).double() + eps)
        found.append((decoded.mean.double() - true_mean).abs() / sigma)
        found.append((decoded.log_sigma.double() - torch.log(sigma)).abs())
    return coded, torch.cat(found)


# Every magnitude that float32 has, and within one layer: an activation that never moves, one that
# is far from zero, one that is both.
magnitudes = st.floats(-30, 30).map(lambda x: 10.0**x)
means = st.one_of(st.just(0.0), magnitudes, magnitudes.map(lambda x: -x))
channel = st.tuples(means, st.one_of(st.just(0.0), magnitudes))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(channel, min_size=3, max_size=3), min_size=1, max_size=5))
def test_the_error_is_within_the_tolerance_for_statistics_of_any_size(subnets):
    """Except where float32 itself, in which statistics are given, does not know the mean better."""
    statistics = [{0: layer([mean for mean, _ in c], [var for _, var in c])} for c in subnets]
    coded, found = errors(statistics)

    assert found.max() <= TOLERANCE
    assert found.max() == pytest.approx(coded.error, rel=1e-6, abs=1e-12)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.integers(1, 30), st.floats(0, 2), st.integers(0, 9))
def test_statistics_that_are_alike_take_a_byte_per_value(subnets, channels, spread, seed):
    """A range of 2.4 σ in 254 steps is within the tolerance; all of it is 8 times that at most."""
    statistics = alike(subnets, channels, seed, spread=min(spread, 0.6))
    coded, found = errors(statistics)

    assert found.max() <= TOLERANCE
    assert coded.codes.nbytes <= 2 * channels * subnets


def test_one_wild_channel_costs_itself_alone():
    statistics = alike(20, 50, seed=1)
    quiet = SharedStatistics.encode(statistics, {0: EPS})
    for index, entry in enumerate(statistics):
        entry[0].mean[7] += 1.0 * index
    wild, found = errors(statistics)

    assert found.max() <= TOLERANCE
    assert wild.codes.nbytes == quiet.codes.nbytes + 20


def test_what_is_equal_within_the_tolerance_in_all_subnets_takes_no_byte():
    statistics = alike(20, 50, spread=0.99 * TOLERANCE)
    coded, found = errors(statistics)

    assert found.max() <= TOLERANCE
    assert len(coded.starts) - 1 == 1
    assert coded.starts[-1] == 0


def test_float16_would_not_do_what_the_code_does():
    """The extremes that it must keep: float16 makes a variance zero or infinite, a mean coarse."""
    variances, mean = torch.tensor([1e-9, 1e9]), torch.tensor([1000.0])
    _, found = errors([{0: layer([0.0, 0.0, 1000.0], [1e-9, 1e9, 1e-2])}], eps=0.0)

    assert variances.half().tolist() == [0.0, float("inf")]
    assert (mean + 0.2).half() == mean.half()  # two σ apart
    assert found.max() <= TOLERANCE


def test_a_constant_channel_without_epsilon_can_be_coded():
    _, found = errors([{0: layer([1.0], [0.0])}, {0: layer([1.0], [1.0])}], eps=1e-20)

    assert found.isfinite().all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -1.0])
def test_what_is_no_variance_is_refused(bad):
    with pytest.raises(ValueError, match="layer 0 are not finite variances"):
        SharedStatistics.encode([{0: layer([0.0], [bad])}], {0: EPS})


def test_equal_vectors_lie_there_once():
    first, other = alike(2, 30)
    both = SharedStatistics.encode([first, first, other, first], {0: EPS})
    once = SharedStatistics.encode([first, other], {0: EPS})

    assert both.codes.nbytes == once.codes.nbytes
    assert torch.equal(both.decode(3).mean, both.decode(0).mean)


def test_vectors_that_differ_by_less_than_a_step_are_one():
    """Calibrating twice on another machine changes the last bits; that is no second vector."""
    *others, last = alike(30, 20)
    nudged = {0: layer(last[0].mean * (1 + 1e-7), last[0].var)}
    coded = SharedStatistics.encode([*others, last, nudged], {0: EPS})

    assert len(coded.starts) - 1 == 30


def test_a_narrower_subnet_has_its_own_channels():
    """Widths and layers differ between subnets; none sees another's."""
    wide, narrow = alike(2, 24)
    narrow = {0: layer(narrow[0].mean[:9], narrow[0].var[:9]), 3: wide[0]}
    _, found = errors([wide, narrow, {3: narrow[0]}])

    assert found.max() <= TOLERANCE


def test_a_narrower_subnet_may_have_the_same_codes():
    """Here all are equal, so no vector takes a byte, and still each has its width."""
    wide = alike(1, 24)[0][0]
    narrow = layer(wide.mean[:9], wide.var[:9])
    _, found = errors([{0: wide}, {0: narrow}, {0: wide}])

    assert found.max() < 1e-6


def test_decoding_keeps_the_order_in_which_layers_run():
    entry = alike(1, 4)[0][0]
    coded = SharedStatistics.encode([{5: entry, 2: entry, 9: entry}], dict.fromkeys((2, 5, 9), EPS))

    assert list(coded.decode(0).channels) == [5, 2, 9]


def test_packing_changes_nothing_and_takes_what_it_says():
    statistics = alike(7, 13)
    coded = SharedStatistics.encode(statistics, {0: EPS})
    buffer = coded.packed()
    assert buffer.nbytes == coded.nbytes()
    moved = coded.moved(buffer)

    for index in range(7):
        assert torch.equal(moved.decode(index).mean, coded.decode(index).mean)
        assert torch.equal(moved.decode(index).log_sigma, coded.decode(index).log_sigma)
    for tensor in moved.tensors().values():
        assert tensor.untyped_storage().data_ptr() == buffer.data_ptr()


def test_nothing_can_be_coded():
    coded = SharedStatistics.encode([{}, {}], {})

    assert coded.decode(1).channels == {}
    assert coded.error == 0.0


# --- the table of the trainable form -------------------------------------------------------------


def test_subnets_that_begin_alike_share_what_they_have_in_common():
    """Calibrated on the same images, two subnets have the same statistics up to where they part."""
    net = small_net(1)
    deep, shallow = net.space.subnet(ks=5, e=3, d=3), net.space.subnet(ks=5, e=3, d=[3, 3, 2])
    calibrate(net, [deep, shallow], [images(net, 8)])
    common = {i for i, e in net.statistics[shallow].items() if e is net.statistics[deep].get(i)}
    alone = sum(e.mean.nbytes + e.var.nbytes for e in net.statistics[deep].values())
    last = max(net.statistics[shallow])

    assert common == set(net.statistics[shallow]) - {last}
    added = net.statistics[shallow][last]
    assert net.statistics.nbytes() == alone + added.mean.nbytes + added.var.nbytes


def subnet(number):
    return Subnet("test", (("n", (number,)),))


def test_what_no_subnet_has_any_more_is_not_kept():
    table = StatisticsTable()
    for number in range(3):
        table[subnet(number)] = {0: layer([1.0, 2.0], [1.0, 1.0])}
    held = table.nbytes()
    table[subnet(3)] = {0: layer([5.0], [1.0])}
    del table[subnet(3)]
    for number in range(2):
        del table[subnet(number)]

    assert held == table.nbytes() == 16
    del table[subnet(2)]
    assert table.nbytes() == 0
    assert not table._distinct


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_of_the_table_shares_within_itself(clone):
    table = StatisticsTable()
    for number in range(3):
        table[subnet(number)] = {0: layer([1.0, 2.0], [1.0, 1.0])}
    table.shared = {0: layer([0.0], [1.0])}
    twin = clone(table)

    assert twin.nbytes() == table.nbytes() == 16
    assert twin[subnet(1)][0] is not table[subnet(1)][0]
    assert torch.equal(twin[subnet(7)][0].var, torch.ones(1))
