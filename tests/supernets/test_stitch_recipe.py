"""Training stitched nets: who learns, from what, how often; interruptions change nothing."""

import math
from collections import Counter

import pytest
import torch

from supernets import CheckpointError
from supernets.stitched_resnet import stitched_resnet
from supernets.stitches.stitch_recipe import (
    StitchData,
    StitchOptions,
    drawn_stitches,
    learning_rate,
    make_stitched,
    train_anchor,
    train_stitches,
)

SIZE = 32


def fresh(anchors=("resnet18", "resnet34")):
    torch.manual_seed(0)
    return stitched_resnet(
        anchors=anchors, width=4, num_classes=2, in_channels=1, image_size=SIZE
    ).eval()


def batches(first):
    """Two classes that differ in brightness; step i is the same wherever one starts."""
    step = first
    while True:
        generator = torch.Generator().manual_seed(step)
        labels = torch.randint(0, 2, (8,), generator=generator)
        noise = torch.randn(8, 1, SIZE, SIZE, generator=generator)
        yield noise + 2.0 * labels[:, None, None, None], labels
        step += 1


def copies(net):
    return {name: parameter.detach().clone() for name, parameter in net.named_parameters()}


def changed(net, before):
    """The first two parts of the names of what is no longer as it was."""
    return {".".join(n.split(".")[:2]) for n, p in net.named_parameters()
            if not torch.equal(p, before[n])}  # fmt: skip


def test_training_an_anchor_changes_that_anchor_alone():
    net = fresh()
    before = copies(net)
    train_anchor(net, 1, batches, StitchOptions(steps=2, learning_rate=1e-3))

    assert changed(net, before) == {"anchors.1"}
    assert not net.training


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_fine_tuning_changes_all_anchors_and_every_stitch_in_turn(optimiser):
    net = fresh()
    options = StitchOptions(steps=16, learning_rate=1e-3, optimiser=optimiser, warmup_share=0.0)
    before = copies(net)
    train_stitches(net, batches, StitchOptions(steps=1, learning_rate=1e-3, optimiser=optimiser))
    stitched = {n for n, p in net.named_parameters()
                if n.startswith("stitch_layers") and not torch.equal(p, before[n])}  # fmt: skip

    assert changed(net, before) >= {"anchors.0", "anchors.1"}, "anchors learn in every step"
    assert len(stitched) == 2, "one stitch per step: its weight and bias"
    train_stitches(net, batches, options)
    assert all(not torch.equal(p, before[n]) for n, p in net.named_parameters())


def test_a_stitch_learns_from_the_largest_anchor_and_anchors_from_labels(monkeypatch):
    """The soft targets are the last anchor's predictions on the same images, without gradient."""
    net = fresh()
    seen = []
    plain = torch.nn.functional.cross_entropy

    def record(logits, target):
        seen.append((logits.detach().clone(), target))
        return plain(logits, target)

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", record)
    options = StitchOptions(steps=1, learning_rate=1e-3, stitches_per_step=2)
    train_stitches(net, batches, options)
    _, labels = next(batches(0))

    assert len(seen) == 4
    assert all(torch.equal(target, labels) for _, target in seen[:2])
    for _, target in seen[2:]:
        torch.testing.assert_close(target, seen[1][0].softmax(1))
        assert not target.requires_grad


def test_all_stitches_are_drawn_equally_often_and_seeded():
    net = fresh(("resnet18", "resnet34", "resnet50"))
    options = StitchOptions(steps=48, learning_rate=1.0, stitches_per_step=2, seed=3)
    drawn = [s for step in range(48) for s in drawn_stitches(net, step, options)]

    assert Counter(drawn) == dict.fromkeys(net.space.stitches, 3), "32 stitches, 96 draws"
    assert drawn_stitches(net, 5, options) == drawn[10:12]
    assert drawn[:32] != drawn[32:64], "in another order each time"


def test_an_interrupted_run_ends_where_the_whole_one_does(tmp_path):
    options = StitchOptions(steps=5, learning_rate=1e-3, save_every=2)
    whole, broken, resumed = fresh(), fresh(), fresh()
    train_stitches(whole, batches, options)

    def interrupt(done, total, loss):
        if done == 4:
            raise KeyboardInterrupt

    file = tmp_path / "state.pt"
    with pytest.raises(KeyboardInterrupt):
        train_stitches(broken, batches, options, file, interrupt)
    seen = []
    train_stitches(resumed, batches, options, file, lambda done, total, loss: seen.append(done))

    assert seen == [3, 4, 5]
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    train_stitches(resumed, batches, options, file, lambda done, total, loss: seen.append(done))
    assert seen == [3, 4, 5], "a finished run has nothing to do"


def test_a_state_of_another_phase_or_network_is_refused(tmp_path):
    options = StitchOptions(steps=1, learning_rate=1e-3)
    file = tmp_path / "state.pt"
    train_anchor(fresh(), 0, batches, options, file)
    with pytest.raises(CheckpointError, match="other options"):
        train_anchor(fresh(), 1, batches, options, file)
    with pytest.raises(CheckpointError, match="no training state of this network"):
        train_anchor(fresh(("resnet18", "resnet50")), 0, batches, options, file)


def test_the_learning_rate_rises_then_falls_along_a_cosine():
    options = StitchOptions(steps=100, learning_rate=0.5, warmup_share=0.1)

    assert learning_rate(0, options) == pytest.approx(0.05)
    assert learning_rate(9, options) == pytest.approx(0.5)
    assert learning_rate(55, options) == pytest.approx(0.25 * (1 + math.cos(math.pi * 0.5)))


def test_the_whole_recipe_ends_with_every_subnet_calibrated_and_a_front(tmp_path):
    net = fresh()
    images = [x for (x, _), _ in zip(batches(1000), range(4), strict=False)]
    held_out = [b for b, _ in zip(batches(2000), range(8), strict=False)]
    told = []
    front = make_stitched(
        net,
        StitchData(batches, images, held_out),
        StitchOptions(steps=12, learning_rate=4e-3),
        StitchOptions(steps=16, learning_rate=4e-4),
        tmp_path,
        lambda phase, done, total, detail: told.append((phase, done == total)),
    )
    costs = [c.cost for c in front]
    accuracies = [c.accuracy for c in front]

    assert set(net.statistics) == set(net.space)
    assert costs == sorted(costs)
    assert accuracies == sorted(accuracies)
    assert front[0].subnet == net.space.smallest, "nothing is cheaper than the fast anchor"
    assert accuracies[-1] > 90.0, "brightness is easily learnt"
    finished = [phase for phase, last in told if last]
    assert finished == ["resnet18", "resnet34", "fine-tune", "calibrate"]
