"""What cannot become a checkpoint of ours whole is refused with the list of what is wrong."""

import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from supernets import CheckpointError, create_supernet, save
from supernets.fingerprint import read_metadata
from supernets.importing import import_checkpoint
from tests.supernets.importing_helpers import (  # noqa: F401 - fixtures
    CLASSES,
    SAVED,
    their_file,
    their_network,
    their_state,
)

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
