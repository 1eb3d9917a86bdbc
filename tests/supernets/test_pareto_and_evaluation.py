"""Selecting subnets: the front, its thinning, standard errors, and accuracy cards."""

import json
from dataclasses import asdict, replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from supernets import MissingStatistics, calibrate, create_supernet, evaluate, extract, save
from supernets.accuracy_card import AccuracyCard, card_path
from supernets.evaluation import AT_ONCE, measure, paired_distance, standard_error
from supernets.searching.pareto import Candidate, distinguishable, pareto_front
from supernets.space import Dimension, SearchSpace
from tests.supernets.helpers import SMALL, images, small_net

SPACE = SearchSpace("points", [Dimension("i", 1, tuple(range(40)))])


def point(index, accuracy, cost):
    return Candidate(SPACE.subnet(i=index), accuracy, cost)


def test_the_front_holds_exactly_what_nothing_dominates():
    rng = np.random.default_rng(0)
    points = [point(i, float(a), float(c)) for i, (a, c) in enumerate(rng.integers(0, 9, (40, 2)))]
    front = pareto_front(points)

    def dominated(p):
        return any(
            q.accuracy >= p.accuracy
            and q.cost <= p.cost
            and (q.accuracy, q.cost) != (p.accuracy, p.cost)
            for q in points
        )

    assert {(p.accuracy, p.cost) for p in front} == {
        (p.accuracy, p.cost) for p in points if not dominated(p)
    }
    assert [p.cost for p in front] == sorted(p.cost for p in front)


def test_thinning_keeps_both_ends_and_distinguishable_neighbours():
    front = [point(i, a, i) for i, a in enumerate([80.0, 80.5, 85.0, 85.5, 86.0, 90.0])]
    kept = distinguishable(front, lambda a, b: a.accuracy - b.accuracy, 2.0)

    assert [c.accuracy for c in kept] == [80.0, 86.0, 90.0]
    assert kept[0] == front[0]
    assert kept[-1] == front[-1]
    assert all(b.accuracy - a.accuracy >= 2.0 for a, b in pairwise(kept))


def test_standard_error_of_independent_values():
    values = np.array([0.0, 1.0, 1.0, 0.0, 1.0])

    assert standard_error(values) == pytest.approx(np.std(values, ddof=1) / np.sqrt(5))


def test_copies_of_one_image_count_once():
    """Ten identical copies of each image carry no more evidence than one."""
    rng = np.random.default_rng(1)
    once = rng.random(300) < 0.8

    assert standard_error(np.tile(once, 10), 300) == pytest.approx(standard_error(once))


def test_paired_distance_uses_the_difference_per_image():
    """By hand: differences 1, 1, 0, 0 have mean 0.5 and standard error sqrt(1/3)/2."""
    a, b = np.array([True, True, True, False]), np.array([False, False, True, False])

    assert paired_distance(a, b) == pytest.approx(0.5 / (np.sqrt(1 / 3) / 2))


def test_clusters_of_different_sizes_by_hand():
    """Mean 0.6; the clusters' summed deviations 0.8, -0.6 and -0.2 have a sum of squares 1.04."""
    values, clusters = np.array([1, 1, 0, 0, 1]), np.array([7, 7, 3, 9, 9])

    assert standard_error(values, clusters) == pytest.approx(np.sqrt(3 / 2 * 1.04) / 5)


def test_numbered_clusters_mean_the_same_as_whole_copies():
    values = np.random.default_rng(2).random(120) < 0.7
    assert standard_error(values, np.arange(120) % 40) == pytest.approx(standard_error(values, 40))


def test_one_image_says_nothing_about_the_error():
    assert np.isnan(standard_error(np.array([True, False]), 1))


ANSWERS = SearchSpace("answers", [Dimension("shift", 1, tuple(range(12)))])


def shifted(x, subnet):
    """Logits of 7 classes whose order is known: class (label + shift) first, the next one next."""
    order = (torch.arange(7) - x[:, None] - subnet["shift"][0]) % 7
    return -order.float()


