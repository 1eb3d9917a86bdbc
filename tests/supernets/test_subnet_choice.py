"""Which subnets a command takes from what people write."""

import json
from dataclasses import replace

import pytest
import torch

from supernets import Preprocessing, SearchSpace, Supernet
from supernets.accuracy_card import AccuracyCard, AccuracyEntry, card_path
from supernets.cost import macs
from supernets.errors import DataError
from supernets.searching.measured_search import front_document
from supernets.searching.search import Point
from supernets.searching.subnet_choice import choose_subnets
from supernets.space import Dimension
from tests.supernets.helpers import SMALL, calibrated, small_net


@pytest.fixture
def net():
    return small_net(1, replace(SMALL, depths=(1,)))


@pytest.fixture
def checkpoint(tmp_path):
    return tmp_path / "net.safetensors"


def write_card(net, checkpoint, accuracies):
    entries = tuple(
        AccuracyEntry(subnet.id, subnet.config(), accuracy, None)
        for subnet, accuracy in accuracies.items()
    )
    AccuracyCard(net.name, "", "", "noise", 1, entries).write(card_path(checkpoint))


def test_nothing_means_those_that_are_calibrated(net, checkpoint):
    subnets = calibrated(net, 2)

    assert choose_subnets(net, checkpoint) == list(dict.fromkeys(subnets))


def test_words_and_settings(net, checkpoint):
    middle = net.space.subnet(ks=5, e=3, d=1)

    assert choose_subnets(net, checkpoint, "smallest, largest") == [
        net.space.smallest,
        net.space.largest,
    ]
    assert choose_subnets(net, checkpoint, json.dumps(middle.to_json())) == [middle]
    assert choose_subnets(net, checkpoint, '{"ks": 5, "e": 3, "d": 1}') == [middle]


def test_many_ids_of_calibrated_subnets(net, checkpoint):
    """So many that together they are longer than a file's name may be."""
    subnets = list(dict.fromkeys(calibrated(net, 30)))[::-1]
    ids = ",".join(subnet.id for subnet in subnets)

    assert len(ids) > 255
    assert choose_subnets(net, checkpoint, ids) == subnets


def test_ids_on_the_accuracy_card(net, checkpoint):
    middle = net.space.subnet(ks=5, e=3, d=1)
    write_card(net, checkpoint, {middle: 50.0})

    assert choose_subnets(net, checkpoint, middle.id) == [middle]


def test_what_a_search_writes_is_read(net, checkpoint, tmp_path):
    subnets = [net.space.smallest, net.space.subnet(ks=5, e=3, d=1)]
    points = [Point(subnet, accuracy=50.0, cost=1.0) for subnet in subnets]
    file = tmp_path / "front.json"
    file.write_text(json.dumps(front_document(points, "seconds", "measured")))

    assert choose_subnets(net, checkpoint, str(file)) == subnets


@pytest.mark.parametrize("text", ["9", "9 random"])
def test_a_number_gives_the_two_ends_and_seeded_others(net, checkpoint, text):
    chosen = choose_subnets(net, checkpoint, text, seed=1)

    assert len(set(chosen)) == 9
    assert chosen[:2] == [net.space.smallest, net.space.largest]
    assert chosen == choose_subnets(net, checkpoint, text, seed=1)
    assert chosen != choose_subnets(net, checkpoint, text, seed=2)


def test_a_file_of_subnets_and_a_card_are_both_lists(net, checkpoint, tmp_path):
    subnets = [net.space.smallest, net.space.subnet(ks=5, e=3, d=1)]
    file = tmp_path / "front.json"
    file.write_text(json.dumps([subnet.to_json() for subnet in subnets]))
    write_card(net, checkpoint, dict.fromkeys(subnets, 50.0))

    assert choose_subnets(net, checkpoint, str(file)) == subnets
    assert choose_subnets(net, checkpoint, str(card_path(checkpoint))) == subnets


def test_the_front_is_what_the_card_shows_to_be_worth_its_cost(net, checkpoint):
    small, middle, large = (net.space.subnet(ks=k, e=e, d=1) for k, e in ((3, 2), (5, 3), (7, 6)))
    assert macs(net, small) < macs(net, middle) < macs(net, large)
    write_card(net, checkpoint, {large: 90.0, middle: 70.0, small: 80.0})

    assert choose_subnets(net, checkpoint, "front") == [small, large]


class Two(Supernet):
    def __init__(self):
        space = SearchSpace("two", [Dimension("i", 2, (1, 2))])
        super().__init__("two", space, Preprocessing(2, 2, 1, (0,), (1,)), ["a"])
        self.weight = torch.nn.Parameter(torch.ones(1))

    def run(self, x, subnet, normalise):
        return x.mean((2, 3)) * self.weight

    def extract(self, subnet):
        raise NotImplementedError

    def definition(self):
        return {}


def test_all_of_a_small_space(checkpoint):
    two = Two()

    assert choose_subnets(two, checkpoint, "all") == list(two.space)
    assert len(choose_subnets(two, checkpoint, "all")) == 4
    assert len(choose_subnets(two, checkpoint, "50 random")) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("all", "more than 2000 subnets"),
        ("front", "no accuracy card|there is none"),
        ("0123456789", "no subnet '0123456789' is calibrated"),
        ("3000 random", "more than 2000"),
        ("missing.json", r"no subnet 'missing\.json'"),
        ('{"ks": 4}', "no list of subnets"),
        ("[1]", "no list of subnets"),
        ('{"family": "other", "ks": 5, "e": 3, "d": 1}', "not a subnet of"),
    ],
)
def test_what_names_no_subnet_is_refused(net, checkpoint, text, message):
    with pytest.raises(DataError, match=message):
        choose_subnets(small_net(1), checkpoint, text)


def test_a_damaged_file_is_named(net, checkpoint, tmp_path):
    file = tmp_path / "front.json"
    file.write_text("[{")
    with pytest.raises(DataError, match=r"front\.json"):
        choose_subnets(net, checkpoint, str(file))


def test_a_card_of_another_space_is_named(net, checkpoint):
    stranger = Two().space.largest
    write_card(net, checkpoint, {stranger: 50.0})
    with pytest.raises(DataError, match="names no subnet of"):
        choose_subnets(net, checkpoint, "front")
