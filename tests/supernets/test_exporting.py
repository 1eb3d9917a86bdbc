"""Exported subnets load without this project, for any batch size, and compute the same."""

import importlib.util
import json
from dataclasses import replace
from functools import cache

import onnx
import onnxruntime
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import supernets.exporting as module
from supernets import MissingStatistics, Preprocessing, SearchSpace, Supernet, extract
from supernets.errors import ExportError
from supernets.exporting import export
from supernets.freezing import NotFreezable
from supernets.space import Dimension
from tests.supernets.helpers import SMALL, calibrated, images, relative, small_net

TINY = replace(
    SMALL,
    stage_widths=(16, 24),
    strides=(1, 2),
    activations=("relu", "h_swish"),
    squeezes=(True, False),
    depths=(1, 2),
)


@pytest.fixture(scope="module")
def net():
    net = small_net(1, TINY)
    calibrated(net, 1)
    return net.float()


@pytest.fixture(scope="module")
def subnet(net):
    return list(net.statistics)[2]


@pytest.fixture(scope="module")
def once(net, subnet, tmp_path_factory):
    """The file with a suffix, written when it is first asked for: ONNX takes seconds."""

    @cache
    def write(suffix):
        return export(net, subnet, tmp_path_factory.mktemp("exported") / f"net.{suffix}")

    return write


@pytest.fixture(scope="module", params=["pt2", "onnx", "safetensors"])
def exported(once, request):
    return once(request.param)


def loaded(file, net, subnet):
    """Another program's way to run the file."""
    if file.suffix == ".onnx":
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        return lambda x: torch.from_numpy(session.run(None, {"images": x.numpy()})[0])
    if file.suffix == ".safetensors":
        plain = extract(net, subnet)
        for tensor in plain.state_dict().values():
            tensor.fill_(7)
        plain.load_state_dict(load_file(file))
        return plain
    return torch.export.load(file).module()


def metadata(file):
    if file.suffix == ".onnx":
        return {prop.key: prop.value for prop in onnx.load(file).metadata_props}
    if file.suffix == ".safetensors":
        with safe_open(file, "pt") as opened:
            return opened.metadata()
    extra = {"superserve.json": ""}
    torch.export.load(file, extra_files=extra)
    return json.loads(extra["superserve.json"])


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_the_file_computes_what_the_subnet_computes(exported, net, subnet, batch):
    run = loaded(exported, net, subnet)
    x = images(net, batch, seed=3).float()
    with torch.no_grad():
        expected = net(x, subnet)

        assert relative(run(x), expected) < 1e-5
        assert relative(net(x, net.space.largest), expected) > 0.05  # a difference would show


def test_labels_preprocessing_and_settings_go_along(exported, net, subnet):
    found = metadata(exported)

    assert json.loads(found["labels"]) == list(net.labels)
    assert Preprocessing.from_json(json.loads(found["preprocessing"])) == net.preprocessing
    assert net.space.from_json(json.loads(found["subnet"])) == subnet
    assert found["supernet"] == "ofa_mobilenetv3"


def test_everybody_may_read_the_file_and_nothing_else_is_left(exported):
    assert exported.stat().st_mode & 0o777 == 0o644
    assert [file.name for file in exported.parent.iterdir()] == [exported.name]


def test_the_onnx_model_names_its_input_and_leaves_the_batch_open(once):
    (given,) = onnx.load(once("onnx")).graph.input

    assert given.name == "images"
    assert [d.dim_param or d.dim_value for d in given.type.tensor_type.shape.dim] == [
        "batch", 1, 16, 16,
    ]  # fmt: skip


def test_a_file_that_computes_something_else_is_not_kept(net, subnet, tmp_path, monkeypatch):
    file = tmp_path / "net.safetensors"
    file.write_bytes(b"the one before")
    write = module.save_file

    def wrong(state, path, described):
        name = next(n for n, t in state.items() if t.dim() == 4 and t.shape[2] == 1)
        write({**state, name: state[name].roll(1, 0)}, path, described)

    monkeypatch.setattr(module, "save_file", wrong)
    with pytest.raises(ExportError, match="does not compute what the subnet computes"):
        export(net, subnet, file)

    assert file.read_bytes() == b"the one before"
    assert [f.name for f in tmp_path.iterdir()] == [file.name]


def without(monkeypatch, *names):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in names else find(name)
    )


def test_without_the_onnx_packages_the_error_says_what_to_install(
    net, subnet, tmp_path, monkeypatch
):
    without(monkeypatch, "onnxscript")
    with pytest.raises(ExportError, match=r"needs onnxscript; pip install 'superserve\[onnx\]'"):
        export(net, subnet, tmp_path / "net.onnx")

    assert not list(tmp_path.iterdir())


def test_without_onnxruntime_the_model_is_still_checked_for_validity(
    net, subnet, tmp_path, monkeypatch
):
    without(monkeypatch, "onnxruntime")
    checked = []
    check = onnx.checker.check_model

    def noted(file, **options):
        checked.append(file)
        check(file, **options)

    monkeypatch.setattr(onnx.checker, "check_model", noted)
    export(net, subnet, tmp_path / "net.onnx")

    assert len(checked) == 1


def test_another_suffix_is_refused(net, subnet, tmp_path):
    with pytest.raises(ExportError, match=r"\.pt2, \.pt, \.onnx, \.safetensors"):
        export(net, subnet, tmp_path / "net.zip")


def test_a_subnet_that_is_not_calibrated_is_refused(net, tmp_path):
    stranger = net.space.subnet(ks=5, e=3, d=1)
    assert stranger not in net.statistics
    with pytest.raises(MissingStatistics, match=stranger.id):
        export(net, stranger, tmp_path / "net.safetensors")


class Closed(Supernet):
    """A family without an extracted form."""

    def __init__(self):
        space = SearchSpace("closed", [Dimension("i", 1, (1,))])
        super().__init__("closed", space, Preprocessing(2, 2, 1, (0,), (1,)), ["a"])

    def run(self, x, subnet, normalise):
        return x.mean((2, 3))

    def extract(self, subnet):
        raise NotImplementedError

    def definition(self):
        return {}


class Picky(Closed):
    """One whose forward looks at its values, which no exporter can follow."""

    def extract(self, subnet):
        class Plain(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = torch.nn.Parameter(torch.ones(1))

            def forward(self, x):
                return x * self.weight if x.sum().item() > 0 else x

        return Plain()


def test_what_cannot_be_exported_says_so(tmp_path):
    closed, picky = Closed(), Picky()
    with pytest.raises(ExportError, match="closed does not offer"):
        export(closed, closed.space.largest, tmp_path / "net.pt2")
    with pytest.raises(ExportError, match=r"torch\.export cannot follow"):
        export(picky, picky.space.largest, tmp_path / "net.pt2")

    assert not list(tmp_path.iterdir())


class Unfreezable(Closed):
    def extract(self, subnet):
        raise NotFreezable("widths must come from the subnet")


class Mistaken(Closed):
    def extract(self, subnet):
        return torch.nn.Linear(2, "three")


def test_a_forward_that_cannot_be_cut_is_refused_with_its_own_reason(tmp_path):
    net = Unfreezable()
    with pytest.raises(ExportError, match=r"^widths must come from the subnet$"):
        export(net, net.space.largest, tmp_path / "net.pt2")


def test_a_mistake_in_a_family_is_not_reported_as_something_it_does_not_offer(tmp_path):
    net = Mistaken()
    with pytest.raises(TypeError):
        export(net, net.space.largest, tmp_path / "net.pt2")