def test_top_1_and_top_5_of_known_answers():
    """The label is answer number -shift modulo 7: first for 0, fifth for 3, sixth for 2."""
    labels = torch.arange(7)
    subnets = [ANSWERS.subnet(shift=shift) for shift in (0, 3, 2, 6)]
    entries, right = measure(shifted, subnets, [(labels[:4], labels[:4]), (labels[4:], labels[4:])])

    assert [entry.accuracy for entry in entries] == [100.0, 0.0, 0.0, 0.0]
    assert [entry.top5 for entry in entries] == [100.0, 100.0, 0.0, 100.0]
    assert [right[subnet].tolist() for subnet in subnets[:2]] == [[True] * 7, [False] * 7]


def test_top_5_of_five_classes_is_not_given():
    subnet = ANSWERS.subnet(shift=0)
    labels = torch.tensor([0, 1, 4])
    entries, _ = measure(lambda x, s: shifted(x, s)[:, :5], [subnet], [(labels, labels)])

    assert (entries[0].accuracy, entries[0].top5) == (100.0, None)


def test_an_iterator_of_batches_serves_all_subnets():
    subnets = [ANSWERS.subnet(shift=shift) for shift in range(AT_ONCE + 2)]
    given = [(torch.arange(7), torch.zeros(7, dtype=torch.long)) for _ in range(2)]
    entries, _ = measure(shifted, subnets, iter(given))
    expected, _ = measure(shifted, subnets, given)

    assert entries == expected
    assert len(entries) == AT_ONCE + 2


def test_without_images_there_is_no_accuracy():
    with pytest.raises(ValueError, match="at least one batch"):
        measure(shifted, [ANSWERS.subnet(shift=0)], [])


class Labelled:
    """Noise with labels, counted as it is read; may be interrupted."""

    def __init__(self, net, fail_after=None):
        self.net, self.fail_after, self.read = net, fail_after, 0

    def __iter__(self):
        for seed in range(3):
            if self.read == self.fail_after:
                raise KeyboardInterrupt
            self.read += 1
            labels = torch.randint(0, 7, (20,), generator=torch.Generator().manual_seed(seed))
            yield images(self.net, 20, seed=seed).float(), labels


@pytest.fixture
def saved(tmp_path):
    """A checkpoint with more calibrated subnets than share a pass, and one that is not."""
    net = small_net(3, replace(SMALL, depths=(1,))).float()
    subnets = [net.space.subnet(ks=k, e=e, d=1) for k in (3, 5, 7) for e in (2, 3, 6)]
    subnets += [net.space.subnet(ks=k, e=[2, 3, 6], d=1) for k in (3, 5, 7)]
    calibrate(net, subnets[:-1], [images(net, 8, seed=9).float()])
    file = tmp_path / "net.safetensors"
    save(net, file)
    return file, net, subnets[:-1], subnets[-1]


def test_accuracies_are_those_of_the_extracted_subnets(saved):
    file, net, subnets, _ = saved
    card = evaluate(file, "ofa_mobilenetv3", subnets[:3], Labelled(net), "noise")
    given = list(Labelled(net))
    x, labels = (torch.cat(parts) for parts in zip(*given, strict=True))
    for entry, subnet in zip(card.subnets, subnets, strict=False):
        with torch.no_grad():
            order = extract(net, subnet)(x).argsort(dim=1, descending=True)
        right = (order == labels[:, None]).double()

        assert entry.id == subnet.id
        assert entry.accuracy == pytest.approx(100 * float(right[:, 0].mean()), abs=1e-3)
        assert entry.top5 == pytest.approx(100 * float(right[:, :5].sum(1).mean()), abs=1e-3)
        spread = float(right[:, 0].std()) / np.sqrt(60)
        assert entry.standard_error == pytest.approx(100 * spread, abs=1e-3)
    assert AccuracyCard.read(card_path(file)) == card
    assert card.samples == 60


