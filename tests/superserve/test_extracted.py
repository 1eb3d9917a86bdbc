"""A worker that loads separate models: right answers, few in memory, and honest about loading."""

import logging
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from loadtest.simulation_workers import Switching
from supernets import calibrate, create_supernet, evaluate, extract, save
from superserve.engine import Engine
from superserve.engine_types import EngineResult, EngineSpec, build_engine
from superserve.errors import ConfigError
from superserve.extracted import ExtractedEngine
from superserve.messages import ModelInfo
from superserve.model_files import ModelFileError, ModelFiles
from superserve.profile_store import LatencyProfile, device_name, now_utc, profile_path, versions
from superserve.profiler import measure
from tests.supernets.helpers import calibrated, images, small_net
from tests.superserve.fake_engine import SHAPE, model
from tests.superserve.test_families import FAMILIES

NAME = "ofa_mobilenetv3"
PIXELS = np.random.default_rng(0).integers(0, 256, (16, 16, 16, 1), np.uint8)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A saved supernet with its card: (file, ids of its subnets)."""
    net = small_net(3)
    subnets = list(dict.fromkeys(calibrated(net, 3)))
    net.float()
    file = tmp_path_factory.mktemp("extracted") / "net.safetensors"
    save(net, file)
    batches = [(images(net, 20, seed=5).float(), torch.arange(20) % 7)]
    evaluate(file, NAME, subnets, batches, "noise")
    return file, [subnet.id for subnet in subnets]


def spec(file, folder="", **changes) -> EngineSpec:
    fields = {"worker": "extracted", "checkpoint": str(file), "model_folder": str(folder)}
    return replace(EngineSpec(NAME), **fields | changes)


def answer(engine, subnet, count=1, top_k=7) -> EngineResult:
    return engine.run(NAME, subnet, PIXELS[:count], top_k)


def assert_same(one: EngineResult, other: EngineResult) -> None:
    assert np.array_equal(one.indices, other.indices)
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)


@pytest.mark.parametrize("count", [1, 3, 16])
def test_answers_are_those_of_the_resident_engine(trained, tmp_path, count):
    file, subnets = trained
    resident = Engine(EngineSpec(NAME, checkpoint=str(file)))
    engine = ExtractedEngine(spec(file, tmp_path))
    for subnet in [*subnets, *reversed(subnets)]:
        assert_same(answer(engine, subnet, count), answer(resident, subnet, count))


def test_the_kind_of_worker_names_the_engine(trained, tmp_path):
    file, _ = trained
    assert type(build_engine(spec(file, tmp_path))) is ExtractedEngine
    assert type(build_engine(spec(file, worker="resident"))) is Engine


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 10])
def test_what_is_held_and_loaded_is_what_the_simulator_says(trained, tmp_path, limit):
    """Two accounts of the same rule, written independently: the least recently used goes."""
    file, subnets = trained
    engine = ExtractedEngine(spec(file, tmp_path, resident_models=limit))
    switching = Switching(loading=dict.fromkeys(subnets, 1.0), resident=max(1, limit))
    recent: list[str] = []
    for subnet in random.Random(limit).choices(subnets, k=60):
        simulated = switching.change(recent, subnet)
        result = answer(engine, subnet)

        assert (result.loading > 0) == (simulated > 0)
        assert engine.held == tuple(recent)


def test_after_the_warm_up_nothing_is_held_as_in_a_simulated_worker(trained, tmp_path):
    engine = ExtractedEngine(spec(trained[0], tmp_path, resident_models=9))
    engine.warm_up()
    assert engine.held == ()
    assert answer(engine, trained[1][0]).loading > 0


def test_loading_is_told_apart_from_computing(trained, tmp_path, monkeypatch):
    """By a clock that advances by one second whenever it is read: every reading has its place."""
    engine = ExtractedEngine(spec(trained[0], tmp_path))
    clock = iter(range(100))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
    first, again = answer(engine, trained[1][0]), answer(engine, trained[1][0])

    assert (first.loading, first.seconds) == (1.0, 1.0)
    assert (again.loading, again.seconds) == (0.0, 1.0)


def test_at_most_the_memory_that_it_tells_is_taken(trained, tmp_path):
    file, subnets = trained
    net = create_supernet(NAME, checkpoint=file)
    state = {s: extract(net, net.space.subnet(**config(file, s))).state_dict() for s in subnets}
    sizes = {s: sum(value.nbytes for value in values.values()) for s, values in state.items()}
    for limit in (1, 2):
        (told,) = ExtractedEngine(spec(file, tmp_path, resident_models=limit)).models
        assert told.resident_bytes == sum(sorted(sizes.values())[-limit:])
        assert told.memory.norms_bytes > 0
        assert told.memory.calibrated_subnets == limit


def config(file, subnet):
    from supernets.accuracy_card import AccuracyCard, card_path

    return next(e.config for e in AccuracyCard.read(card_path(file)).subnets if e.id == subnet)


def test_a_dropped_model_keeps_no_values(trained, tmp_path):
    engine = ExtractedEngine(spec(trained[0], tmp_path, resident_models=2))
    for subnet in trained[1]:
        answer(engine, subnet)
    modules = {s.id: m.module for s, m in engine._files._models.items()}
    loaded = [s for s, m in modules.items() if any(not p.is_meta for p in m.state_dict().values())]

    assert sorted(loaded) == sorted(engine.held) == sorted(trained[1][-2:])


def test_a_loaded_module_is_the_one_that_was_written_with_its_weights_channels_last(tmp_path):
    torch.manual_seed(0)
    subnet = small_net().space.smallest
    plain = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Flatten(), torch.nn.Linear(8, 5)
    ).eval()
    x = torch.randn(2, 3, 3, 3)
    expected = plain(x)
    files = ModelFiles(tmp_path, torch.device("cpu"))
    files.add(subnet, plain)
    loaded = files.load(subnet)

    torch.testing.assert_close(loaded(x), expected)
    assert loaded[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert not loaded[0].weight.is_contiguous()
    assert loaded[1].num_batches_tracked.dtype is torch.int64


@pytest.mark.parametrize("family", FAMILIES)
def test_subnets_of_every_family_come_out_of_their_files_as_they_went_in(family, tmp_path):
    torch.manual_seed(0)
    net = create_supernet(family, num_classes=5, **FAMILIES[family])
    step, subnet = net.preprocessing, net.space.smallest
    x = torch.randn(2, step.channels, step.height, step.width)
    calibrate(net, [subnet], [x])
    files = ModelFiles(tmp_path, torch.device("cpu"))
    files.add(subnet, extract(net, subnet))
    with torch.no_grad():
        torch.testing.assert_close(files.load(subnet)(x), extract(net, subnet)(x))


def file_of(folder, subnet):
    (found,) = folder.rglob(f"{subnet}.safetensors")
    return found


BROKEN = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(bytes(range(256)) * 40),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-4]),
    "too long": lambda path: path.write_bytes(path.read_bytes() + b"\0\0\0\0"),
    "another": lambda path: save_file({"weight": torch.zeros(3)}, path),
    "renamed": lambda path: path.write_bytes(path.read_bytes().replace(b"F32", b"I32", 1)),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("how", [how for how in BROKEN if how != "a folder"])
def test_a_broken_file_is_named_and_written_again_and_nothing_is_lost(
    trained, tmp_path, caplog, how
):
    file, subnets = trained
    engine = ExtractedEngine(spec(file, tmp_path))
    right = answer(engine, subnets[0])
    whole = file_of(tmp_path, subnets[0]).read_bytes()
    answer(engine, subnets[1])
    BROKEN[how](file_of(tmp_path, subnets[0]))
    with caplog.at_level(logging.ERROR):
        again = answer(engine, subnets[0])

    assert_same(again, right)
    assert again.loading > 0
    assert f"{subnets[0]}.safetensors" in caplog.text
    assert file_of(tmp_path, subnets[0]).read_bytes() == whole


def test_a_worker_that_starts_again_tries_every_file_before_it_is_ready(trained, tmp_path):
    file, subnets = trained
    ExtractedEngine(spec(file, tmp_path))
    whole = {subnet: file_of(tmp_path, subnet).read_bytes() for subnet in subnets}
    BROKEN["cut off"](file_of(tmp_path, subnets[1]))
    ExtractedEngine(spec(file, tmp_path)).warm_up()

    assert {subnet: file_of(tmp_path, subnet).read_bytes() for subnet in subnets} == whole


def test_a_file_that_cannot_be_written_again_fails_its_batch_alone(trained, tmp_path):
    file, subnets = trained
    engine = ExtractedEngine(spec(file, tmp_path))
    right = [answer(engine, subnet) for subnet in subnets]
    BROKEN["a folder"](path := file_of(tmp_path, subnets[0]))
    for _ in range(2):
        with pytest.raises(ModelFileError, match=rf"cannot write the model .*{subnets[0]}"):
            answer(engine, subnets[0])
        assert_same(answer(engine, subnets[1]), right[1])
    path.rmdir()

    assert_same(answer(engine, subnets[0]), right[0])


@pytest.mark.parametrize("change", ["gone", "another"])
def test_models_are_never_made_of_another_checkpoint(trained, tmp_path, change):
    copy = tmp_path / "net.safetensors"
    copy.write_bytes(trained[0].read_bytes())
    for card in trained[0].parent.glob("*.json"):
        (tmp_path / card.name).write_bytes(card.read_bytes())
    engine = ExtractedEngine(spec(copy, tmp_path / "models"))
    file_of(tmp_path / "models", trained[1][0]).unlink()
    if change == "gone":
        copy.unlink()
    else:
        save(small_net(4).float(), copy)
    with pytest.raises(ModelFileError, match=r"cannot read the checkpoint|is another file by now"):
        answer(engine, trained[1][0])


def test_workers_share_their_files(trained, tmp_path):
    file, subnets = trained
    first = ExtractedEngine(spec(file, tmp_path))
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    second = ExtractedEngine(spec(file, tmp_path))

    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")} == made
    assert len(made) == len(subnets)
    assert_same(answer(first, subnets[2]), answer(second, subnets[2]))


def test_an_engine_without_a_folder_makes_its_own_and_takes_it_away(trained, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    engine = ExtractedEngine(spec(trained[0]))
    assert list(tmp_path.rglob("*.safetensors"))
    del engine
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(trained, tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(ConfigError, match=r"cannot write the model .*taken"):
        ExtractedEngine(spec(trained[0], tmp_path / "taken"))


def test_an_unknown_model_or_subnet_is_a_key_error(trained, tmp_path):
    engine = ExtractedEngine(spec(trained[0], tmp_path))
    for name, subnet in (("other", trained[1][0]), (NAME, "nothing")):
        with pytest.raises(KeyError):
            engine.run(name, subnet, PIXELS[:1], 1)


def profile_of(info: ModelInfo) -> LatencyProfile:
    return LatencyProfile(info, "cpu", device_name("cpu"), 1, versions(), True, now_utc(), {})


def test_profiles_of_resident_and_extracted_subnets_are_not_mixed_up(trained, tmp_path):
    (resident,) = Engine(EngineSpec(NAME, checkpoint=str(trained[0]))).models
    (extracted,) = ExtractedEngine(spec(trained[0], tmp_path)).models

    assert resident.weights_hash == extracted.weights_hash
    assert "other kernels" in str(profile_of(resident).why_not(extracted, "cpu", 1))
    assert "other kernels" in str(profile_of(extracted).why_not(resident, "cpu", 1))
    assert profile_path(resident, "cpu", 1) != profile_path(extracted, "cpu", 1)


class SlowToLoad:
    """Computes for one second and loads for a hundred, on a clock of its own."""

    device_type = "fake"
    models = (model(),)

    def __init__(self) -> None:
        self.now, self.active = 0.0, ""

    def run(self, model: str, subnet: str, pixels: np.ndarray, top_k: int) -> EngineResult:
        assert pixels.shape[1:] == SHAPE
        loading = 100.0 if subnet != self.active else 0.0
        self.now, self.active = self.now + 1.0 + loading, subnet
        empty = np.zeros((len(pixels), top_k))
        return EngineResult(empty.astype(np.int32), empty.astype(np.float32), 1.0, loading)


def test_the_profile_is_of_models_that_are_there(monkeypatch):
    engine = SlowToLoad()
    monkeypatch.setattr("superserve.profiler.time.perf_counter", lambda: engine.now)
    measured = measure(engine, (1, 4), seconds=10.0)

    assert {cell.p99 for row in measured.values() for cell in row.values()} == {1.0}
