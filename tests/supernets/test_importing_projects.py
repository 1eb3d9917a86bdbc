"""Any project's file goes through the family that is named; the command says what comes of it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from typer.testing import CliRunner

from supernets import SearchSpace, Supernet, create_supernet, importing, register_supernet
from supernets.importing import import_checkpoint
from supernets.registry import _REGISTRY
from supernets.space import Dimension
from supernets.supernet import Preprocessing
from superserve.cli.app import app
from superserve.errors import ConfigError
from tests.supernets.helpers import relative
from tests.supernets.importing_helpers import (  # noqa: F401 - fixtures
    CLASSES,
    their_file,
    their_network,
    their_state,
)


class Toy(Supernet):
    """A family of somebody else's: one linear layer, and a checkpoint of its own project."""

    def __init__(self, num_classes: int, scale: float) -> None:
        space = SearchSpace("toy", [Dimension("w", 1, (1, 2))])
        super().__init__("toy", space, Preprocessing(4, 4, 1, (0.5,), (0.5,)), "ab"[:num_classes])
        self.scale, self.head = scale, nn.Linear(16, num_classes)

    def run(self, x, subnet, normalise):
        del subnet, normalise
        return self.head(x.flatten(1)) * self.scale

    def extract(self, subnet):
        raise NotImplementedError

    def definition(self):
        return {"num_classes": len(self.labels), "scale": self.scale}

    def load_foreign(self, state_dict: dict[str, Tensor]) -> None:
        self.head.load_state_dict(state_dict)


@pytest.fixture(name="toy")
def registered():
    @register_supernet()
    def toy(*, num_classes: int = 2, scale: float = 1.0) -> Toy:
        return Toy(num_classes, scale)

    yield "toy"
    del _REGISTRY["toy"]


@torch.no_grad()
def test_a_vision_transformer_of_timm_computes_the_same(tmp_path):
    import timm

    import supernets.elastic_vit  # noqa: F401 - importing registers

    model = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=CLASSES).eval()
    nn.init.normal_(model.head.weight)
    save_file(model.state_dict(), tmp_path / "model.safetensors", {"format": "pt"})
    path = import_checkpoint(
        tmp_path / "model.safetensors", tmp_path, "timm", "elastic_vit",
        model="vit_tiny_patch16_224", num_classes=CLASSES,
    )  # fmt: skip
    net, x = create_supernet("elastic_vit", path), torch.randn(1, 3, 224, 224)

    assert relative(net(x, net.space.largest), model(x)) < 1e-4


@torch.no_grad()
def test_a_resnet_of_torchvision_computes_the_same(tmp_path):
    from torchvision.models import resnet18

    import supernets.making_elastic  # noqa: F401 - importing registers

    model = resnet18(weights=None, num_classes=CLASSES).eval()
    torch.save(model.state_dict(), tmp_path / "resnet18-f37072fd.pth")
    path = import_checkpoint(
        tmp_path / "resnet18-f37072fd.pth", tmp_path, "torchvision", "elastic",
        model="resnet18", num_classes=CLASSES,
    )  # fmt: skip
    net, x = create_supernet("elastic", path), torch.randn(1, 3, 64, 64)

    assert net.space.largest in net.statistics, "the largest subnet is the original"
    assert relative(net(x, net.space.largest), model(x)) < 1e-4


@pytest.mark.parametrize(
    ("width", "model"), [(256, "tiny"), (448, "small"), (640, "base"), (100, None)]
)
def test_the_model_of_an_autoformer_file_is_found(width, model, tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr(
        importing,
        "create_supernet",
        lambda name, **options: asked.update(name=name, **options) or Toy(2, 1.0),
    )
    monkeypatch.setattr(Toy, "load_foreign", lambda *_: None)
    torch.save({"model": {"cls_token": torch.zeros(1, 1, width)}}, tmp_path / "supernet.pth")
    import_checkpoint(tmp_path / "supernet.pth", tmp_path, "autoformer")

    assert asked["name"] == "elastic_vit"
    assert asked.get("model") == (f"autoformer_{model}" if model else None)


def test_other_projects_go_through_the_family_that_is_named(toy, tmp_path):
    layer = nn.Linear(16, 2)
    save_file(layer.state_dict(), tmp_path / "layer.safetensors")
    path = import_checkpoint(tmp_path / "layer.safetensors", tmp_path, "timm", toy, scale=2.0)
    net, x = create_supernet("toy", path), torch.randn(3, 1, 4, 4)
    with torch.no_grad():
        assert torch.equal(net(x, net.space.smallest), layer(x.flatten(1)) * 2.0)


@pytest.mark.parametrize(
    ("kind", "options", "error", "message"),
    [
        ("keras", {}, ValueError, "ofa, timm, torchvision, snnet, autoformer"),
        ("timm", {}, ValueError, "say which"),
        ("timm", {"supernet": "resnet_9000"}, KeyError, "resnet_9000"),
        ("timm", {"supernet": "elastic"}, ValueError, "which one of timm .* --option model="),
        ("timm", {"supernet": "digits", "colour": "red"}, ValueError, "colour"),
        ("ofa", {"colour": "red"}, ValueError, "colour"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_is_written(
    kind, options, error, message, file, tmp_path
):
    with pytest.raises(error, match=message):
        import_checkpoint(file, tmp_path / "out", kind, **options)

    assert not (tmp_path / "out").exists()


def test_the_command_says_what_the_file_holds_and_what_comes_next(file, tmp_path):
    result = CliRunner().invoke(
        app, ["import", "ofa", str(file), "-o", str(tmp_path / "out"), "--option", "image_size=160"]
    )
    path = tmp_path / "out" / "ofa_mobilenetv3.safetensors"
    text = result.stdout

    assert result.exit_code == 0, result.exception
    assert "10 classes" in text
    assert "images 3 x 160 x 160" in text
    assert "0 subnets with normalisation statistics of their own" in text
    for command in ("calibrate", "evaluate"):
        assert f"superserve {command} {path} --data" in text
    assert f"superserve serve --supernet ofa_mobilenetv3 --checkpoint {path}" in text
    assert create_supernet("ofa_mobilenetv3", path).preprocessing.height == 160


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=1", 1),
        ("a=0.5", 0.5),
        ("a=[1, 2]", [1, 2]),
        ("a=true", True),
        ("a=resnet18,resnet50", ["resnet18", "resnet50"]),
        ("a=1,2", [1, 2]),
        ("a=word", "word"),
        ("a=", ""),
    ],
)
def test_options_are_json_or_lists_with_commas_or_words(text, value):
    from superserve.cli.importing import _option

    assert _option(text) == ("a", value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["keras"], "there are ofa, timm"),
        (["timm", "--supernet", "resnet_9000"], "no supernet is named 'resnet_9000'"),
        (["timm", "--supernet", "digits", "--option", "x"], "key=value"),
        (["timm", "--supernet", "elastic"], "--option model=resnet50"),
        (["timm", "--supernet", "digits", "--option", "depths=hello"], "depths must be a list"),
    ],
)
def test_a_wrong_request_is_the_operators_error(arguments, message, file, tmp_path):
    kind, *options = arguments
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["import", kind, str(file), "-o", str(out), *options])

    assert isinstance(result.exception, ConfigError)
    assert message in str(result.exception)
    assert not out.exists()


def test_a_wrong_file_ends_the_command_with_one_clear_message(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "superserve.cli", "import", "ofa", __file__, "-o", "out"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "", "COLUMNS": "200"},
    )  # fmt: skip

    assert result.returncode == 1
    assert "no readable checkpoint" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()
