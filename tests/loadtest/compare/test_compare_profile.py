"""The profile of a study: the paper's, or what was measured joined with what is known of it."""

from dataclasses import replace

import pytest

from loadtest.compare.study import load_profile
from loadtest.paper_profile import PAPER_PROFILE
from superserve.errors import ConfigError
from superserve.messages import ModelInfo, Preprocessing
from superserve.profile_store import Latency, LatencyProfile

MEASURED = LatencyProfile(
    model=ModelInfo(
        name="net",
        labels=("a", "b"),
        preprocessing=Preprocessing(8, 8, 1, (0.5,), (0.5,)),
        subnets={"s": "small", "l": "large"},
        weights_hash="abc",
        resident_bytes=100,
        accuracies={"s": 70.0, "l": 80.0, "unmeasured": 90.0},
    ),
    device_type="cpu",
    device_name="some CPU",
    threads=1,
    versions={},
    quick=False,
    created="2026-01-01T00:00:00Z",
    latencies={
        "s": {1: Latency(0.001, 0.002, 10)},
        "l": {1: Latency(0.003, 0.004, 10)},
        "unknown": {1: Latency(0.003, 0.004, 10)},
    },
)


def test_the_papers_profile_needs_no_file():
    assert load_profile("paper") is PAPER_PROFILE


def test_subnets_with_latency_and_accuracy_are_planned_at_their_99th_percentile(tmp_path):
    path = tmp_path / "profile.json"
    MEASURED.write(path)
    profile = load_profile(str(path))

    assert profile.subnets == ("s", "l")
    assert profile.accuracies == (70.0, 80.0)
    assert profile.latencies == ((0.002,), (0.004,))


def test_latencies_without_accuracies_are_refused(tmp_path):
    path = tmp_path / "profile.json"
    replace(MEASURED, model=replace(MEASURED.model, accuracies={})).write(path)
    with pytest.raises(ConfigError, match="knows no accuracies"):
        load_profile(str(path))
