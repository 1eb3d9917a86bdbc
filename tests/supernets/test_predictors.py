"""The published accuracy predictors, with the `ofa` package's own code as the reference."""

import random
import sys
import warnings
from types import ModuleType

import pytest
import torch

from supernets.errors import CheckpointError
from supernets.ofa.ofa_resnet_space import ResNetSpace
from supernets.ofa_mobilenetv3 import MobileNetV3Definition
from supernets.searching.predictors import UnsuitedPredictor, load_predictor

MOBILENET = MobileNetV3Definition().space()
RESNET = ResNetSpace("ofa_resnet50", (2, 2, 4, 2), (0, 1, 2), (0.2, 0.25, 0.35), 3)
RESNET_SIZES = [128, 144, 160, 176, 192, 224, 240, 256]


def subnets(space, count=30):
    rng = random.Random(0)
    return [space.smallest, space.largest, *(space.sample(rng) for _ in range(count))]


def randomised(module):
    """Weights with gain, so that every feature shows, and answers around 0.7."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() == 2:
                torch.nn.init.kaiming_normal_(parameter, generator=generator)
            else:
                parameter.normal_(0.0, 0.1, generator=generator)
        *_, last = (m for m in module.modules() if isinstance(m, torch.nn.Linear))
        last.weight.mul_(0.02)
    return module


def save_as_published(state, file, monkeypatch):
    """Both files are pickles from before PyTorch 1.6, whose tensors lay on a GPU."""
    monkeypatch.setattr(torch.serialization, "location_tag", lambda _: "cuda:0")
    torch.save(state, file, _use_new_zipfile_serialization=False)
    assert b"cuda:0" in file.read_bytes()


@pytest.fixture(name="mobilenet")
def their_mobilenet_predictor(monkeypatch):
    monkeypatch.setitem(sys.modules, "gdown", ModuleType("gdown"))  # it only downloads
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from ofa.tutorial.accuracy_predictor import AccuracyPredictor
    theirs = AccuracyPredictor(pretrained=False, device="cpu")
    torch.nn.init.constant_(randomised(theirs.model)[-1].bias, 0.7)
    return theirs


@pytest.fixture(name="resnet")
def their_resnet_predictor():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from ofa.nas.accuracy_predictor import AccuracyPredictor, ResNetArchEncoder
    theirs = AccuracyPredictor(ResNetArchEncoder(image_size_list=RESNET_SIZES), device="cpu")
    torch.nn.init.constant_(randomised(theirs).base_acc, 0.7)
    return theirs


def test_the_mobilenet_predictor_says_what_the_package_says(mobilenet, tmp_path, monkeypatch):
    file = tmp_path / "acc_predictor.pth"
    save_as_published(mobilenet.model.state_dict(), file, monkeypatch)
    ours, asked = load_predictor(file, MOBILENET), subnets(MOBILENET)
    for size in (160, 176, 192, 208, 224):
        samples = [{**subnet.config(), "r": [size]} for subnet in asked]
        expected = 100 * mobilenet.predict_accuracy(samples).squeeze(1)
        answers = torch.tensor(ours(asked, size))

        torch.testing.assert_close(answers, expected, rtol=1e-5, atol=1e-4)
        assert answers.std() > 0.3, "a predictor that ignores the subnet would agree as well"


def test_the_resnet_predictor_says_what_the_package_says(resnet, tmp_path, monkeypatch):
    file = tmp_path / "ofa_resnet50_acc_predictor.pth"
    save_as_published(resnet.state_dict(), file, monkeypatch)
    ours, asked = load_predictor(file, RESNET), subnets(RESNET)
    for size in RESNET_SIZES:
        architectures = [{**subnet.config(), "image_size": size} for subnet in asked]
        with torch.no_grad():
            expected = 100 * resnet.predict_acc(architectures)
        answers = torch.tensor(ours(asked, size))

        torch.testing.assert_close(answers, expected, rtol=1e-5, atol=1e-4)
        assert answers.std() > 0.3


def test_the_resolution_makes_a_difference(mobilenet, tmp_path):
    torch.save(mobilenet.model.state_dict(), tmp_path / "p")
    ours = load_predictor(tmp_path / "p", MOBILENET)

    assert len({ours([MOBILENET.largest], size)[0] for size in (160, 176, 192, 208, 224)}) == 5


def test_a_prediction_stays_a_percentage(mobilenet, tmp_path):
    state = mobilenet.model.state_dict()
    state["6.bias"] += 1.0
    torch.save(state, tmp_path / "p")

    assert load_predictor(tmp_path / "p", MOBILENET)([MOBILENET.largest], 224) == [100.0]


@pytest.mark.parametrize("size", [112, 128, 144, 150, 256])
def test_resolutions_that_were_not_trained_are_refused(mobilenet, tmp_path, size):
    """The file has features for 112 to 144, and predicts more for them than for 160."""
    torch.save(mobilenet.model.state_dict(), tmp_path / "p")
    ours = load_predictor(tmp_path / "p", MOBILENET)
    with pytest.raises(UnsuitedPredictor, match=f"160, 176, 192, 208, 224, not for {size}"):
        ours([MOBILENET.largest], size)


def test_the_resnet_predictor_does_not_know_208(resnet, tmp_path):
    torch.save(resnet.state_dict(), tmp_path / "p")
    with pytest.raises(UnsuitedPredictor, match="not for 208"):
        load_predictor(tmp_path / "p", RESNET)([RESNET.largest], 208)


def test_a_predictor_of_another_family_is_refused(mobilenet, resnet, tmp_path):
    torch.save(mobilenet.model.state_dict(), tmp_path / "mobilenet")
    torch.save(resnet.state_dict(), tmp_path / "resnet")
    five_kernels = MobileNetV3Definition(kernels=(3, 5, 7, 9)).space()
    for file, space in (("mobilenet", RESNET), ("resnet", MOBILENET), ("mobilenet", five_kernels)):
        with pytest.raises(UnsuitedPredictor, match="another search space"):
            load_predictor(tmp_path / file, space)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("2.bias"), "missing: 2.bias"),
        (lambda s: s.update({"8.bias": torch.zeros(1)}), "unexpected: 8.bias"),
        (lambda s: s.update({"0.weight": torch.zeros(400, 82)}), r"\(400, 82\), not \(400, 128\)"),
    ],
    ids=["missing", "unexpected", "shape"],
)
def test_a_file_that_is_no_predictor_is_refused(mobilenet, tmp_path, change, message):
    state = dict(mobilenet.model.state_dict())
    change(state)
    torch.save(state, tmp_path / "p")
    with pytest.raises(CheckpointError, match=message):
        load_predictor(tmp_path / "p", MOBILENET)
