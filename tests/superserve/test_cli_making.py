"""The commands calibrate, evaluate and export: a whole workflow, a kill, and clear refusals."""

import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from supernets import create_supernet, save
from supernets.accuracy_card import AccuracyCard, card_path
from supernets.errors import CheckpointError, DataError, ExportError
from supernets.fingerprint import weights_hash
from superserve.cli import making
from superserve.engine import Engine
from superserve.engine_types import EngineSpec
from superserve.errors import ConfigError, SuperServeError
from tests.supernets.helpers import small_net

HANDLED = (SuperServeError, CheckpointError, DataError, ExportError)  # one line in `run`


def run(*arguments):
    return CliRunner().invoke(making.app, [str(argument) for argument in arguments])


def works(*arguments):
    result = run(*arguments)
    assert result.exception is None, (result.exception, result.output)
    return result.output


@pytest.fixture
def saved(tmp_path):
    """A checkpoint without statistics: (file, net)."""
    net = small_net(1).float()
    file = tmp_path / "net.safetensors"
    save(net, file)
    return file, net


@pytest.fixture
def data(tmp_path):
    """Grey noise in seven classes of six, brighter with the class."""
    rng = np.random.default_rng(0)
    for label in range(7):
        folder = tmp_path / "data" / str(label)
        folder.mkdir(parents=True)
        for number in range(6):
            pixels = rng.integers(0, 100, (20, 24)) + 20 * label
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    return tmp_path / "data"


def test_from_weights_to_a_supernet_that_can_be_served(saved, data, tmp_path):
    file, net = saved
    weights = weights_hash(file)
    split = ("--data", data, "--split", "50:0:50")
    said = works("calibrate", file, *split, "--subnets", "4 random", "--batch-size", "8")
    assert "4 subnets calibrated on 21 images" in said
    said = works("evaluate", file, *split, "--dataset-name", "noise")
    card = AccuracyCard.read(card_path(file))

    assert (card.samples, card.dataset) == (21, "noise")
    assert weights_hash(file) == weights
    assert set(create_supernet("ofa_mobilenetv3", file).statistics) == {
        net.space.subnet(**entry.config) for entry in card.subnets
    }
    for entry in card.subnets:
        assert entry.id in said
        assert entry.top5 >= entry.accuracy
    assert len(Engine(EngineSpec("ofa_mobilenetv3", checkpoint=str(file))).models[0].subnets) == 4
    works("export", file, "--subnet", card.subnets[0].id, "-o", tmp_path / "x.safetensors")
    assert (tmp_path / "x.safetensors").exists()


def test_the_parts_of_a_split_are_what_each_command_is_for(saved, data):
    file, _ = saved
    split = ("--data", data, "--split", "3:2:1", "--subnets", "smallest")
    assert "train part of 3:2:1" in works("calibrate", file, *split)
    works("evaluate", file, *split)
    card = AccuracyCard.read(card_path(file))

    assert "report part of 3:2:1" in card.dataset
    assert card.samples == 7


def test_what_is_calibrated_is_left_alone_unless_asked_for(saved, data):
    file, _ = saved
    works("calibrate", file, "--data", data, "--subnets", "2 random")
    before = file.read_bytes()
    said = works("calibrate", file, "--data", data, "--subnets", "2 random")
    assert "--again" in said
    assert file.read_bytes() == before
    works("calibrate", file, "--data", data, "--images", "10", "--again")

    assert file.read_bytes() != before
    assert len(create_supernet("ofa_mobilenetv3", file).statistics) == 2


def test_evaluation_of_some_images_says_how_many(saved, data):
    file, _ = saved
    works("calibrate", file, "--data", data, "--subnets", "smallest")
    said = works("evaluate", file, "--data", data, "--images", "9")

    assert "9 images of" in said
    assert AccuracyCard.read(card_path(file)).samples == 9


DATA_MODULE = """
import os, signal, numpy
from pathlib import Path
from PIL import Image

class Noise:
    read = 0

    def __len__(self):
        return 12

    def __getitem__(self, index):
        Noise.read += 1
        if Path("deadly").exists() and Noise.read == 12 + 5:  # in the second pass
            os.kill(os.getpid(), signal.SIGKILL)
        pixels = numpy.random.default_rng(index).integers(0, 256, (16, 16))
        return Image.fromarray(pixels.astype(numpy.uint8)), index % 7

def noise():
    return Noise()
"""


def process(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "superserve.cli", *arguments], cwd=folder, capture_output=True,
        text=True, check=False, timeout=300, env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip


def test_a_killed_calibration_harms_nothing_and_goes_on(saved, tmp_path):
    file, _ = saved
    (tmp_path / "noisy.py").write_text(DATA_MODULE)
    (tmp_path / "deadly").touch()
    before = file.read_bytes()
    command = ("calibrate", file.name, "--data", "noisy:noise", "--subnets", "6 random",
               "--batch-size", "4", "--threads", "1")  # fmt: skip
    killed = process(tmp_path, *command)
    assert killed.returncode == -signal.SIGKILL
    assert file.read_bytes() == before
    (tmp_path / "deadly").unlink()
    whole = tmp_path / "whole"
    whole.mkdir()
    (whole / file.name).write_bytes(before)
    (whole / "noisy.py").write_text(DATA_MODULE)
    finished, uninterrupted = process(tmp_path, *command), process(whole, *command)
    ours, theirs = (
        create_supernet("ofa_mobilenetv3", folder / file.name) for folder in (tmp_path, whole)
    )

    assert (finished.returncode, uninterrupted.returncode) == (0, 0), finished.stderr
    assert sorted(s.id for s in ours.statistics) == sorted(s.id for s in theirs.statistics)
    assert len(ours.statistics) == 6
    for subnet in ours.statistics:
        for layer, entry in ours.statistics[subnet].items():
            assert torch.equal(entry.mean, theirs.statistics[subnet][layer].mean)
            assert torch.equal(entry.var, theirs.statistics[subnet][layer].var)
    assert not list(tmp_path.glob("*.calibrating"))


