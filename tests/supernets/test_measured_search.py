"""Searching on real images: answers are those of evaluation, remembered, and costs are medians."""

import json
import random

import numpy as np
import pytest
import torch

from supernets import calibrate
from supernets.evaluation import measure, standard_error
from supernets.ofa_mobilenetv3 import OFAMobileNetV3
from supernets.searching.latency import measure_latency
from supernets.searching.measured_search import Examiner, Record, front_document, remembered
from supernets.searching.search import Point
from tests.supernets.helpers import images, small_net


def data(net, count=30):
    generator = torch.Generator().manual_seed(5)
    return images(net, count, seed=5), torch.randint(0, 7, (count,), generator=generator)


def some(net, count=3):
    rng = random.Random(0)
    return [net.space.smallest, *(net.space.sample(rng) for _ in range(count - 1))]


def examiner(net, record, **options):
    x, labels = data(net)
    return Examiner(net, x, labels, [images(net, 8, seed=1)], record, batch_size=7, **options)


def test_answers_are_those_of_a_calibrated_evaluation(tmp_path):
    net = small_net(1)
    subnets = some(net)
    examine = examiner(net, Record(tmp_path / "r.json", "a", "c"))
    first, second = examine(subnets, 0, 10), examine(subnets, 10, 30)
    reference = small_net(1)
    calibrate(reference, subnets, [images(net, 8, seed=1)])
    for subnet in subnets:
        expected = measure(reference, [subnet], [data(net)])[1][subnet]

        assert 0 < expected.mean() < 1
        assert np.array_equal(np.concatenate([first[subnet], second[subnet]]), expected)


def test_what_was_measured_is_not_measured_again(tmp_path):
    file, net = tmp_path / "r.json", small_net(1)
    subnets, shown = some(net), []
    before = examiner(net, Record(file, "a", "c"))(subnets, 0, 10)
    fresh = small_net(1)
    fresh.run = None  # so that a forward pass would fail
    again = examiner(fresh, Record(file, "a", "c"), progress=shown.append)(subnets, 0, 10)

    assert all(np.array_equal(again[s], before[s]) for s in subnets)
    assert sum(shown) == 30
    with pytest.raises(TypeError):
        examiner(fresh, Record(file, "a", "c"))(subnets, 10, 11)


def test_answers_for_other_data_or_other_statistics_are_forgotten(tmp_path):
    file, net = tmp_path / "r.json", small_net(1)
    (subnet,) = some(net, 1)
    kept = examiner(net, Record(file, "a", "c"))([subnet], 0, 20)[subnet]

    assert len(Record(file, "a", "c").hits(subnet)) == 20
    assert len(Record(file, "other images", "c").hits(subnet)) == 0
    # Somebody calibrates the checkpoint on other images: what was answered before is void.
    calibrate(net, [subnet], [3.0 * images(net, 8, seed=2) + 1.0])
    renewed = examiner(net, Record(file, "a", "c"))([subnet], 0, 20)[subnet]
    assert not np.array_equal(renewed, kept)


def test_a_record_that_is_cut_off_counts_as_none(tmp_path):
    file = tmp_path / "r.json"
    subnet = small_net(1).space.smallest
    Record(file, "a", "c").add_costs({subnet: 1.5})
    text = file.read_text()

    assert Record(file, "a", "c").cost(subnet) == 1.5
    assert Record(file, "a", "another machine").cost(subnet) is None
    file.write_text(text[: len(text) // 2])
    assert Record(file, "a", "c").cost(subnet) is None


def test_costs_are_asked_for_once(tmp_path):
    a, b, c = some(small_net(1), 3)
    asked = []

    def price(subnets):
        asked.append(list(subnets))
        return [float(len(s.id) + len(asked)) for s in subnets]

    ask = remembered(price, Record(tmp_path / "r.json", "a", "c"))
    first = ask([a, b])

    assert ask([b, c, a]) == [first[1], ask([c])[0], first[0]]
    assert asked == [[a, b], [c]]


def test_copies_of_one_image_do_not_make_an_accuracy_surer(tmp_path):
    """Ten images, three copies each: the error is that of ten, not of thirty."""
    net = small_net(1)
    clusters = np.arange(30) % 10
    examine = examiner(net, Record(tmp_path / "r.json", "a", "c"), clusters=clusters)
    plain = examiner(net, Record(tmp_path / "r.json", "a", "c"))
    answers = np.tile(np.arange(10) < 6, 3)

    assert examine.error(answers) == pytest.approx(standard_error(answers[:10]))
    assert plain.error(answers) < 0.6 * examine.error(answers)
    worse = np.tile(np.arange(10) < 3, 3)
    assert examine.distance(answers, worse) < 0.6 * plain.distance(answers, worse)


def test_latency_is_the_median_over_rounds_that_visit_all_subnets(monkeypatch):
    """A round in which the machine was busy shifts no median, nor does the slow first one."""
    net = small_net(2)
    subnets = [net.space.smallest, net.space.largest, net.space.subnet(ks=5, e=3, d=2)]
    seconds = dict(zip(subnets, (0.001, 0.005, 0.002), strict=True))
    now, calls = [0.0], []

    class Resident:
        def __call__(self, x, subnet):
            assert x.shape == (2, 1, 16, 16)
            assert torch.get_num_threads() == 1
            busy = 10.0 if len(calls) // 3 in {0, 4} else 1.0
            calls.append(subnet)
            now[0] += busy * seconds[subnet]

    monkeypatch.setattr(OFAMobileNetV3, "resident", lambda *_: Resident())
    threads = torch.get_num_threads()
    found = measure_latency(net, subnets, batch=2, rounds=9, clock=lambda: now[0])

    assert found == pytest.approx([0.001, 0.005, 0.002])
    rounds = [calls[i : i + 3] for i in range(0, len(calls), 3)]
    assert len(rounds) == 10
    assert all(set(visited) == set(subnets) for visited in rounds)
    assert len({tuple(visited) for visited in rounds}) > 1, "an order of its own in every round"
    assert torch.get_num_threads() == threads


def test_timing_needs_no_statistics_and_leaves_none():
    net = small_net(3).float()
    found = measure_latency(net, [net.space.smallest, net.space.largest], rounds=1)

    assert all(seconds > 0 for seconds in found)
    assert len(net.statistics) == 0


def test_the_front_is_written_with_all_that_is_known():
    subnet = small_net(1).space.smallest
    point = Point(subnet, 0.00123, 71.23456, 1.23456, 800)
    (entry,) = json.loads(json.dumps(front_document([point], "seconds", "measured")))

    assert small_net(1).space.from_json(entry["subnet"]) == subnet
    assert entry["accuracy"] == 71.2346
    assert (entry["cost"], entry["cost_unit"], entry["source"]) == (0.00123, "seconds", "measured")
    assert (entry["id"], entry["images"], entry["standard_error"]) == (subnet.id, 800, 1.2346)
