"""Calibration streams its images, can be interrupted, and leaves the rest of a file alone."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import supernets.calibration as module
from supernets import calibrate, create_supernet, save
from supernets.calibration import AT_ONCE, calibrate_checkpoint
from supernets.errors import DataError
from supernets.fingerprint import read_metadata, weights_hash
from tests.supernets.helpers import SMALL, images, small_net

BATCHES = 3
TINY = replace(
    SMALL,
    stage_widths=(16, 24),
    strides=(1, 2),
    activations=("relu", "h_swish"),
    squeezes=(False, True),
    depths=(1, 2),
)


def net_and_subnets(count=2 * AT_ONCE + 1):
    net = small_net(1, TINY).float()
    chosen = {net.space.largest: None, net.space.smallest: None}
    generator = iter(range(1000))
    while len(chosen) < count:
        chosen[net.space.sample(RandomLike(next(generator)))] = None
    return net, list(chosen)


class RandomLike:
    """Any source of uniform numbers will do for sampling."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def random(self):
        return float(torch.rand(1, generator=self.generator))


def batches(net):
    return [images(net, 6, seed=seed).float() for seed in range(BATCHES)]


class Stream:
    """Batches made when they are asked for; counts them, and how many live at once."""

    def __init__(self, net, fail_after=None):
        self.net, self.fail_after = net, fail_after
        self.read = self.most = 0
        self.alive = weakref.WeakSet()

    def __iter__(self):
        for seed in range(BATCHES):
            if self.read == self.fail_after:
                raise KeyboardInterrupt
            self.read += 1
            batch = images(self.net, 6, seed=seed).float()
            self.alive.add(batch)
            gc.collect()
            self.most = max(self.most, len(self.alive))
            yield batch, torch.zeros(6, dtype=torch.long)
            del batch


def same(a, b, subnet):
    return all(
        torch.equal(a.statistics[subnet][layer].mean, b.statistics[subnet][layer].mean)
        and torch.equal(a.statistics[subnet][layer].var, b.statistics[subnet][layer].var)
        for layer in a.statistics[subnet]
    )


