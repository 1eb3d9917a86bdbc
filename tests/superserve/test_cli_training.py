"""`superserve train` on a folder of images, `superserve search` on the result, and refusals."""

import json
import re
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from supernets import calibrate, create_supernet, register_supernet, save
from supernets.accuracy_card import AccuracyCard, card_path
from supernets.learning import digits_recipe
from supernets.learning.data_recipe import epoch_ends
from supernets.ofa_mobilenetv3 import MobileNetV3Definition, OFAMobileNetV3
from supernets.registry import _REGISTRY
from supernets.searching.measured_search import Examiner
from superserve.cli.app import app
from superserve.errors import ConfigError

NAME = "tiny_for_commands"


@pytest.fixture(autouse=True, scope="module")
def registered():
    @register_supernet()
    def tiny_for_commands(*, num_classes: int = 10, **definition):
        spec = MobileNetV3Definition(
            num_classes=num_classes,
            in_channels=1,
            image_size=16,
            stem_width=8,
            first_width=8,
            stage_widths=(8, 16),
            strides=(1, 2),
            activations=("relu", "h_swish"),
            squeezes=(False, True),
            final_width=16,
            feature_width=16,
            expands=(1, 2, 4),
            depths=(1, 2),
        )
        return OFAMobileNetV3(
            MobileNetV3Definition.from_json({**_fields(spec), **definition}), name=NAME
        )

    yield
    del _REGISTRY[NAME]


def _fields(spec):
    return {name: getattr(spec, name) for name in spec.__dataclass_fields__}


