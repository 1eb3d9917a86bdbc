"""Training is seeded, resumable, and lets the subnets learn."""

import math
from dataclasses import replace
from itertools import islice

import pytest
import torch

from supernets import MissingStatistics, calibrate
from supernets.errors import CheckpointError
from supernets.learning.shrinking import boundaries, phase_at, progressive_phases
from supernets.learning.training import (
    TrainingDiverged,
    TrainOptions,
    frozen_teacher,
    learning_rate,
    students,
    train,
)
from supernets.norms.statistics import batch_statistics
from tests.supernets.helpers import SMALL, small_net


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


def test_the_default_recipe_is_the_sandwich_rule_written_out():
    """A plain loop of the same steps ends with the same weights, to the last bit."""
    options = TrainOptions(steps=4, random_subnets=2, seed=3)
    net, plain = fresh(), fresh().train()
    train(net, batches, options)
    optimiser = torch.optim.AdamW(plain.parameters(), lr=3e-3, weight_decay=1e-2)
    for step, (x, labels) in zip(range(4), batches(0), strict=False):
        optimiser.param_groups[0]["lr"] = learning_rate(step, options)
        optimiser.zero_grad()
        logits = plain(x, plain.space.largest)
        torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.05).backward()
        teacher = logits.detach().softmax(1)
        for subnet in students(plain, step, options):
            torch.nn.functional.cross_entropy(plain(x, subnet), teacher).backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimiser.step()

    for a, b in zip(net.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a, b)


def test_statistics_of_the_weights_before_do_not_outlive_training():
    net = fresh()
    calibrate(net, [net.space.smallest], [next(batches(0))[0]])
    train(net, batches, TrainOptions(steps=1))

    assert len(net.statistics) == 0
    with pytest.raises(MissingStatistics):
        net(next(batches(0))[0], net.space.smallest)


def test_a_finished_run_is_not_trained_further(tmp_path):
    options, seen = TrainOptions(steps=2), []
    first, again = fresh(), fresh()
    train(first, batches, options, tmp_path / "state.pt")
    train(again, batches, options, tmp_path / "state.pt", seen.append)

    assert seen == []
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


# Progressive shrinking

PHASED = TrainOptions(steps=24, phases=progressive_phases(small_net(0).space), save_every=1)


def test_phases_decide_who_learns_at_a_step():
    net = fresh()
    ends = boundaries(PHASED.phases, PHASED.steps)

    assert students(net, 0, PHASED) == []
    kernel = students(net, ends[0], PHASED)
    assert kernel == [net.space.subnet(ks=3, e=6, d=3)]
    last = students(net, PHASED.steps - 1, PHASED)
    assert last[0] == net.space.smallest
    assert len(last) == 4
    for step in range(PHASED.steps):
        index = phase_at(PHASED.phases, PHASED.steps, step)[0]
        depths = {d for s in students(net, step, PHASED) for d in s["d"]}
        assert depths <= set(PHASED.phases[index].options("d"))


def test_the_learning_rate_starts_anew_in_every_phase():
    options = replace(PHASED, steps=590, learning_rate=1.0)
    ends = boundaries(options.phases, options.steps)
    for phase, first, end in zip(options.phases, [0, *ends], ends, strict=False):
        rates = [learning_rate(step, options) for step in range(first, end)]

        assert max(rates) == pytest.approx(phase.learning_rate)
        assert rates[-1] < 0.05 * phase.learning_rate
        assert rates.index(max(rates)) == max(0, round(phase.warmup_epochs) - 1)


def test_an_interrupted_run_in_phases_ends_where_the_whole_one_does(tmp_path):
    """Broken off around a boundary, where the optimiser is new and channels are sorted."""
    tiny = replace(
        SMALL,
        stage_widths=(8, 8),
        strides=(2, 2),
        activations=("relu", "h_swish"),
        squeezes=(False, True),
        kernels=(3, 5),
        expands=(2, 4),
        depths=(1, 2),
    )
    phases = progressive_phases(tiny.space())
    options = TrainOptions(steps=9, phases=phases, save_every=1)
    names, whole = [], small_net(0, tiny).float()
    train(whole, batches, options, None, lambda step: names.append(step.phase))
    expansion = names.index("e")

    for broken_at in (expansion - 1, expansion, expansion + 1):
        state = tmp_path / f"{broken_at}.pt"

        def interrupt(step, broken_at=broken_at):
            if step.index == broken_at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(small_net(0, tiny).float(), batches, options, state, interrupt)
        resumed = small_net(0, tiny).float()
        train(resumed, batches, options, state)
        for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
            assert torch.equal(a, b)
    assert (
        list(dict.fromkeys(names)) == [phase.name for phase in phases] == ["full", "ks", "d", "e"]
    )


