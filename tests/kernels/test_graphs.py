"""The cache of recordings: buckets, padding, norm rows, and what is evicted when.

The recorder here replays by executing again on the recorded input, as a graph would, on a CPU.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.execute import execute
from kernels.graphs import BUCKETS, Actuated, GraphCache, parts
from kernels.program import Affine, GlobalAverage, Pointwise, Program
from kernels.weights import Weight

CHANNELS, CLASSES = 3, 5


class Replayed:
    """One recording of the fake recorder."""

    def __init__(self, program, x, nbytes, released):
        self.program, self.x, self.nbytes = program, x, nbytes
        self.output = execute(program, x, "plain")
        self._released = released

    def replay(self):
        self.output.copy_(execute(self.program, self.x, "plain"))

    def release(self):
        self._released.append(self)


class Recorder:
    def __init__(self, nbytes=10):
        self.nbytes = nbytes
        self.made, self.released = [], []

    def __call__(self, program, x):
        self.made.append(Replayed(program, x, self.nbytes, self.released))
        return self.made[-1]


def net(row, weight=None):
    """act(scale · (x Wᵀ) + shift), averaged; ``row`` [2, CLASSES]."""
    weight = torch.randn(CLASSES, 1, CHANNELS) if weight is None else weight
    steps = (
        Pointwise(0, 1, Weight(weight, CLASSES), Affine(row[0], row[1]), "relu"),
        GlobalAverage(1, 2),
    )
    return Program(steps, 2)


def subnet(name, architecture="a", weight=None):
    row = torch.randn(2, CLASSES)
    return Actuated(architecture, name, net(row, weight), row)


def images(count):
    return torch.randn(count, 4, 4, CHANNELS)


def copies_of(monkeypatch, *rows):
    """Which of ``rows`` are copied from now on, by number."""
    copies = []
    real = torch.Tensor.copy_

    def copy(self, source, *rest):
        copies.extend(index for index, row in enumerate(rows) if source is row)
        return real(self, source, *rest)

    monkeypatch.setattr(torch.Tensor, "copy_", copy)
    return copies


@settings(deadline=None)
@given(st.integers(1, 300))
def test_parts_hold_every_row_once_in_the_smallest_buckets(rows):
    taken = list(parts(rows, BUCKETS))

    assert sum(count for count, _ in taken) == rows
    for index, (count, bucket) in enumerate(taken):
        assert bucket in BUCKETS
        assert count <= bucket
        assert count == bucket or index == len(taken) - 1
        assert all(other < count for other in BUCKETS if other < bucket)


def test_an_empty_batch_is_an_error():
    with pytest.raises(ValueError, match="empty"):
        GraphCache(Recorder(), 100)(subnet("s"), images(0))


@pytest.mark.parametrize("buckets", [(), (2, 1), (1, 1), (0, 2)])
def test_buckets_that_do_not_ascend_are_an_error(buckets):
    with pytest.raises(ValueError, match="ascend"):
        GraphCache(Recorder(), 100, buckets)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 9, 20])
def test_the_answer_is_the_programs_whatever_the_bucket(count):
    one, x = subnet("s"), images(count)
    cache = GraphCache(Recorder(), 1000, (1, 2, 8))

    torch.testing.assert_close(cache(one, x), execute(one.program, x, "plain"))


def test_a_bucket_is_filled_up_with_zeros_even_after_a_larger_batch():
    recorder, one = Recorder(), subnet("s")
    cache = GraphCache(recorder, 1000, (4,))
    cache(one, images(4))
    x = images(3)
    answer = cache(one, x)

    assert answer.shape == (3, CLASSES)
    assert torch.equal(recorder.made[0].x[:3], x)
    assert torch.equal(recorder.made[0].x[3:], torch.zeros(1, 4, 4, CHANNELS))


def test_rows_beside_nan_stay_what_they_are():
    one, x = subnet("s"), images(3)
    x[1] = torch.nan
    answer = GraphCache(Recorder(), 1000, (4,))(one, x)

    assert answer[1].isnan().any()
    torch.testing.assert_close(answer[[0, 2]], execute(one.program, x[[0, 2]], "plain"))


def test_answers_are_no_views_of_what_the_next_replay_writes():
    one = subnet("s")
    cache = GraphCache(Recorder(), 1000)
    first = cache(one, images(2))
    kept = first.clone()
    cache(one, images(2))

    assert torch.equal(first, kept)


def test_a_recording_is_made_once_per_architecture_and_bucket():
    recorder = Recorder()
    cache = GraphCache(recorder, 1000, (1, 2, 4))
    for name, architecture in (("s", "a"), ("t", "b"), ("s", "a")):
        one = subnet(name, architecture)
        for count in (1, 2, 3, 4):
            cache(one, images(count))

    assert len(recorder.made) == len(cache) == 2 * 3


def test_subnets_of_one_architecture_share_a_recording_and_swap_rows():
    recorder, weight = Recorder(), torch.randn(CLASSES, 1, CHANNELS)
    cache = GraphCache(recorder, 1000)
    subnets, x = [subnet(name, weight=weight) for name in "stu"], images(2)
    for index in (0, 1, 2, 1, 0, 0, 2):
        expected = execute(subnets[index].program, x, "plain")
        torch.testing.assert_close(cache(subnets[index], x), expected)

    assert len(recorder.made) == 1


def test_a_row_is_copied_exactly_when_another_subnet_takes_over(monkeypatch):
    weight = torch.randn(CLASSES, 1, CHANNELS)
    first, second = subnet("s", weight=weight), subnet("t", weight=weight)
    cache = GraphCache(Recorder(), 1000)
    copies = copies_of(monkeypatch, first.row, second.row)
    for one, count in ((first, 2), (first, 8), (second, 2), (second, 2), (first, 100)):
        cache(one, images(count))

    assert copies == [0, 1, 0]


def test_a_recording_never_reads_a_subnets_own_row():
    recorder, one = Recorder(), subnet("s")
    cache = GraphCache(recorder, 1000)
    x = images(2)
    before = cache(one, x)
    one.row.fill_(torch.nan)  # the room of the row is given to another subnet

    assert torch.equal(cache(one, x), before)
    cache.forget("a")
    assert cache(one, x).isnan().all()
    assert recorder.released == recorder.made[:1]


def test_a_program_without_a_row_is_recorded_as_it_is():
    recorder = Recorder()
    program = net(torch.randn(2, CLASSES))
    cache = GraphCache(recorder, 1000)
    x = images(2)

    torch.testing.assert_close(cache(Actuated("a", "s", program), x), execute(program, x, "plain"))
    assert recorder.made[0].program is program


def test_a_row_with_gaps_is_an_error():
    row = torch.randn(2, 2 * CLASSES)[:, :CLASSES]
    with pytest.raises(ValueError, match="contiguous"):
        GraphCache(Recorder(), 1000)(Actuated("a", "s", net(row), row), images(1))


def test_the_least_recently_used_recordings_go_first():
    recorder = Recorder(nbytes=10)
    cache = GraphCache(recorder, 30)
    one = {name: subnet(name, architecture=name) for name in "abcde"}
    for name in "abc":
        cache(one[name], images(1))
    cache(one["a"], images(1))  # now b is the oldest
    cache(one["d"], images(1))
    cache(one["e"], images(1))

    assert [r.program.steps[0].weight for r in recorder.released] == [
        one[name].program.steps[0].weight for name in "bc"
    ]
    assert cache.nbytes == 30


def test_a_recording_larger_than_the_limit_stays_until_the_next_one():
    recorder = Recorder(nbytes=100)
    cache = GraphCache(recorder, 30)
    x = images(1)
    cache(subnet("s", "a"), x)
    assert not recorder.released

    cache(subnet("t", "b"), x)
    assert recorder.released == recorder.made[:1]


def test_inputs_are_kept_only_while_a_recording_reads_them():
    recorder = Recorder(nbytes=10)
    cache = GraphCache(recorder, 10)
    one = subnet("s")
    for side in (4, 5, 6):
        cache(one, torch.randn(1, side, side, CHANNELS))

    assert len(cache) == len(cache._inputs) == 1


def test_a_switch_is_told_once_with_both_programs():
    told = []
    cache = GraphCache(Recorder(), 1000, switched=lambda *pair: told.append(pair))
    first, second = subnet("s"), subnet("t", "b")
    for one in (first, first, second, second, first):
        cache(one, images(1))

    pairs = [(None, first), (first, second), (second, first)]
    assert [(before, now) for before, now in told] == [
        (before and before.program, now.program) for before, now in pairs
    ]