@pytest.fixture(name="folder", scope="module")
def images_in_folders(tmp_path_factory):
    """Three classes that differ in where the light is, 30 noisy images of each."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for index, name in enumerate(("left", "middle", "right")):
        (root / name).mkdir()
        for number in range(30):
            pixels = rng.integers(0, 90, (16, 16), np.uint8)
            pixels[:, 2 + 5 * index : 5 + 5 * index] += 120
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


def run(*arguments):
    threads = [] if "--threads" in arguments else ["--threads", 1]
    result = CliRunner().invoke(app, [str(argument) for argument in [*arguments, *threads]])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


TRAINING = [
    "--epochs",
    4,
    "--batch-size",
    18,
    "--lr",
    "0.01",
    "--no-augment",
    "--random-subnets",
    1,
]


@pytest.fixture(name="trained", scope="module")
def trained_once(folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("run")
    result = run("train", NAME, "--data", folder, "-o", output, *TRAINING)
    return output / f"{NAME}.safetensors", result.output


def test_training_learns_the_classes_and_leaves_what_serving_needs(trained):
    checkpoint, output = trained
    net = create_supernet(NAME, checkpoint)
    card = AccuracyCard.read(card_path(checkpoint))

    assert net.labels == ("left", "middle", "right")
    assert {net.space.smallest, net.space.largest} <= set(net.statistics)
    assert [entry.id for entry in card.subnets] == [s.id for s in net.statistics]
    assert card.subnets[-1].accuracy > 60
    assert all(entry.source == "measured" for entry in card.subnets)
    assert "report part of 80:10:10" in card.dataset
    assert len(re.findall(r"epoch \d: loss .* smallest .* largest", output)) == 4


def test_training_again_goes_on_from_its_end(trained, folder):
    """The state in the folder is that of a finished run, so nothing is trained."""
    checkpoint, _ = trained
    before = create_supernet(NAME, checkpoint).state_dict()
    output = run("train", NAME, "--data", folder, "-o", checkpoint.parent, *TRAINING).output
    after = create_supernet(NAME, checkpoint).state_dict()

    assert "epoch" not in output
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_other_data_does_not_continue_a_run(trained, folder):
    checkpoint, _ = trained
    arguments = [*TRAINING, "--split", "60:20:20"]
    with pytest.raises(ConfigError, match="other options"):
        run("train", NAME, "--data", folder, "-o", checkpoint.parent, *arguments)


def test_a_state_is_not_gone_on_with_from_other_weights(trained, folder):
    """Or training from a checkpoint, in the folder that made it, would do nothing."""
    checkpoint, _ = trained
    with pytest.raises(ConfigError, match="other options"):
        run("train", checkpoint, "--data", folder, "-o", checkpoint.parent, *TRAINING)


def test_training_does_not_replace_a_file_with_more_calibrated_subnets(trained, folder, tmp_path):
    checkpoint, _ = trained
    net = create_supernet(NAME, checkpoint)
    calibrate(
        net, [net.space.sample(Random(seed)) for seed in range(20)], [torch.zeros(2, 1, 16, 16)]
    )
    file = tmp_path / f"{NAME}.safetensors"
    save(net, file)
    before = file.read_bytes()
    with pytest.raises(ConfigError, match="of its subnets are calibrated"):
        run("train", NAME, "--data", folder, "-o", tmp_path, *TRAINING)
    assert file.read_bytes() == before


def test_training_goes_on_from_a_checkpoint_in_phases_and_with_a_teacher(trained, folder, tmp_path):
    checkpoint, _ = trained
    output = run(
        "train", checkpoint, "--data", folder, "-o", tmp_path, "--epochs", 1, "--batch-size", 18,
        "--shrink", "--teacher", checkpoint, "--validation", folder,
    ).output  # fmt: skip
    net = create_supernet(NAME, tmp_path / f"{NAME}.safetensors")

    assert net.labels == ("left", "middle", "right")
    assert re.search(r"epoch 1: .*\(e 2\)", output)


def test_epochs_end_where_all_images_were_seen():
    assert epoch_ends(100, 4) == [25, 50, 75, 100]
    assert epoch_ends(10, 3) == [3, 7, 10]
    assert epoch_ends(5, 2.5) == [2, 4, 5]
    assert epoch_ends(1, 0.2) == [1]


def test_train_digits_is_still_the_embedded_recipe(monkeypatch, tmp_path):
    made = []

    def make(recipe, progress):
        made.append(recipe)
        return AccuracyCard("digits", "", "", "", 1, ())

    monkeypatch.setattr(digits_recipe, "make", make)
    run("train", "digits", "-o", tmp_path, "--scale", "0.5", "--seed", 3, "--threads", 1)
    run("train", "digits", "--threads", 1)

    assert made == [
        digits_recipe.Recipe(tmp_path, 0.5, 3),
        digits_recipe.Recipe(Path("runs/digits"), 1.0, 0),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([NAME], "digits only"),
        (["nothing", "--data", "DATA"], "no supernet is named 'nothing'"),
        ([NAME, "--data", "no/such/folder"], "no folder no/such/folder"),
        ([NAME, "--data", "DATA", "--split", "1:2"], "three shares"),
        ([NAME, "--data", "DATA", "--device", "cuda:77"], "no device 'cuda:77'"),
        ([NAME, "--data", "DATA", "--option", "depth_of_mind=3"], "depth_of_mind"),
    ],
)
def test_training_says_what_is_wrong(arguments, message, folder, tmp_path):
    given = [str(folder) if word == "DATA" else word for word in arguments]
    with pytest.raises((ConfigError, ValueError), match=re.escape(message)):
        run("train", *given, "-o", tmp_path)


def test_a_loss_that_explodes_is_one_clear_message(folder, tmp_path):
    with pytest.raises(ConfigError, match="smaller learning rate"):
        run("train", NAME, "--data", folder, "-o", tmp_path, "--epochs", 9, "--lr", "1e30")


# search

SEARCH = ["--latency", "macs", "--population", 6, "--generations", 2, "--images", 60,
          "--first-images", 15, "--calibration-images", 27]  # fmt: skip


def test_search_writes_a_front_that_evaluate_can_measure(trained, folder, tmp_path):
    checkpoint = tmp_path / "net.safetensors"
    checkpoint.write_bytes(trained[0].read_bytes())
    before = create_supernet(NAME, checkpoint)
    front = tmp_path / "front.json"
    output = run("search", checkpoint, "--data", folder, *SEARCH, "--write", "-o", front).output
    entries = json.loads(front.read_text())
    net = create_supernet(NAME, checkpoint)
    subnets = [net.space.from_json(entry["subnet"]) for entry in entries]

    assert entries
    assert f"{len(entries)} of 18 subnets looked at" in output
    costs, accuracies = ([entry[key] for entry in entries] for key in ("cost", "accuracy"))
    assert costs == sorted(set(costs))
    assert accuracies == sorted(set(accuracies))
    assert {(e["source"], e["cost_unit"], e["images"]) for e in entries} == {
        ("measured", "MACs", 60)
    }
    assert set(subnets) | set(before.statistics) == set(net.statistics)
    for name, tensor in before.state_dict().items():
        assert torch.equal(tensor, net.state_dict()[name])
    evaluated = run("evaluate", checkpoint, "--data", folder, "--subnets", front).output
    assert all(entry["id"] in evaluated for entry in entries)


def test_search_goes_on_with_what_it_has_measured_and_its_seed_decides(
    trained, folder, tmp_path, monkeypatch
):
    front = tmp_path / "front.json"
    arguments = ["search", trained[0], "--data", folder, *SEARCH, "-o", front]
    run(*arguments)
    first = front.read_text()
    monkeypatch.setattr(Examiner, "_show", None)
    monkeypatch.setattr("supernets.searching.search_recipe.macs", None)
    run(*arguments)

    assert front.read_text() == first
    with pytest.raises(TypeError):
        run(*arguments, "--seed", 1)


def test_a_budget_of_images_is_kept(trained, folder, tmp_path):
    arguments = ["--budget-images", 400, "-o", tmp_path / "front.json"]
    output = run("search", trained[0], "--data", folder, *SEARCH, *arguments).output

    assert 200 < int(re.search(r"(\d+) images shown", output)[1]) <= 400


def test_a_predicted_search_needs_no_images(tmp_path):
    net = create_supernet("ofa_mobilenetv3", pretrained=False)
    save(net, tmp_path / "net.safetensors")
    torch.manual_seed(0)
    layers = [torch.nn.Linear(a, b) for a, b in ((128, 400), (400, 400), (400, 400), (400, 1))]
    state = {
        f"{2 * i}.{name}": tensor.detach() + (0.5 if (i, name) == (3, "bias") else 0.0)
        for i, layer in enumerate(layers)
        for name, tensor in layer.named_parameters()
    }
    torch.save(state, tmp_path / "acc_predictor.pth")
    front = tmp_path / "front.json"
    run(
        "search", tmp_path / "net.safetensors", "--accuracy",
        f"predicted:{tmp_path / 'acc_predictor.pth'}", "--latency", "macs",
        "--population", 4, "--generations", 1, "-o", front,
    )  # fmt: skip
    entries = json.loads(front.read_text())

    assert entries
    assert all(entry["source"] == "predicted" for entry in entries)
    assert all("not corrected for any other width" in entry["source_note"] for entry in entries)
    assert all(entry["standard_error"] is None for entry in entries)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--latency", "macs"], "--data FOLDER"),
        (["--accuracy", "guessed"], "measured or predicted:FILE"),
        (["--accuracy", "predicted:no/file"], "cannot read the checkpoint no/file"),
        (["--accuracy", "predicted:x", "--write"], "leave out --write"),
        (["--data", "DATA", "--split", "0:0:0"], "must be positive"),
    ],
)
def test_search_says_what_is_wrong(arguments, message, trained, folder):
    given = [str(folder) if word == "DATA" else word for word in arguments]
    with pytest.raises(ValueError if "no/file" in message else ConfigError, match=message):
        run("search", trained[0], *given)
