"""Which subnets a command is about, from what people write: a number, an id, a file, a word."""

import json
import random
import re
from pathlib import Path
from typing import Any

from supernets.accuracy_card import AccuracyCard, card_path
from supernets.cost import macs
from supernets.errors import DataError
from supernets.searching.pareto import Candidate, pareto_front
from supernets.searching.search import whole
from supernets.space import Subnet
from supernets.supernet import Supernet

LIMIT = 2000  # more would take days to calibrate, and nobody serves so many


def choose_subnets(net: Supernet, checkpoint: Path, text: str = "", seed: int = 0) -> list[Subnet]:
    """The subnets that ``text`` names, each once.

    ``smallest``, ``largest``; ids of calibrated subnets or of those on the accuracy card; settings
    as JSON, or a file of them (`read_subnets`); ``N`` or ``N random``, the smallest, the largest
    and others drawn with ``seed``; ``all`` of a small space; ``front``, what is Pareto-optimal on
    the accuracy card; nothing: those calibrated. Raises `DataError`.
    """
    words = text.strip()
    count = re.fullmatch(r"(\d{1,6})( random)?", words)  # ids have ten digits
    if not words:
        chosen = list(net.statistics)
    elif words == "all":
        chosen = _all(net)
    elif words == "front":
        chosen = _front(net, checkpoint)
    elif words.startswith(("{", "[")):
        chosen = _parsed(net, words, "the settings")
    elif _is_file(words):
        chosen = read_subnets(net, Path(words))
    elif count:
        chosen = _random(net, int(count[1]), seed)
    else:
        chosen = [_named(net, checkpoint, name.strip()) for name in words.split(",")]
    return list(dict.fromkeys(chosen))


def read_subnets(net: Supernet, file: Path) -> list[Subnet]:
    """A JSON list of `Subnet.to_json`, what ``superserve search`` writes, or an accuracy card."""
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the subnets in {file}: {error}") from error
    return _parsed(net, text, str(file))


def _parsed(net: Supernet, text: str, where: str) -> list[Subnet]:
    try:
        document: Any = json.loads(text)
        if isinstance(document, dict) and "subnets" in document:
            document = [entry["config"] for entry in document["subnets"]]
        entries = document if isinstance(document, list) else [document]
        # `superserve search` writes each subnet with what it found out about it.
        return [net.space.from_json(entry.get("subnet", entry)) for entry in entries]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{where}: no list of subnets of {net.name}: {error}") from error


def _named(net: Supernet, checkpoint: Path, name: str) -> Subnet:
    if name in {"smallest", "largest"}:
        return net.space.smallest if name == "smallest" else net.space.largest
    known = _known_id(net, checkpoint, name)
    if known is None:
        raise DataError(
            f"no subnet {name!r} is calibrated in {checkpoint} or on its accuracy card; give an id "
            "of those, smallest, largest, settings as JSON, or a file of them"
        )
    return known


def _known_id(net: Supernet, checkpoint: Path, name: str) -> Subnet | None:
    carded = _carded(net, checkpoint) if card_path(checkpoint).exists() else []
    known = [*net.statistics, *(subnet for subnet, _ in carded)]
    return next((subnet for subnet in known if subnet.id == name), None)


def _carded(net: Supernet, checkpoint: Path) -> list[tuple[Subnet, float]]:
    """The subnets of the accuracy card with their accuracies in percent."""
    file = card_path(checkpoint)
    entries = AccuracyCard.read(file).subnets
    try:
        return [(net.space.subnet(**entry.config), entry.accuracy) for entry in entries]
    except ValueError as error:
        raise DataError(f"{file} names no subnet of {net.name}: {error}") from error


def _random(net: Supernet, count: int, seed: int) -> list[Subnet]:
    """The smallest, the largest, and others; fewer where the space has no more."""
    if count > LIMIT:
        raise DataError(f"{count} random subnets are more than {LIMIT}")
    rng = random.Random(seed)
    chosen = dict.fromkeys([net.space.smallest, net.space.largest][:count])
    for _ in range(100 * count):
        if len(chosen) >= count:
            break
        chosen[net.space.sample(rng)] = None
    return list(chosen)


def _all(net: Supernet) -> list[Subnet]:
    found = whole(net.space, LIMIT)
    if found is None:
        raise DataError(
            f"{net.name} has more than {LIMIT} subnets; name some, or give a number of them"
        )
    return found


def _front(net: Supernet, checkpoint: Path) -> list[Subnet]:
    file = card_path(checkpoint)
    if not file.exists():
        raise DataError(
            f"front is what the accuracy card {file} shows to be worth serving, and there is none; "
            "make one with superserve evaluate, or give the file that superserve search wrote"
        )
    measured = [
        Candidate(subnet, accuracy, macs(net, subnet))
        for subnet, accuracy in _carded(net, checkpoint)
    ]
    return [candidate.subnet for candidate in pareto_front(measured)]


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except OSError:  # many ids are longer than any file's name may be
        return False
