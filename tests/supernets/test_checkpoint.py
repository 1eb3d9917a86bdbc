"""A saved supernet comes back equal, and a wrong file is refused with what is wrong about it."""

import json
import pickle

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from supernets import CheckpointError, create_supernet, save
from supernets.checkpoint import load_into
from supernets.fingerprint import read_metadata, weights_hash
from tests.supernets.helpers import calibrated, images, small_net


@pytest.fixture
def saved(tmp_path):
    net = small_net(1).float()
    subnets = calibrated(net.double(), 2)
    net.float()
    file = tmp_path / "net.safetensors"
    save(net, file)
    return net, subnets, file


def test_round_trip_restores_architecture_weights_statistics_and_labels(saved):
    net, subnets, file = saved
    again = create_supernet("ofa_mobilenetv3", checkpoint=file)
    x = images(net, 3).float()

    assert again.definition() == net.definition()
    assert again.labels == net.labels
    assert again.preprocessing == net.preprocessing
    assert set(again.statistics) == set(subnets)
    with torch.no_grad():
        for subnet in subnets:
            assert torch.equal(again(x, subnet), net(x, subnet))


def test_shared_statistics_stay_shared(tmp_path):
    net = small_net(2).float()
    largest = calibrated(net.double(), 0)[1]
    net.float()
    net.statistics.shared = dict(net.statistics[largest])
    for subnet in list(net.statistics):
        del net.statistics[subnet]
    save(net, tmp_path / "net.safetensors")
    again = create_supernet("ofa_mobilenetv3", checkpoint=tmp_path / "net.safetensors")
    x = images(net, 2).float()
    with torch.no_grad():
        assert torch.equal(again(x, net.space.smallest), net(x, net.space.smallest))
    assert largest not in again.statistics


def edit(file, change_tensors=None, change_metadata=None):
    tensors, metadata = load_file(file), read_metadata(file)
    if change_tensors:
        change_tensors(tensors)
    if change_metadata:
        change_metadata(metadata)
    save_file(tensors, file, metadata)


def first_weight(tensors):
    return next(name for name in tensors if name.startswith("stages"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(first_weight(t)), "missing: stages"),
        (lambda t: t.update(extra=torch.zeros(2)), "unexpected: extra"),
        (lambda t: t.update({"classifier.bias": torch.zeros(3)}), r"shape \(3,\), not \(7,\)"),
        (lambda t: t["classifier.bias"].fill_(torch.nan), "classifier.bias is not finite"),
        (lambda t: t.pop(next(n for n in t if "statistics" in n)), "missing: statistics of subnet"),
        (
            lambda t: t.update({n: v[:, :-1].contiguous() for n, v in t.items() if "stat" in n}),
            "statistics of .* have shape",
        ),
    ],
    ids=["missing", "unexpected", "shape", "nan", "no-statistics", "short-statistics"],
)
def test_a_tampered_file_is_refused(saved, change, message):
    _, _, file = saved
    edit(file, change)
    with pytest.raises(CheckpointError, match=message):
        create_supernet("ofa_mobilenetv3", checkpoint=file)


def test_a_file_of_another_supernet_is_refused_by_name(saved):
    _, _, file = saved
    edit(file, change_metadata=lambda m: m.update(name="other"))
    with pytest.raises(CheckpointError, match="holds the supernet 'other'"):
        create_supernet("ofa_mobilenetv3", checkpoint=file)


@pytest.mark.parametrize("keep", [0, 5, 100, -10])
def test_a_file_that_is_cut_off_is_refused(saved, keep):
    _, _, file = saved
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=str(file)):
        create_supernet("ofa_mobilenetv3", checkpoint=file)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="cannot read the checkpoint"):
        create_supernet("ofa_mobilenetv3", checkpoint=tmp_path / "none.safetensors")


def test_safetensors_of_somebody_else_are_refused(tmp_path):
    file = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(1)}, file)
    with pytest.raises(CheckpointError, match="no SuperServe checkpoint"):
        create_supernet("ofa_mobilenetv3", checkpoint=file)


def test_a_pickle_may_not_run_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("owned",))

    file = tmp_path / "evil.pth"
    file.write_bytes(pickle.dumps({"state_dict": Evil()}, protocol=2))
    with pytest.raises(CheckpointError, match="no readable checkpoint"):
        load_into(create_supernet("ofa_mobilenetv3"), file)


def test_recalibration_leaves_the_weights_hash_and_other_weights_do_not(saved):
    _, _, file = saved
    before = weights_hash(file)
    edit(file, lambda t: t[next(n for n in t if "statistics" in n)].mul_(1.5))

    assert weights_hash(file) == before
    edit(file, lambda t: t["classifier.bias"].add_(1.0))

    assert weights_hash(file) != before


def test_metadata_is_plain_json(saved):
    _, subnets, file = saved
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()

    assert len(json.loads(metadata["subnets"])) == len(set(subnets))
