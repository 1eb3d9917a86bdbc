"""A latency profile says what it was measured on, and is refused anywhere else."""

import json
from dataclasses import replace

import pytest

from superserve import profile_store
from superserve.errors import ConfigError
from superserve.messages import ModelInfo, Preprocessing
from superserve.profile_store import Latency, LatencyProfile, device_name, profile_path, versions

MODEL = ModelInfo(
    name="net",
    labels=("a", "b"),
    preprocessing=Preprocessing(8, 8, 1, (0.5,), (0.5,)),
    subnets={"s": "small", "m": "middle", "l": "large"},
    weights_hash="abc",
    resident_bytes=100,
    accuracies={"s": 70.0, "m": 72.0, "l": 80.0},
)


def cell(milliseconds: float) -> Latency:
    return Latency(p50=milliseconds / 2000, p99=milliseconds / 1000, runs=10)


def profile(**rows: dict[int, float]) -> LatencyProfile:
    rows = rows or {"s": {1: 2, 4: 3}, "m": {1: 5, 4: 9}, "l": {1: 10, 4: 20}}
    return LatencyProfile(
        model=MODEL,
        device_type="cpu",
        device_name=device_name("cpu"),
        threads=1,
        versions=versions(),
        quick=False,
        created="2026-01-01T00:00:00Z",
        latencies={k: {b: cell(ms) for b, ms in row.items()} for k, row in rows.items()},
    )


def test_round_trip(tmp_path):
    file = tmp_path / "deep" / "profile.json"
    profile().write(file)

    assert LatencyProfile.read(file) == profile()


def test_a_profile_from_before_memory_was_told_is_still_read(tmp_path):
    file = tmp_path / "profile.json"
    profile().write(file)
    document = json.loads(file.read_text())
    del document["model"]["memory"]
    file.write_text(json.dumps(document))

    assert LatencyProfile.read(file) == profile()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "other"}', "\x00"])
def test_a_file_that_is_none_is_refused_by_name(tmp_path, text):
    file = tmp_path / "p.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"p\.json is no latency profile"):
        LatencyProfile.read(file)


def test_the_same_weights_on_the_same_device_fit():
    assert profile().why_not(MODEL, "cpu", 1) is None


def test_recalibration_does_not_make_it_stale():
    """Statistics and accuracies change no latency."""
    assert profile().why_not(replace(MODEL, accuracies={}), "cpu", 1) is None


@pytest.mark.parametrize(
    ("model", "device", "threads", "reason"),
    [
        (replace(MODEL, weights_hash="other"), "cpu", 1, "other weights"),
        (replace(MODEL, name="else"), "cpu", 1, "other weights"),
        (replace(MODEL, kernels="torch"), "cpu", 1, "other kernels"),
        (MODEL, "NVIDIA H200", 1, "another device"),
        (MODEL, "cpu", 2, "1 threads per worker, not 2"),
        (replace(MODEL, subnets={**MODEL.subnets, "x": "extra"}), "cpu", 1, "lacks the subnets x"),
    ],
)
def test_what_does_not_fit_is_told(model, device, threads, reason):
    assert reason in profile().why_not(model, device, threads)


def test_other_software_makes_it_stale():
    stale = replace(profile(), versions={**versions(), "torch": "1.0"})

    assert "torch 1.0" in stale.why_not(MODEL, "cpu", 1)


def test_policies_plan_with_p99_plus_the_margin():
    table = profile().join(MODEL.accuracies, 0.001)

    assert table.latency("l", 4) == pytest.approx(0.021)
    assert table.accuracy("m") == 72.0


def test_a_larger_batch_is_never_planned_to_be_quicker():
    table = profile(s={1: 4, 4: 3}, m={1: 5, 4: 9}, l={1: 10, 4: 20}).join(MODEL.accuracies, 0.0)

    assert table.latency("s", 4) == pytest.approx(0.004)


def test_beaten_subnets_are_left_out():
    table = profile(s={1: 2, 4: 3}, m={1: 11, 4: 21}, l={1: 10, 4: 20}).join(MODEL.accuracies, 0.0)

    assert table.subnets == ("s", "l")


def test_files_of_other_weights_and_threads_do_not_collide(monkeypatch, tmp_path):
    monkeypatch.setenv("SUPERSERVE_CACHE", str(tmp_path))
    paths = {
        profile_path(MODEL, "cpu", 1),
        profile_path(MODEL, "cpu", 2),
        profile_path(MODEL, "NVIDIA H200", 1),
        profile_path(replace(MODEL, weights_hash="other"), "cpu", 1),
    }

    assert len(paths) == 4
    assert all(path.is_relative_to(tmp_path) for path in paths)


def test_the_cache_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("SUPERSERVE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    assert profile_store.cache_folder() == tmp_path / "superserve"