def test_the_full_phase_trains_the_largest_alone():
    net = fresh()
    seen = []
    train(net, lambda first: islice(batches(first), 3), PHASED, None, seen.append)
    kernels = [p for n, p in net.named_parameters() if "transforms" in n]
    untouched = [p for n, p in fresh().named_parameters() if "transforms" in n]

    assert all(math.isnan(step.smallest_loss) and step.phase == "full" for step in seen)
    assert all(torch.equal(a, b) for a, b in zip(kernels, untouched, strict=True))


def test_phases_and_favourites_exclude_each_other():
    net = fresh()
    with pytest.raises(ValueError, match="no favourites"):
        replace(PHASED, favourites=(net.space.smallest,))


# Teachers, precision, failures


def test_a_teacher_is_frozen_and_is_what_the_others_learn_from():
    net = fresh()
    x = next(batches(0))[0]
    teacher = frozen_teacher(net)
    before = teacher(x)
    with torch.no_grad():
        expected = net.run(x, net.space.largest, batch_statistics)
    train(net, batches, TrainOptions(steps=2), teacher=teacher)
    alone = fresh()
    train(alone, batches, TrainOptions(steps=2))

    assert torch.equal(before, expected)
    assert torch.equal(teacher(x), before)
    pairs = zip(net.parameters(), alone.parameters(), strict=True)
    assert not all(torch.equal(a, b) for a, b in pairs)


def test_students_follow_a_teacher_that_contradicts_the_labels():
    """It says the opposite of every label; after training the smallest subnet does so too."""
    net = fresh()

    def contrary(x):
        bright = x.mean((1, 2, 3)) > 0.5
        logits = torch.full((len(x), 7), -9.0)
        logits[range(len(x)), (~bright).long()] = 9.0
        return logits

    options = TrainOptions(steps=30, learning_rate=2e-3, random_subnets=0)
    train(net, batches, options, teacher=contrary)
    x, labels = next(batches(1000))
    with torch.no_grad():
        answers = net.run(x, net.space.smallest, batch_statistics).argmax(1)

    assert (answers == labels).float().mean() < 0.2


def test_a_loss_that_is_no_number_stops_training():
    def broken(first):
        for x, labels in batches(first):
            yield x * float("nan"), labels

    with pytest.raises(TrainingDiverged, match="step 0"):
        train(fresh(), broken, TrainOptions(steps=2))


def test_options_that_do_not_say_more_leave_old_states_valid():
    """A state saved before there were phases, precisions or teachers is still its own run."""
    assert set(TrainOptions(steps=1).fingerprint()) == {
        "steps", "learning_rate", "weight_decay", "warmup_share", "label_smoothing",
        "gradient_clip", "random_subnets", "favourites", "favourite_share", "seed",
    }  # fmt: skip
    assert PHASED.fingerprint()["phases"]
    assert replace(PHASED, data="x").fingerprint() != PHASED.fingerprint()


@pytest.mark.gpu
@pytest.mark.parametrize("amp", ["", "bfloat16", "float16"])
def test_training_on_a_gpu_learns_in_every_precision(amp, tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    net, steps = fresh(), []
    options = TrainOptions(steps=60, learning_rate=2e-3, amp=amp)
    train(net, batches, options, tmp_path / "s.pt", steps.append, device="cuda:0")
    early, late = steps[:10], steps[-10:]

    assert next(net.parameters()).is_cuda
    assert next(net.parameters()).dtype == torch.float32
    assert sum(s.largest_loss for s in late) < 0.7 * sum(s.largest_loss for s in early)
