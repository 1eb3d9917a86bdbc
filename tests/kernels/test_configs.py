"""The tables of tile sizes: the nearest entry serves, and a bad table is refused with its place."""

import json
from copy import deepcopy

import pytest
import torch

from kernels import configs
from kernels.configs import DEFAULT, FOLDER, Config, load, lookup, parse, table_name

HALF, SINGLE = torch.bfloat16, torch.float32
SAFE = {"tiles": {"BM": 32}, "num_warps": 4, "num_stages": 2}


def entry(bits, m, n, tile):
    shape = {"m": m, "n": n}
    return {"bits": bits, "shape": shape, "tiles": {"BM": tile}, "num_warps": 4, "num_stages": 3}


TABLE = {
    "kernels": {
        "product": {"safe": SAFE, "entries": [entry(16, 64, 64, 16), entry(16, 4096, 64, 128)]}
    }
}


@pytest.fixture
def tables(monkeypatch, tmp_path):
    """A folder of tables with the one above as the default."""
    monkeypatch.setattr(configs, "FOLDER", tmp_path)
    caches = (configs._lookup, configs._name, configs.load, configs.table_name)
    for cached in caches:
        cached.cache_clear()
    (tmp_path / "default.json").write_text(json.dumps(TABLE))
    yield tmp_path
    for cached in caches:
        cached.cache_clear()


def tile(shape, dtype=HALF, device="an unknown device", **others):
    return lookup("product", device, shape, dtype, **others).tiles["BM"]


@pytest.mark.parametrize(
    ("m", "expected"), [(1, 16), (64, 16), (511, 16), (513, 128), (4096, 128), (10**9, 128)]
)
def test_the_entry_of_the_smallest_ratio_serves(tables, m, expected):
    assert tile({"m": m, "n": 64}) == expected


def test_all_sizes_count_alike(tables):
    lines = [entry(16, 64, 64, 16), entry(16, 128, 1024, 128)]
    write(tables / "default.json", product={"safe": SAFE, "entries": lines})

    assert tile({"m": 64, "n": 256}) == 16
    assert tile({"m": 128, "n": 256}) == 128


def test_a_width_without_entries_gets_the_safe_one(tables):
    assert tile({"m": 64, "n": 64}, SINGLE) == 32


def test_the_safe_one_can_be_asked_for(tables):
    assert tile({"m": 64, "n": 64}, safe=True) == 32


def test_a_device_is_known_by_a_word_of_its_name(tables):
    write(tables / "h200.json", product={"safe": {**SAFE, "tiles": {"BM": 64}}, "entries": []})

    assert tile({"m": 64, "n": 64}, device="NVIDIA H200 NVL") == 64
    assert tile({"m": 64, "n": 64}, device="NVIDIA H2000") == 16


def test_a_kernel_that_a_device_leaves_out_is_the_default_s(tables):
    write(tables / "h200.json")

    assert tile({"m": 64, "n": 64}, device="NVIDIA H200") == 16


def test_what_cannot_be_looked_up_says_why(tables):
    with pytest.raises(ValueError, match="kernel 'other'"):
        lookup("other", "cpu", {"m": 1, "n": 1}, HALF)
    with pytest.raises(ValueError, match="not 64 bit"):
        lookup("product", "cpu", {"m": 1, "n": 1}, torch.float64)
    with pytest.raises(ValueError, match=r"by \['m', 'n'\], not \['k'\]"):
        lookup("product", "cpu", {"k": 1}, HALF)


def test_a_table_cannot_be_changed_once_loaded(tables):
    with pytest.raises(TypeError):
        lookup("product", "cpu", {"m": 1, "n": 1}, HALF).tiles["BM"] = 1


def write(path, **kernels):
    path.write_text(json.dumps({"kernels": kernels}))


def set_at(path, value):
    """The table with ``value`` at ``path``."""
    document = deepcopy(TABLE)
    *front, last = ("kernels", "product", *path)
    place = document
    for key in front:
        place = place[key]
    place[last] = value
    return document


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], 'there is no object under "kernels"'),
        ({"kernels": {"product": {"safe": SAFE}}}, 'product: a kernel has "safe" and "entries"'),
        (set_at(("safe",), {"tiles": {"BM": 1}}), "safe: a configuration has tiles, num_warps"),
        (set_at(("safe", "num_warps"), 3), "safe: num_warps is 3, not a power of two"),
        (set_at(("safe", "num_stages"), 0), "safe: num_stages is 0, not an integer from 1"),
        (set_at(("entries", 1, "bits"), 8), 'entry 1: "bits" is 16 or 32'),
        (set_at(("entries", 0, "tiles", "BM"), 48), "entry 0: BM is 48, not a power of two"),
        (set_at(("entries", 0, "tiles", "BM"), -1), "entry 0: tiles: BM is -1, not an integer"),
        (set_at(("entries", 0, "tiles", "BM"), True), "tiles: BM is True, not an integer"),
        (set_at(("entries", 0, "tiles", "BN"), 16), r"entry 0: the tiles are \['BM'\]"),
        (set_at(("entries", 1, "shape"), {"m": 1}), r"entry 1: the shape names \['m', 'n'\]"),
        (set_at(("entries", 1, "shape", "m"), 0), "entry 1: shape: m is 0"),
        (set_at(("entries", 1, "speed"), 1), "entry 1: a configuration has tiles, num_warps"),
    ],
)
def test_a_bad_table_is_refused_with_its_place(document, message):
    with pytest.raises(ValueError, match=f"^table.json: .*{message}|^table.json: {message}"):
        parse(document, "table.json")


def test_a_table_that_is_no_json_names_its_file(tables):
    (tables / "h200.json").write_text("{")

    with pytest.raises(ValueError, match=r"h200\.json"):
        lookup("product", "NVIDIA H200", {"m": 1, "n": 1}, HALF)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_every_committed_table_is_good_and_its_kernels_are_in_the_default(path):
    table, default = load(path.stem), load(DEFAULT)

    assert table
    for name, kernel in table.items():
        assert kernel.safe.tiles.keys() == default[name].safe.tiles.keys()


def test_the_interpreter_has_a_table_of_its_own():
    assert table_name("cpu") == "cpu"
    assert load("cpu").keys() == load(DEFAULT).keys()


def test_options_are_what_a_launch_takes():
    assert Config({"BM": 16}, 4, 2).options == {"num_warps": 4, "num_stages": 2}
