"""The engine answers what plain torch answers, and refuses what would be wrong silently."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from kernels import native
from supernets import create_supernet, evaluate, extract, save
from supernets.accuracy_card import AccuracyCard, card_path
from superserve.engine import Engine
from superserve.engine_types import EngineSpec
from superserve.errors import ConfigError
from superserve.profiler import measure
from tests.supernets.helpers import calibrated, images, small_net


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A saved supernet with its card: (file, subnets)."""
    net = small_net(3)
    subnets = list(dict.fromkeys(calibrated(net, 2)))
    net.float()
    file = tmp_path_factory.mktemp("engine") / "net.safetensors"
    save(net, file)
    batches = [(images(net, 20, seed=5).float(), torch.arange(20) % 7)]
    evaluate(file, "ofa_mobilenetv3", subnets, batches, "noise")
    return file, subnets


def spec(file, **changes) -> EngineSpec:
    return replace(EngineSpec("ofa_mobilenetv3", checkpoint=str(file)), **changes)


def test_answers_are_those_of_the_extracted_net(trained):
    file, subnets = trained
    engine = Engine(spec(file))
    net = create_supernet("ofa_mobilenetv3", checkpoint=file)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 1), np.uint8)
    x = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    for subnet in subnets:
        result = engine.run("ofa_mobilenetv3", subnet.id, pixels, 3)
        with torch.no_grad():
            expected = extract(net, subnet)(x).softmax(1)
        scores, indices = expected.topk(3, dim=1)

        np.testing.assert_allclose(result.scores, scores.numpy(), atol=1e-5)
        assert np.array_equal(result.indices, indices.numpy())


@pytest.mark.parametrize("kernels", ["auto", "torch"])
def test_the_kernels_asked_for_run_and_are_told(trained, kernels):
    file, subnets = trained
    engine = Engine(spec(file, kernels=kernels))
    fast = Engine(spec(file))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 1), np.uint8)
    results = [e.run("ofa_mobilenetv3", subnets[0].id, pixels, 7) for e in (engine, fast)]

    np.testing.assert_allclose(results[0].scores, results[1].scores, atol=1e-5)
    assert (engine.models[0].kernels == "torch") == (kernels == "torch" or not native.variant())


def test_kernels_that_cannot_run_are_refused_with_what_can(trained):
    with pytest.raises(ConfigError, match="--kernels auto"):
        Engine(spec(trained[0], kernels="triton"))


def test_more_labels_than_classes_gives_all_classes(trained):
    engine = Engine(spec(trained[0]))
    pixels = np.zeros((1, 16, 16, 1), np.uint8)
    result = engine.run("ofa_mobilenetv3", trained[1][0].id, pixels, 50)

    assert result.indices.shape == (1, 7)
    assert result.scores.sum() == pytest.approx(1.0, abs=1e-5)


def test_it_says_what_it_serves(trained):
    file, subnets = trained
    model = Engine(spec(file)).models[0]

    assert set(model.subnets) == {subnet.id for subnet in subnets} == set(model.accuracies)
    assert "noise" in model.accuracy_source
    assert model.preprocessing.height == 16


def test_it_says_what_its_memory_is_for(trained):
    file, subnets = trained
    engine = Engine(spec(file))
    (model,) = engine.models
    net = create_supernet("ofa_mobilenetv3", checkpoint=file)
    parameters = 4 * sum(parameter.numel() for parameter in net.parameters())

    assert model.memory is not None
    told = model.memory
    assert told.weights_bytes + told.derived_bytes + told.norms_bytes == model.resident_bytes
    assert told.calibrated_subnets == len(subnets)
    assert told.derived_bytes > 0, "the filters of the smaller kernels"
    assert 0.8 * parameters < told.weights_bytes < 1.2 * parameters
    assert told.norms_bytes == net.resident().memory().norms.bytes > 0


def test_an_unknown_model_or_subnet_is_a_key_error(trained):
    engine = Engine(spec(trained[0]))
    pixels = np.zeros((1, 16, 16, 1), np.uint8)
    with pytest.raises(KeyError):
        engine.run("other", trained[1][0].id, pixels, 1)
    with pytest.raises(KeyError):
        engine.run("ofa_mobilenetv3", "nothing", pixels, 1)


def copy(trained, folder, change=lambda card: card):
    """The checkpoint with a changed card."""
    file = folder / "net.safetensors"
    file.write_bytes(trained[0].read_bytes())
    card = change(AccuracyCard.read(card_path(trained[0])))
    if card is not None:
        card.write(card_path(file))
    return file


def test_without_an_accuracy_card_it_refuses_and_says_how_to_make_one(trained, tmp_path):
    file = copy(trained, tmp_path, lambda _: None)
    with pytest.raises(ConfigError, match=r"no accuracy card .* superserve evaluate"):
        Engine(spec(file))


def test_a_card_of_another_file_is_refused(trained, tmp_path):
    """Recalibrated weights are another file: their accuracy is another one too."""
    file = copy(trained, tmp_path, lambda card: replace(card, file_hash="0" * 64))
    with pytest.raises(ConfigError, match="another file"):
        Engine(spec(file))


def uncalibrated(card: AccuracyCard) -> AccuracyCard:
    net = small_net(3)
    subnet = net.space.subnet(ks=5, e=2, d=[1, 2, 3])
    entry = replace(card.subnets[0], id=subnet.id, config=subnet.config())
    return replace(card, subnets=(entry,))


def test_an_uncalibrated_subnet_is_refused(trained, tmp_path):
    file = copy(trained, tmp_path, uncalibrated)
    with pytest.raises(ConfigError, match=r"not calibrated.*--allow-uncalibrated"):
        Engine(spec(file))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda entry: replace(entry, id="wrong"), "id wrong is not that of"),
        (lambda entry: replace(entry, config={"ks": 4, "e": 2, "d": 1}), "names no subnet"),
    ],
)
def test_a_card_that_names_other_subnets_is_refused(trained, tmp_path, change, message):
    file = copy(trained, tmp_path, lambda card: replace(card, subnets=(change(card.subnets[0]),)))
    with pytest.raises(ConfigError, match=message):
        Engine(spec(file))


def test_the_profiler_visits_every_cell(trained):
    engine = Engine(spec(trained[0]))
    latencies = measure(engine, (1, 2), seconds=0.0)

    assert set(latencies) == set(engine.models[0].subnets)
    for row in latencies.values():
        assert set(row) == {1, 2}
        assert all(0 < cell.p50 <= cell.p99 and cell.runs >= 5 for cell in row.values())
