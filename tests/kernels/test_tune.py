"""What the tuner tries, leaves out, picks and writes down; timing itself needs a GPU."""

import json
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import tune
from kernels.auditing.cases import OPS
from kernels.auditing.launching import launches_of
from kernels.configs import Config, Entry, KernelTable, load, parse
from kernels.tuning import (
    TILES,
    Timing,
    best,
    bucket,
    candidates,
    document,
    fits,
    grouped,
    merged,
    shared_bytes,
    word_of,
)

SHARED = 232_448  # bytes, of an H200
SIZES = {"m": 196, "n": 112, "k": 672}


def matrix(bm=64, bn=64, bk=64, split=1, warps=4, stages=3):
    return Config({"BM": bm, "BN": bn, "BK": bk, "SPLIT_K": split}, warps, stages)


SAFE = matrix(32, 32, 32, 1, 4, 2)


def test_every_kernel_of_the_table_has_a_grid_of_its_own_tiles():
    assert {name: set(tiles) for name, tiles in TILES.items()} == {
        name: set(table.safe.tiles) for name, table in load("default").items()
    }


@pytest.mark.parametrize("kernel", TILES)
def test_every_grid_is_of_powers_of_two_that_a_table_may_hold(kernel):
    for sizes in TILES[kernel].values():
        assert all(size & (size - 1) == 0 for size in sizes)


@settings(deadline=None)
@given(st.integers(1, 60))
def test_the_grid_is_bounded_without_repetitions_and_starts_with_the_one_in_use(limit):
    tried = candidates("pointwise", SAFE, SIZES, 16, SHARED, limit)

    assert len(tried) == limit
    assert tried[0] == SAFE
    assert all(tried.count(config) == 1 for config in tried)
    assert all(fits("pointwise", config, SIZES, 16, SHARED) for config in tried[1:])


def test_a_grid_smaller_than_the_bound_is_tried_as_a_whole():
    tried = candidates("head", load("default")["head"].safe, {}, 16, SHARED, 10**6)

    assert len(tried) == math.prod(len(sizes) for sizes in TILES["head"].values()) * 2


@pytest.mark.parametrize(
    ("config", "bits", "fitting"),
    [
        (matrix(), 16, True),
        (matrix(128, 256, 128, stages=3, warps=8), 16, False),  # 294912 bytes
        (matrix(128, 128, 128, stages=3, warps=8), 32, False),  # 393216 bytes
        (matrix(128, 256, warps=4), 16, False),  # 256 accumulators a thread
        (matrix(bn=256), 16, False),  # of 112 columns
        (matrix(64, 32, split=8), 16, True),  # 16 programs on a device of 132 multiprocessors
        (matrix(32, 16, 128, split=8), 16, False),  # parts of 84 cannot be of 128
    ],
    ids=["middling", "shared", "shared 32 bit", "registers", "too wide", "split", "empty parts"],
)
def test_what_cannot_run_or_cannot_be_good_is_left_out(config, bits, fitting):
    assert fits("pointwise", config, SIZES, bits, SHARED) == fitting


def test_a_product_of_many_programs_is_not_split():
    many = {**SIZES, "m": 64 * 112 * 112}

    assert not fits("pointwise", matrix(64, 32, split=8), many, 16, SHARED)


def test_shared_memory_is_every_stages_operands():
    assert shared_bytes("conv", matrix(64, 32, 16, stages=3), 16) == 3 * (64 + 32) * 16 * 2
    assert shared_bytes("depthwise", load("default")["depthwise"].safe, 16) == 0


def test_the_fastest_median_wins_and_one_outlier_decides_nothing():
    slow, fast = matrix(64), matrix(128)
    timings = [Timing(slow, (3.0, 3.0, 0.1)), Timing(fast, (2.0, 2.0, 9.0))]

    assert best(timings, slow) == fast


@pytest.mark.parametrize(("seconds", "stays"), [(1.01, True), (1.05, False)])
def test_the_one_in_use_stays_where_it_is_as_good_as_the_fastest(seconds, stays):
    used, fast = matrix(64), matrix(128)
    timings = [Timing(used, (seconds,)), Timing(fast, (1.0,))]

    assert best(timings, used) == (used if stays else fast)