def test_an_interrupted_evaluation_goes_on_and_gives_the_same_card(saved):
    file, net, subnets, _ = saved
    whole = evaluate(file, "ofa_mobilenetv3", subnets, Labelled(net), "noise", data="seed 0")
    card_path(file).unlink()
    with pytest.raises(KeyboardInterrupt):
        evaluate(file, "ofa_mobilenetv3", subnets, Labelled(net, 4), "noise", data="seed 0")
    assert not card_path(file).exists()
    rest, other = Labelled(net), Labelled(net)
    reported = []
    card = evaluate(
        file, "ofa_mobilenetv3", subnets, rest, "noise", data="seed 0", progress=reported.append
    )

    assert card == whole
    assert rest.read == 3
    assert reported == subnets
    assert sorted(f.name for f in file.parent.iterdir()) == ["net.accuracy.json", file.name]
    with pytest.raises(KeyboardInterrupt):
        evaluate(file, "ofa_mobilenetv3", subnets, Labelled(net, 4), "noise", data="seed 0")
    evaluate(file, "ofa_mobilenetv3", subnets, other, "noise", data="seed 1")
    assert other.read == 6


def test_uncalibrated_subnets_are_refused_or_named_on_the_card(saved):
    file, net, subnets, stranger = saved
    wanted = [subnets[0], stranger]
    with pytest.raises(MissingStatistics, match=stranger.id):
        evaluate(file, "ofa_mobilenetv3", wanted, Labelled(net), "noise")
    with pytest.raises(MissingStatistics, match=stranger.id):
        evaluate(file, "ofa_mobilenetv3", wanted, Labelled(net), "noise", allow_uncalibrated=True)
    net.statistics.shared = dict(net.statistics[net.space.subnet(ks=7, e=6, d=1)])
    save(net, file)
    with pytest.raises(MissingStatistics, match=stranger.id):
        evaluate(file, "ofa_mobilenetv3", wanted, Labelled(net), "noise")
    card = evaluate(
        file, "ofa_mobilenetv3", wanted, Labelled(net), "noise", allow_uncalibrated=True
    )

    assert stranger.id in card.notes
    assert subnets[0].id not in card.notes


def test_a_card_from_before_top_5_is_read(saved):
    file, net, subnets, _ = saved
    card = evaluate(file, "ofa_mobilenetv3", subnets[:2], Labelled(net), "noise")
    document = json.loads(card_path(file).read_text())
    for entry in document["subnets"]:
        del entry["top5"], entry["top5_standard_error"]
    card_path(file).write_text(json.dumps(document))
    old = AccuracyCard.read(card_path(file))

    assert [entry.top5 for entry in old.subnets] == [None, None]
    assert [asdict(e)["accuracy"] for e in old.subnets] == [e.accuracy for e in card.subnets]


def test_a_kill_while_a_card_is_written_leaves_the_one_before(saved, monkeypatch):
    file, net, subnets, _ = saved
    card = evaluate(file, "ofa_mobilenetv3", subnets[:1], Labelled(net), "noise")

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("pathlib.Path.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        replace(card, dataset="other").write(card_path(file))

    assert AccuracyCard.read(card_path(file)) == card


def test_the_published_card_of_the_digits_still_holds_for_its_file():
    """The smallest subnet on the report split, measured by today's code."""
    from supernets.data.datasets import open_images
    from supernets.digits import WEIGHTS

    net = create_supernet("digits", WEIGHTS)
    card = AccuracyCard.read(card_path(WEIGHTS))
    subnet = net.space.subnet(**card.subnets[0].config)
    data = open_images("digits:report", net.preprocessing, net.labels)
    entries, _ = measure(net.resident(), [subnet], data.batches(100), data.clusters)

    assert card.samples == len(data)
    assert entries[0].accuracy == pytest.approx(card.subnets[0].accuracy, abs=0.05)
    assert entries[0].standard_error == pytest.approx(card.subnets[0].standard_error, abs=0.02)