def test_the_statistics_are_those_torch_would_keep():
    """Against BatchNorm2d with a cumulative average in the extracted network's place."""
    net, (subnet, *_) = net_and_subnets()
    given = batches(net)
    calibrate(net, [subnet], given)
    plain = net.extract(subnet)
    norms = [m for m in plain.modules() if isinstance(m, nn.BatchNorm2d)]
    expected = [(m.running_mean.clone(), m.running_var.clone()) for m in norms]
    seen = []
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.register_forward_pre_hook(
            lambda _, args: seen.append(args[0].numel() // args[0].shape[1])
        )
    plain.train()
    with torch.no_grad():
        for batch in given:
            plain(batch)
    for (mean, var), norm, size in zip(expected, norms, seen, strict=False):
        torch.testing.assert_close(norm.running_mean, mean, rtol=1e-4, atol=1e-5)
        biased = norm.running_var * (size - 1) / size  # torch keeps the unbiased variance
        torch.testing.assert_close(biased, var, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("one_pass", [False, True])
def test_subnets_that_share_a_pass_get_what_each_would_get_alone(one_pass):
    net, subnets = net_and_subnets()
    together, _ = net_and_subnets()
    for subnet in subnets:
        calibrate(net, [subnet], batches(net))
    stream = Stream(net)
    calibrate(together, subnets, iter(stream) if one_pass else stream)

    assert all(same(net, together, subnet) for subnet in subnets)
    assert stream.read == BATCHES * (1 if one_pass else 3)


def test_images_are_not_kept():
    net, subnets = net_and_subnets()
    stream = Stream(net)
    calibrate(net, subnets, stream)

    assert stream.most <= 2 < BATCHES  # the one in use, and the one that is being made


def test_each_subnet_is_reported_once():
    net, subnets = net_and_subnets()
    done = []
    calibrate(net, subnets, batches(net), done.append)

    assert done == subnets


def test_without_images_calibration_is_an_error():
    net, subnets = net_and_subnets()
    with pytest.raises(ValueError, match="at least one batch"):
        calibrate(net, subnets, [])


@pytest.fixture
def saved(tmp_path):
    """A checkpoint in float16 with one subnet calibrated: (file, the subnets, the first done)."""
    net, subnets = net_and_subnets()
    calibrate(net, subnets[:1], [images(net, 4, seed=50).float()])
    file = tmp_path / "net.safetensors"
    save(net, file, torch.float16)
    return file, subnets


def run(file, subnets, stream=None, data="noise", **options):
    net = create_supernet("ofa_mobilenetv3", file)
    stream = stream or Stream(net)
    stream.net = net
    done = calibrate_checkpoint(file, net, subnets, stream, data, **options)
    return done, stream


def leftovers(file):
    return sorted(f.name for f in file.parent.iterdir() if f != file)


def test_only_the_missing_statistics_are_added(saved):
    file, subnets = saved
    before, fingerprint = load_file(file), weights_hash(file)
    memory = create_supernet("ofa_mobilenetv3", file)
    calibrate(memory, subnets[1:], Stream(memory))
    done, _ = run(file, subnets)
    after = load_file(file)
    again = create_supernet("ofa_mobilenetv3", file)

    assert done == subnets[1:]
    assert weights_hash(file) == fingerprint
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(after[name].dtype == tensor.dtype for name, tensor in before.items())
    assert set(again.statistics) == set(subnets)
    assert all(same(memory, again, subnet) for subnet in subnets[1:])
    assert leftovers(file) == []


def test_again_measures_what_is_there_already(saved):
    file, subnets = saved
    before = create_supernet("ofa_mobilenetv3", file)
    nothing, stream = run(file, subnets[:1])
    done, _ = run(file, subnets[:1], again=True)

    assert nothing == []
    assert stream.read == 0
    assert done == subnets[:1]
    assert not same(before, create_supernet("ofa_mobilenetv3", file), subnets[0])


@pytest.mark.parametrize("again", [False, True])
def test_an_interrupted_run_goes_on_and_ends_with_the_same_file(saved, tmp_path, again):
    file, subnets = saved
    whole = tmp_path / "whole" / file.name
    whole.parent.mkdir()
    whole.write_bytes(file.read_bytes())
    run(whole, subnets, again=again)
    before = file.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        run(file, subnets, Stream(None, fail_after=BATCHES + 1), again=again)
    interrupted = file.read_bytes()
    _, stream = run(file, subnets, again=again)

    assert interrupted == before
    assert stream.read == BATCHES * -(-(len(subnets) - (0 if again else 1) - AT_ONCE) // AT_ONCE)
    assert read_metadata(file) == read_metadata(whole)  # written in any order
    ours, theirs = load_file(file), load_file(whole)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert [name for name in leftovers(file) if name != "whole"] == []


@pytest.mark.parametrize("spoil", ["other data", "cut off", "other weights"])
def test_what_another_run_left_is_not_used(saved, spoil):
    file, subnets = saved
    with pytest.raises(KeyboardInterrupt):
        run(file, subnets, Stream(None, fail_after=BATCHES + 1))
    state = file.with_name(f"{file.name}.calibrating")
    if spoil == "cut off":
        state.write_bytes(state.read_bytes()[:-9])
    if spoil == "other weights":
        net = create_supernet("ofa_mobilenetv3", file)
        with torch.no_grad():
            net.classifier.bias.add_(1.0)
        save(net, file, torch.float16)
    _, stream = run(file, subnets, data="others" if spoil == "other data" else "noise")

    assert stream.read == BATCHES * 2  # eight subnets from the start
    assert set(create_supernet("ofa_mobilenetv3", file).statistics) == set(subnets)


def test_a_kill_while_writing_leaves_the_checkpoint_as_it_was(saved, monkeypatch):
    file, subnets = saved
    before = file.read_bytes()

    def killed(_tensors, path, _metadata):
        path.write_bytes(b"half a file")
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "save_file", killed)
    with pytest.raises(KeyboardInterrupt):
        run(file, subnets)

    assert file.read_bytes() == before


def test_statistics_that_are_not_finite_are_not_written(saved):
    file, subnets = saved
    before = file.read_bytes()

    class Broken(Stream):
        def __iter__(self):
            yield images(self.net, 4).float() * torch.inf

    with pytest.raises(DataError, match="not finite"):
        run(file, subnets, Broken(None))

    assert file.read_bytes() == before


def test_a_link_to_a_checkpoint_stays_a_link(saved, tmp_path):
    file, subnets = saved
    link = tmp_path / "link.safetensors"
    link.symlink_to(file)
    run(link, subnets)

    assert link.is_symlink()
    assert set(create_supernet("ofa_mobilenetv3", file).statistics) == set(subnets)