PLUGIN = """
from torch import nn
from supernets import Preprocessing, SearchSpace, Supernet, register_supernet
from supernets.space import Dimension

class NormFree(Supernet):
    def __init__(self):
        space = SearchSpace("normfree", [Dimension("width", 1, (1, 2))])
        step = Preprocessing(4, 4, 1, (0.0,), (1.0,))
        super().__init__("normfree", space, step, [str(i) for i in range(7)])
        self.head = nn.Linear(16, 7)

    def run(self, x, subnet, normalise):
        return self.head(x.flatten(1)) * subnet["width"][0]

    def extract(self, subnet):
        head = nn.Linear(16, 7)
        width = subnet["width"][0]
        head.load_state_dict({n: t * width for n, t in self.head.state_dict().items()})
        return nn.Sequential(nn.Flatten(), head)

    def definition(self):
        return {}

@register_supernet()
def normfree(*, num_classes=7):
    return NormFree()
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A third party's supernet without batch normalisation, saved."""
    (tmp_path / "normfree_plugin.py").write_text(textwrap.dedent(PLUGIN))
    monkeypatch.syspath_prepend(tmp_path)
    import normfree_plugin

    file = tmp_path / "normfree.safetensors"
    save(normfree_plugin.NormFree(), file)
    return file


def test_a_family_without_norms_needs_no_calibration_but_names_its_subnets(plugin, data):
    known = ("--plugins", "normfree_plugin", "--data", data)
    assert "nothing to calibrate" in works("calibrate", plugin, *known)
    refused = run("evaluate", plugin, *known)
    assert isinstance(refused.exception, ConfigError)
    assert "--subnets" in str(refused.exception)
    works("evaluate", plugin, *known, "--subnets", "all")

    assert len(AccuracyCard.read(card_path(plugin)).subnets) == 2


def test_a_subnet_of_a_third_party_is_exported_by_its_settings(plugin, tmp_path):
    file = tmp_path / "plain.safetensors"
    works("export", plugin, "--plugins", "normfree_plugin", "-o", file, "--subnet", '{"width": 2}')

    assert torch.equal(load_file(file)["1.bias"], 2 * load_file(plugin)["head.bias"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["calibrate", "none.safetensors", "--data", "DATA"], "cannot read"),
        (["calibrate", "OTHER", "--data", "DATA"], "no safetensors file"),
        (["calibrate", "FILE", "--data", "nowhere"], "no folder nowhere"),
        (["calibrate", "FILE", "--data", "DATA", "--split", "80:20"], "--split is three shares"),
        (["calibrate", "FILE", "--data", "DATA", "--split", "0:0:0"], "must be positive"),
        (["calibrate", "FILE", "--data", "DATA", "--device", "cuda:99"], "no device 'cuda:99'"),
        (["calibrate", "FILE", "--data", "DATA", "--subnets", "x.json"], "no subnet 'x.json'"),
        (["calibrate", "FILE", "--data", "no_such_module:f"], "no_such_module"),
        (["calibrate", "FILE", "--data", "DATA", "--plugins", "no_such"], "no_such"),
        (["evaluate", "FILE", "--data", "DATA"], "superserve calibrate first"),
        (["evaluate", "FILE", "--data", "DATA", "--subnets", "smallest"], "is not calibrated"),
        (["evaluate", "FILE", "--data", "DATA/0", "--subnets", "smallest"], "holds no images"),
        (["evaluate", "FILE", "--data", "digits:report", "--subnets", "smallest"], "32 x 32"),
        (["export", "FILE", "-o", "x.zip", "--subnet", "smallest"], "suffix must be one of"),
        (["export", "FILE", "-o", "x.pt2", "--subnet", "2 random"], "one subnet"),
        (["export", "FILE", "-o", "x.pt2", "--subnet", "largest"], "is not calibrated"),
    ],
)  # fmt: skip
def test_wrong_input_is_one_clear_message(arguments, message, saved, data, tmp_path):
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"not a checkpoint")
    names = {"FILE": str(saved[0]), "OTHER": str(other)}
    given = [names.get(a, a.replace("DATA", str(data))) for a in arguments]
    before = saved[0].read_bytes()
    result = run(*given)

    assert isinstance(result.exception, HANDLED), (result.exception, result.output)
    assert message in str(result.exception)
    assert saved[0].read_bytes() == before


def test_an_unknown_supernet_asks_for_its_plugin(saved, data, monkeypatch):
    monkeypatch.setattr("supernets.fingerprint.read_metadata", lambda _: {"name": "strange"})
    result = run("calibrate", saved[0], "--data", data)

    assert isinstance(result.exception, ConfigError)
    assert "strange" in str(result.exception)
    assert "--plugins" in str(result.exception)