def test_nothing_timed_is_an_error():
    with pytest.raises(ValueError, match="timed"):
        best([], SAFE)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["m", "n", "k"]), st.integers(1, 10**6), min_size=1))
def test_a_bucket_is_within_a_factor_of_two_of_its_sizes(sizes):
    for name, size in bucket(sizes):
        assert size / 2.001 <= sizes[name] <= size * 2.001
        assert size & (size - 1) == 0


def test_another_kernel_or_stride_is_another_bucket():
    one, far = {"pixels": 100, "stride": 1}, {"pixels": 100, "stride": 2}

    assert grouped([("a", one), ("b", one), ("a", far), ("a", {**one, "pixels": 90})]) == [
        [0, 3],
        [1],
        [2],
    ]


def test_new_entries_replace_those_of_their_bucket_and_width_alone():
    def entry(m, bits, bm):
        return Entry(bits, {"m": m, "n": 64, "k": 64}, matrix(bm))

    old = (entry(100, 16, 32), entry(5000, 16, 32), entry(100, 32, 32))
    tables = {"pointwise": KernelTable(SAFE, old), "conv": KernelTable(SAFE, old)}
    new = entry(90, 16, 128)

    assert merged(tables, {"pointwise": [new]}) == {
        "pointwise": KernelTable(SAFE, (new, *old[1:])),
        "conv": KernelTable(SAFE, old),
    }


def test_what_is_written_is_read_as_the_same_tables():
    tables = dict(load("default"))
    text = document(tables, {"device": 'a "GPU"'})

    assert parse(json.loads(text), "written") == tables
    assert json.loads(text)["measured"] == {"device": 'a "GPU"'}
    assert max(len(line) for line in text.splitlines()) < 240


@pytest.mark.parametrize(
    ("device", "word"),
    [("NVIDIA H200", "h200"), ("NVIDIA GeForce RTX 4090", "4090"), ("Tesla A100-SXM4", "a100"),
     ("cpu", "cpu")],
)  # fmt: skip
def test_a_devices_file_has_the_word_that_tells_it_from_others(device, word):
    assert word_of(device) == word


def test_every_op_has_jobs_and_a_first_candidate_that_launches():
    jobs = tune.jobs_for(OPS, [1], torch.bfloat16)
    for job in jobs:
        safe = load("default")[job.kernel].safe
        tried = candidates(job.kernel, safe, job.sizes, 16, SHARED, 4)
        for config in tried:
            launches, results = launches_of(
                job.call.op, job.call.make("meta", torch.bfloat16), config
            )
            assert launches
            assert results[0].numel() > 0

    assert {job.kernel for job in jobs} == set(TILES)


def test_a_worker_compiles_what_a_call_launches_and_counts_what_it_cannot():
    call = next(job.call for job in tune.jobs_for(("head",), [1], torch.bfloat16))
    sound = Config({"FUSED": 2, "BN": 4, "BC": 128, "BP": 4}, 4, 1)
    arguments = pickle.loads(pickle.dumps((call, sound, torch.bfloat16, 90)))

    assert tune.compiled(*arguments) == 0
    assert tune.compiled(call, Config({**sound.tiles, "BC": 96}, 4, 1), torch.bfloat16, 90) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_that_it_needs_one(capsys):
    assert tune.main([]) == 2
    assert "needs an NVIDIA GPU" in capsys.readouterr().err


def test_results_agree_within_a_share_of_the_largest():
    wanted = (torch.tensor([1.0, 100.0]), torch.empty(0))

    assert tune.agrees((torch.tensor([2.9, 100.0]), torch.empty(0)), wanted, 0.02)
    assert not tune.agrees((torch.tensor([3.1, 100.0]), torch.empty(0)), wanted, 0.02)
    assert not tune.agrees((torch.tensor([1.0, torch.nan]), torch.empty(0)), wanted, 0.02)
