"""The experiment on a GPU: a model made on the spot, a study, and what is missing told."""

import pytest

from benchmarks.gpu import serving
from benchmarks.gpu.serving import EVIDENCE, STUDY, dry, experiment_on, ladder, make_model
from loadtest.experiment.definition_file import read_experiment
from supernets import create_supernet
from supernets.accuracy_card import AccuracyCard, card_path
from supernets.cost import macs


def test_the_ladder_climbs_from_the_smallest_to_the_largest():
    net = create_supernet("digits", pretrained=False)
    rungs = ladder(net)
    costs = [macs(net, rung) for rung in rungs]

    assert (rungs[0], rungs[-1]) == (net.space.smallest, net.space.largest)
    assert costs == sorted(set(costs))


def test_the_model_is_calibrated_for_its_ladder_and_its_card_says_what_is_assumed(tmp_path):
    path = make_model("digits", tmp_path, 0)
    net, card = create_supernet("digits", path), AccuracyCard.read(card_path(path))

    assert {entry.id for entry in card.subnets} == {rung.id for rung in ladder(net)}
    assert all(rung in net.statistics for rung in ladder(net))
    assert "assumed" in card.notes
    accuracies = [entry.accuracy for entry in card.subnets]
    assert accuracies == sorted(accuracies)


def test_the_study_runs_on_the_device_that_is_asked_for(tmp_path):
    found = experiment_on("cuda:1", tmp_path / "model", "ofa_resnet50")

    assert (found.server.devices, found.server.supernet) == (("cuda:1",), "ofa_resnet50")
    assert found.server.settings["checkpoint"] == str(tmp_path / "model")
    assert found.throughput
    assert found.unit == "largest"


def test_a_dry_run_is_short():
    found = dry(read_experiment(STUDY))

    assert len(list(found.cells())) == len(found.study.policies) * len(found.study.workloads)
    assert {each.spec["seconds"] for each in found.study.workloads} == {2.0}


def test_what_is_not_installed_is_told_with_what_to_do(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["serving"])
    monkeypatch.setattr(serving, "find_spec", lambda name: None if name == "locust" else name)

    with pytest.raises(SystemExit, match="2"):
        serving.main()
    assert "not installed: locust" in (out := capsys.readouterr().out)
    assert "make gpu-wheels" in out


def test_without_a_gpu_it_says_so_and_writes_no_evidence(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("sys.argv", ["serving", "--output", str(tmp_path)])
    monkeypatch.setattr(serving.torch.cuda, "is_available", lambda: False)

    with pytest.raises(SystemExit, match="2"):
        serving.main()
    assert "no CUDA device" in capsys.readouterr().out
    assert not (tmp_path / EVIDENCE).exists()
