"""Other projects' checkpoints become ours whole, or are refused with the list of what is wrong."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from typer.testing import CliRunner

from supernets import (
    CheckpointError,
    SearchSpace,
    Supernet,
    create_supernet,
    importing,
    register_supernet,
    save,
)
from supernets.data.labels import imagenet_labels, read_labels
from supernets.fingerprint import read_metadata
from supernets.importing import import_checkpoint
from supernets.ofa.ofa_shapes import recognise
from supernets.registry import _REGISTRY
from supernets.space import Dimension
from supernets.supernet import Preprocessing
from superserve.cli.app import app
from superserve.errors import ConfigError
from tests.supernets.helpers import relative
from tests.supernets.ofa_reference import (
    OPTIONS,
    SIZE,
    blank_net,
    calibrate_theirs,
    legacy,
    their_net,
)

CLASSES = 10  # a small head keeps the files small


@pytest.fixture(name="theirs", scope="module")
def their_network():
    net = their_net("mobilenetv3-w1.2", classes=CLASSES)
    calibrate_theirs(net)
    return net


@pytest.fixture(name="state")
def their_state(theirs):
    return {name: tensor.clone() for name, tensor in theirs.state_dict().items()}


@pytest.fixture(name="file")
def their_file(tmp_path, state):
    """Named as published: without an ending, and with a dot in the name."""
    file = tmp_path / "ofa_mbv3_d234_e346_k357_w1.2"
    torch.save({"state_dict": state}, file)
    return file


def agrees(net: Supernet, theirs: nn.Module) -> bool:
    x = torch.randn(2, 3, SIZE, SIZE)
    theirs.set_max_net()
    with torch.no_grad():
        expected = theirs(x)
        return relative(net.eval()(x, net.space.largest), expected) < 1e-5


def test_family_width_and_classes_are_found_from_the_shapes(theirs, file, tmp_path):
    path = import_checkpoint(file, tmp_path / "new" / "folder", "ofa")
    net = create_supernet("ofa_mobilenetv3", checkpoint=path)

    assert path == tmp_path / "new" / "folder" / "ofa_mobilenetv3.safetensors"
    assert net.definition()["stage_widths"] == (32, 48, 96, 136, 192)
    assert len(net.labels) == CLASSES
    assert len(net.statistics) == 0, "shared statistics must not count as calibrated"
    assert agrees(net, theirs)


def test_resnet50_is_found_too_in_half_precision(tmp_path):
    theirs = their_net("resnet50", classes=CLASSES).half()
    torch.save(theirs.state_dict(), tmp_path / "r50.pth")
    path = import_checkpoint(tmp_path / "r50.pth", tmp_path, "ofa", image_size=160)
    net = create_supernet("ofa_resnet50", checkpoint=path)

    assert net.preprocessing.height == 160
    assert agrees(net, theirs.float())


SAVED = {
    "wrapped": lambda state, file: torch.save({"state_dict": state, "epoch": 3}, file),
    "bare": torch.save,
    "legacy-names": lambda state, file: torch.save({"state_dict": legacy(state)}, file),
    "before-zip": lambda state, file: torch.save(
        {"state_dict": state}, file, _use_new_zipfile_serialization=False
    ),
}


@pytest.mark.parametrize("form", ["bare", "legacy-names", "before-zip"])
def test_every_container_gives_the_same_weights(form, state, file, tmp_path):
    expected = load_file(import_checkpoint(file, tmp_path / "a", "ofa"))
    SAVED[form](state, file)
    found = load_file(import_checkpoint(file, tmp_path / "b", "ofa"))

    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before-zip"])
def test_tensors_of_a_gpu_come_to_the_cpu(zipped, state, file, tmp_path, monkeypatch):
    """The published predictors, and so probably the nets, were saved with tensors on a GPU."""
    with monkeypatch.context() as patched:
        patched.setattr(torch.serialization, "location_tag", lambda _: "cuda:0")
        torch.save({"state_dict": state}, file, _use_new_zipfile_serialization=zipped)
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="CUDA"):
            torch.load(file, weights_only=True)
    path = import_checkpoint(file, tmp_path / "out", "ofa")

    assert torch.equal(load_file(path)["stem.weight"], state["first_conv.conv.weight"])


WRONG = {
    "empty": (lambda s: s.clear(), "is empty"),
    "partial": (lambda s: s.pop("blocks.3.conv.point_linear.bn.bn.bias"), "missing: blocks.3"),
    "no-matrices": (
        lambda s: [s.pop(name) for name in list(s) if name.endswith("_matrix")],
        "missing: blocks.1.conv.depth_conv.conv.5to3_matrix",
    ),
    "one-stage-less": (
        lambda s: [s.pop(name) for name in list(s) if name.startswith(("blocks.17", "blocks.18"))],
        "missing: blocks.17",
    ),
    "extra": (lambda s: s.update(extra=torch.zeros(2)), "unexpected: extra"),
    "a-block-more": (
        lambda s: s.update({"blocks.21.conv.point_linear.conv.conv.weight": torch.zeros(1)}),
        "unexpected: blocks.21",
    ),
    "not-a-number": (
        lambda s: s["blocks.9.conv.depth_conv.conv.conv.weight"][0, 0].fill_(torch.nan),
        "blocks.9.conv.depth_conv.conv.conv.weight is not finite",
    ),
    "infinite-mean": (
        lambda s: s["first_conv.bn.running_mean"].fill_(torch.inf),
        "first_conv.bn.running_mean is not finite",
    ),
    "negative-variance": (
        lambda s: s["first_conv.bn.running_var"][0].fill_(-1.0),
        "first_conv.bn.running_var has a negative variance",
    ),
    "integers": (
        lambda s: s.update({"classifier.linear.bias": torch.zeros(CLASSES, dtype=torch.int8)}),
        "classifier.linear.bias is torch.int8",
    ),
    "one-wrong-shape": (
        lambda s: s.update({"first_conv.conv.weight": torch.zeros(16, 3, 3, 3)}),
        "first_conv.conv.weight has shape (16, 3, 3, 3), not (24, 3, 3, 3)",
    ),
    "old-and-new-name": (
        lambda s: s.update(
            {
                "blocks.5.mobile_inverted_conv.point_linear.conv.conv.weight": s[
                    "blocks.5.conv.point_linear.conv.conv.weight"
                ]
            }
        ),
        "blocks.5.mobile_inverted_conv",
    ),
    "no-ofa": (
        lambda s: (s.clear(), s.update({"conv1.weight": torch.zeros(1)})),
        "unexpected: conv1.weight",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_refused_with_what_is_wrong(case, state, tmp_path):
    change, problem = WRONG[case]
    change(state)
    file = tmp_path / "wrong.pth"
    torch.save({"state_dict": state}, file)
    with pytest.raises(CheckpointError) as refused:
        import_checkpoint(file, tmp_path / "out", "ofa")

    assert any(problem in line for line in refused.value.problems), refused.value
    assert str(file) in str(refused.value) or case == "empty"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width_mult": 1.0}, "it is ofa_mobilenetv3 of width 1.2 with 10 classes, and this one"),
        ({"num_classes": 1000}, "classifier.linear.weight has shape (10, 1536), not (1000, 1536)"),
        ({"supernet": "ofa_resnet50"}, "it is ofa_mobilenetv3 of width 1.2 with 10 classes, and"),
        ({"stage_widths": [8, 8, 8, 8, 8]}, "has shape"),
    ],
    ids=["width", "classes", "family", "definition"],
)
def test_what_the_caller_says_must_fit_the_file(arguments, message, file, tmp_path):
    with pytest.raises(CheckpointError) as refused:
        import_checkpoint(file, tmp_path / "out", "ofa", **arguments)

    assert message in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_a_refused_file_leaves_the_net_as_it_was(state):
    net = create_supernet("ofa_mobilenetv3", num_classes=CLASSES, width_mult=1.2)
    before = [p.clone() for p in net.parameters()]
    state["classifier.linear.bias"][0] = torch.nan
    with pytest.raises(CheckpointError, match="not finite"):
        net.load_ofa_state_dict(state)

    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    assert net.statistics.shared is None


@pytest.mark.parametrize("keep", [0, 4, 1000, -1000])
@pytest.mark.parametrize("form", ["wrapped", "before-zip"])
def test_a_file_that_is_cut_off_is_refused(form, keep, state, file, tmp_path):
    SAVED[form](state, file)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="no readable checkpoint"):
        import_checkpoint(file, tmp_path / "out", "ofa")


@pytest.mark.parametrize("inside", [False, True], ids=["alone", "in a training state"])
def test_a_whole_model_is_refused_with_what_to_write_instead(inside, tmp_path):
    from torchvision.models import resnet18

    model, file = resnet18(num_classes=2), tmp_path / "model.pth"
    torch.save({"model": model, "epoch": 3} if inside else model, file)
    with pytest.raises(CheckpointError) as refused:
        import_checkpoint(file, tmp_path / "out", "torchvision", "elastic", model="resnet18")

    assert "holds Python objects (torchvision.models.resnet.BasicBlock" in str(refused.value)
    assert "torch.save(model.state_dict(), FILE)" in str(refused.value)


def test_a_file_may_not_run_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("owned",))

    file = tmp_path / "evil.pth"
    file.write_bytes(pickle.dumps({"state_dict": Evil()}, protocol=2))
    with pytest.raises(CheckpointError, match="no readable checkpoint"):
        import_checkpoint(file, tmp_path / "out", "ofa")


@pytest.mark.parametrize(
    ("kind", "width", "found"),
    [
        ("mobilenetv3-w1.0", 1.0, "ofa_mobilenetv3 of width 1 with 10 classes"),
        ("mobilenetv3-w1.2", 1.2, "ofa_mobilenetv3 of width 1.2 with 10 classes"),
        ("mobilenetv3-w1.0", 0.75, "ofa_mobilenetv3 of width 0.75 with 10 classes"),
        ("mobilenetv3-w1.0", 1.6, "ofa_mobilenetv3 of width 1.6 with 10 classes"),
        ("resnet50", 1.0, "ofa_resnet50 of width 1 with 10 classes"),
    ],
)
def test_shapes_tell_what_a_file_is_of(kind, width, found, monkeypatch):
    """Dynamic or static, under new or old names."""
    monkeypatch.setitem(OPTIONS[kind], "width_mult", width)
    with torch.device("meta"):
        net = blank_net(kind, CLASSES)
        static = net.get_active_subnet(preserve_weight=False)
    for state in (net.state_dict(), static.state_dict(), legacy(net.state_dict())):
        shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
        assert str(recognise(shapes)) == found


def test_shapes_of_no_multiplier_are_called_so():
    shapes = {"first_conv.conv.weight": (17, 3, 3, 3)}

    assert str(recognise(shapes)) == "ofa_mobilenetv3 of unusual width"
    assert recognise({"conv1.weight": (64, 3, 7, 7)}) is None


def test_a_specialised_net_is_no_supernet(theirs, tmp_path):
    theirs.set_active_subnet(ks=3, e=3, d=2)
    torch.save({"state_dict": theirs.get_active_subnet().state_dict()}, tmp_path / "init")
    with pytest.raises(CheckpointError, match="holds a static network") as refused:
        import_checkpoint(tmp_path / "init", tmp_path / "out", "ofa")

    shape = (
        "conv.inverted_bottleneck.conv.conv.weight has shape (96, 32, 1, 1), not (192, 32, 1, 1)"
    )
    assert f"blocks.2.{shape}" in refused.value.problems


def test_calibrated_work_is_not_overwritten(file, tmp_path):
    path = import_checkpoint(file, tmp_path, "ofa")
    assert import_checkpoint(file, tmp_path, "ofa") == path, "nothing is lost by doing it again"
    net = create_supernet("ofa_mobilenetv3", path)
    net.statistics[net.space.largest] = net.statistics.shared
    save(net, path)
    with pytest.raises(CheckpointError, match="1 of its subnets are calibrated"):
        import_checkpoint(file, tmp_path, "ofa")

    assert net.space.largest in create_supernet("ofa_mobilenetv3", path).statistics


def test_our_own_checkpoints_need_no_import(file, tmp_path):
    own = import_checkpoint(file, tmp_path / "out", "ofa")
    with pytest.raises(CheckpointError, match="already"):
        import_checkpoint(own, tmp_path / "again", "ofa")


def test_foreign_and_own_files_are_told_apart_by_content(state, file, tmp_path, theirs):
    """Not by the name: a foreign safetensors file is read, and ours under another name as well."""
    foreign = tmp_path / "foreign.safetensors"
    save_file(state, foreign, {"format": "pt"})
    net = create_supernet("ofa_mobilenetv3", foreign, CLASSES, width_mult=1.2)
    assert agrees(net, theirs)
    renamed = import_checkpoint(file, tmp_path / "out", "ofa").rename(tmp_path / "renamed.bin")
    assert agrees(create_supernet("ofa_mobilenetv3", renamed), theirs)


@pytest.mark.parametrize("name", ["x.safetensors", "x.pth"])
def test_a_foreign_file_that_does_not_fit_says_what_to_do(name, tmp_path):
    file = tmp_path / name
    write = save_file if name.endswith("safetensors") else torch.save
    write({"weight": torch.zeros(1)}, file)
    with pytest.raises(CheckpointError, match="superserve import") as refused:
        create_supernet("digits", file)

    assert "unexpected: weight" in refused.value.problems


def test_a_checkpoint_of_a_later_format_is_not_taken_for_a_foreign_one(file, tmp_path):
    own = import_checkpoint(file, tmp_path / "out", "ofa")
    metadata = {**read_metadata(own), "format": "superserve.supernet/99"}
    save_file(load_file(own), own, metadata)
    with pytest.raises(CheckpointError, match=r"no format superserve\.supernet/1"):
        create_supernet("ofa_mobilenetv3", own)


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


def test_a_thousand_classes_get_the_names_of_imagenet() -> None:
    # From the data set's own list (WordNet ids n01440764, n02123045 and n15075141).
    names = imagenet_labels()
    assert (names[0], names[281], names[999]) == ("tench", "tabby", "toilet tissue")


@pytest.mark.parametrize("text", ["cat\ndog\n\n", '["cat", "dog"]'])
def test_labels_come_from_a_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "labels").write_text(text)
    assert read_labels(tmp_path / "labels", 2) == ("cat", "dog")


def test_too_few_labels_are_refused(tmp_path: Path) -> None:
    (tmp_path / "labels").write_text("cat\n")
    with pytest.raises(CheckpointError, match="names 1 classes; the checkpoint has 2"):
        read_labels(tmp_path / "labels", 2)
