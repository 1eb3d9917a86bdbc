"""Elastic networks by name: the family `elastic`, the weights it reads, saving and loading."""

import copy

import pytest
import timm
import torch
import torchvision

from supernets import (
    CheckpointError,
    MissingStatistics,
    calibrate,
    create_supernet,
    register_supernet,
    save,
)
from supernets.making_elastic import make_elastic
from tests.supernets.elastic_helpers import (
    SIZE,
    OwnNet,
    own_net,
    pictures,
    randomised,
    some_subnets,
)
from tests.supernets.helpers import relative


def test_the_registered_family_starts_without_statistics():
    net = create_supernet("elastic", model="torchvision/resnet18", num_classes=4, image_size=SIZE)

    assert net.name == "elastic"
    with pytest.raises(MissingStatistics):
        net(pictures(1), net.space.largest)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet50", "torchvision/resnet50 or timm/resnet26d"),
        ("torchvision/resnet51", "resnet50"),
        ("timm/resnet26dd", "resnet26d"),
    ],
)
def test_an_unknown_model_is_refused_with_those_like_it(name, message):
    with pytest.raises(ValueError, match=message):
        create_supernet("elastic", model=name)


@pytest.mark.parametrize("name", ["torchvision/resnet18", "timm/resnet14t"])
def test_the_librarys_own_weight_file_is_read(name, tmp_path):
    library, architecture = name.split("/")
    make = torchvision.models.get_model if library == "torchvision" else timm.create_model
    model = randomised(make(architecture, num_classes=5), seed=3)
    file = tmp_path / "weights.pth"
    torch.save(model.state_dict(), file)
    net = create_supernet("elastic", checkpoint=file, model=name, num_classes=5, image_size=SIZE)
    x = pictures(2)
    with torch.no_grad():
        assert relative(net(x, net.space.largest), model(x)) < 1e-5
        assert (
            relative(make_elastic(model)(x, net.space.smallest), net(x, net.space.smallest)) < 1e-5
        )
    assert set(net.statistics) == {net.space.largest}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.clear(), "missing: conv1.weight"),
        (lambda s: s.pop("layer3.1.bn2.running_var"), "missing: layer3.1.bn2.running_var"),
        (lambda s: s.update({"extra": torch.zeros(1)}), "unexpected: extra"),
        (lambda s: s.update({"fc.bias": torch.zeros(9)}), r"fc.bias has shape \(9,\), not \(5,\)"),
    ],
)
def test_a_wrong_weight_file_is_refused_and_changes_nothing(change, message):
    net = make_elastic(randomised(torchvision.models.resnet18(num_classes=5)), image_size=SIZE)
    before = copy.deepcopy(net.state_dict())
    state = torchvision.models.resnet18(num_classes=5).state_dict()
    change(state)
    with pytest.raises(CheckpointError, match=message):
        net.load_foreign(state)

    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert set(net.statistics) == {net.space.largest}


def test_a_saved_net_comes_back_the_same(tmp_path):
    """Weights are saved sorted; sorting what random weights say would disorder them again."""
    model = randomised(timm.create_model("resnet26d", num_classes=3), seed=4)
    net = make_elastic(model, image_size=SIZE, depths=(1, 2), labels=["a", "b", "c"])
    subnets = some_subnets(net, 2)
    calibrate(net, subnets[2:], [pictures(2, seed=5)])
    save(net, tmp_path / "elastic.safetensors")
    again = create_supernet("elastic", checkpoint=tmp_path / "elastic.safetensors")
    x = pictures(2)
    with torch.no_grad():
        for subnet in subnets:
            assert torch.equal(again(x, again.space.from_json(subnet.to_json())), net(x, subnet))
    assert again.labels == ("a", "b", "c")
    assert set(again.statistics) == set(net.statistics)
    assert again.statistics.shared.keys() == net.statistics.shared.keys()


def test_a_librarys_model_is_recognised_by_its_modules():
    for model, name in (
        (torchvision.models.resnet34(num_classes=7), "torchvision/resnet34"),
        (timm.create_model("resnet26d", num_classes=7), "timm/resnet26d"),
    ):
        assert make_elastic(model, image_size=SIZE).definition()["model"] == name


def test_a_net_that_no_name_builds_again_is_not_saved(tmp_path):
    _, net = own_net()
    with pytest.raises(TypeError, match="build this OwnNet again: register a function"):
        save(net, tmp_path / "own.safetensors")


def test_ones_own_elastic_network_is_registered_and_comes_back(tmp_path):
    @register_supernet()
    def own_elastic(*, num_classes=6):
        return make_elastic(
            randomised(OwnNet(num_classes), 9, channels=1),
            name="own_elastic",
            image_size=12,
            definition={"num_classes": num_classes},
        )

    net = create_supernet("own_elastic", num_classes=4)
    calibrate(net, [net.space.smallest], [torch.randn(4, 1, 12, 12)])
    net.statistics.shared = None
    del net.statistics[net.space.largest]
    save(net, tmp_path / "own.safetensors")
    again = create_supernet("own_elastic", checkpoint=tmp_path / "own.safetensors")
    x = torch.randn(2, 1, 12, 12)
    with torch.no_grad():
        assert torch.equal(again(x, net.space.smallest), net(x, net.space.smallest))
    assert set(again.statistics) == {net.space.smallest}, "what the file lacks is not made up"
