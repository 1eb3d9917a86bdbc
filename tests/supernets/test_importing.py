"""Once-for-All's checkpoints become ours whole, in whatever form they were saved."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from supernets import CheckpointError, create_supernet
from supernets.data.labels import imagenet_labels, read_labels
from supernets.importing import import_checkpoint
from supernets.ofa.ofa_shapes import recognise
from tests.supernets.importing_helpers import (  # noqa: F401 - fixtures
    CLASSES,
    SAVED,
    agrees,
    their_file,
    their_network,
    their_state,
)
from tests.supernets.ofa_reference import OPTIONS, blank_net, legacy, their_net


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


def test_foreign_and_own_files_are_told_apart_by_content(state, file, tmp_path, theirs):
    """Not by the name: a foreign safetensors file is read, and ours under another name as well."""
    foreign = tmp_path / "foreign.safetensors"
    save_file(state, foreign, {"format": "pt"})
    net = create_supernet("ofa_mobilenetv3", foreign, CLASSES, width_mult=1.2)
    assert agrees(net, theirs)
    renamed = import_checkpoint(file, tmp_path / "out", "ofa").rename(tmp_path / "renamed.bin")
    assert agrees(create_supernet("ofa_mobilenetv3", renamed), theirs)


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
