"""Training is seeded, resumable, and lets the subnets learn."""

from itertools import islice

import pytest
import torch

from supernets.errors import CheckpointError
from supernets.training import TrainOptions, learning_rate, students, train
from tests.supernets.helpers import small_net


def batches(first: int):
    """Two classes that differ in brightness; step i is the same wherever one starts."""
    step = first
    while True:
        generator = torch.Generator().manual_seed(step)
        labels = torch.randint(0, 2, (16,), generator=generator)
        noise = torch.randn(16, 1, 16, 16, generator=generator)
        yield noise + labels[:, None, None, None], labels
        step += 1


def fresh():
    return small_net(0).float()


def test_losses_fall_for_the_largest_and_the_smallest_subnet():
    steps = []
    train(fresh(), batches, TrainOptions(steps=30, learning_rate=2e-3), progress=steps.append)
    early, late = steps[:5], steps[-5:]

    assert [step.index for step in steps] == list(range(30))
    assert sum(s.largest_loss for s in late) < 0.7 * sum(s.largest_loss for s in early)
    assert sum(s.smallest_loss for s in late) < sum(s.smallest_loss for s in early)


def test_an_interrupted_run_ends_where_the_whole_one_does(tmp_path):
    options = TrainOptions(steps=6, save_every=2)
    whole, broken = fresh(), fresh()
    train(whole, batches, options)

    def interrupt(step):
        if step.index == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(broken, batches, options, tmp_path / "state.pt", interrupt)
    resumed = fresh()
    seen = []
    train(resumed, batches, options, tmp_path / "state.pt", seen.append)

    assert [step.index for step in seen] == [2, 3, 4, 5]
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_the_state_at_the_end_of_the_batches_is_kept(tmp_path):
    options = TrainOptions(steps=6, save_every=2)
    train(fresh(), lambda first: islice(batches(first), 3), options, tmp_path / "state.pt")
    seen = []
    train(fresh(), batches, options, tmp_path / "state.pt", seen.append)

    assert [step.index for step in seen] == [3, 4, 5]


def test_a_state_of_other_options_is_refused(tmp_path):
    train(fresh(), batches, TrainOptions(steps=1), tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match="other options"):
        train(fresh(), batches, TrainOptions(steps=2), tmp_path / "state.pt")


def test_the_smallest_learns_in_every_step_and_random_ones_are_seeded():
    net = fresh()
    favourite = net.space.subnet(ks=5, e=3, d=2)
    options = TrainOptions(steps=100, random_subnets=2, favourites=(favourite,), seed=4)
    chosen = [students(net, step, options) for step in range(100)]

    assert all(subnets[0] == net.space.smallest for subnets in chosen)
    assert chosen == [students(net, step, options) for step in range(100)]
    share = sum(s == favourite for subnets in chosen for s in subnets[1:]) / 200
    assert 0.65 < share < 0.85


def test_the_learning_rate_rises_then_falls_to_zero():
    options = TrainOptions(steps=100, learning_rate=1.0, warmup_share=0.1)
    rates = [learning_rate(step, options) for step in range(100)]

    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.001
