"""Tile sizes, warps and stages of the Triton kernels: one table per device, no search at run time.

``lookup(kernel, device, shape, dtype)`` gives the `Config` of the nearest shape of the table::

    config = lookup("pointwise", x.device, {"m": rows, "n": outputs, "k": inputs}, x.dtype)
    Launch(kernel, grid, arguments, {**config.tiles, "FLAG": True}, config.options)

A table is ``<device>.json`` beside this file: the file whose name is a word of the device's name
("h200.json" serves an "NVIDIA H200"), else ``default.json``; ``cpu.json`` is what the interpreter
uses, where one huge tile is fastest. Of a kernel it holds, one entry a line::

    {"kernels": {"pointwise": {
        "safe": {"tiles": {"BM": 64, ...}, "num_warps": 4, "num_stages": 3},
        "entries": [
          {"bits": 16, "shape": {"m": 49, "n": 160, "k": 960},
           "tiles": {"BM": 64, ...}, "num_warps": 4, "num_stages": 4}, ...]}}}

``tiles`` are the kernel's own ``tl.constexpr`` parameters, powers of two, or 0 for what is off;
``bits`` is the width of the elements; ``shape`` names any sizes, the same ones for all entries of a
kernel. ``safe`` must compile and run for every shape and type; it serves where no entry has the
type's width. A kernel that a device's table leaves out is looked up in ``default.json``, which is
modelled and not measured: the largest tiles of which an H200's 132 multiprocessors get one each.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

FOLDER = Path(__file__).parent
DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Config:
    """Tile sizes by the kernel's own names, and how a program is scheduled."""

    tiles: Mapping[str, int]
    num_warps: int
    num_stages: int

    @property
    def options(self) -> dict[str, int]:
        """What a launch takes besides its arguments and constants."""
        return {"num_warps": self.num_warps, "num_stages": self.num_stages}


@dataclass(frozen=True, slots=True)
class Entry:
    """The best known configuration near one shape."""

    bits: int
    shape: Mapping[str, int]
    config: Config


@dataclass(frozen=True, slots=True)
class KernelTable:
    """What one device's table says of one kernel."""

    safe: Config
    entries: tuple[Entry, ...]


def lookup(
    kernel: str,
    device: torch.device | str,
    shape: Mapping[str, int],
    dtype: torch.dtype,
    safe: bool = False,
) -> Config:
    """The configuration of the entry nearest to ``shape``: the sum of the sizes' log ratios.

    ``device`` is a tensor's device or a device's name. ``safe`` asks for the table's safe one: for
    channel counts that are no multiple of eight, which take many more registers. ``ValueError`` for
    an unknown kernel, sizes other than the table's, or a type that is not 16 or 32 bits wide.
    """
    sizes = () if safe else tuple(sorted(shape.items()))
    return _lookup(kernel, _name(device), sizes, dtype.itemsize * 8)


@lru_cache(maxsize=4096)
def _lookup(kernel: str, device: str, shape: tuple[tuple[str, int], ...], bits: int) -> Config:
    """The safe one for no sizes."""
    if bits not in {16, 32}:
        raise ValueError(f"the kernels take 16 and 32 bit floats, not {bits} bit ones")
    table = load(table_name(device)).get(kernel) or load(DEFAULT).get(kernel)
    if table is None:
        raise ValueError(f"no table knows a kernel {kernel!r}; {DEFAULT}.json should")
    sizes = dict(shape)
    entries = [entry for entry in table.entries if entry.bits == bits]
    if not entries or not shape:
        return table.safe
    if sizes.keys() != entries[0].shape.keys():
        raise ValueError(f"{kernel} is looked up by {sorted(entries[0].shape)}, not {list(sizes)}")
    return min(entries, key=lambda entry: distance(entry.shape, sizes)).config


def distance(one: Mapping[str, int], other: Mapping[str, int]) -> float:
    """How far two shapes of the same names are apart, in octaves."""
    return sum(abs(math.log2(max(size, 1) / max(other[name], 1))) for name, size in one.items())


@cache
def _name(device: torch.device | str) -> str:
    if isinstance(device, torch.device):
        return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return device


@cache
def table_name(device: str) -> str:
    """Which table serves a device of this name."""
    words = re.findall(r"[a-z0-9]+", device.lower())
    return next((word for word in words if (FOLDER / f"{word}.json").exists()), DEFAULT)


@cache
def load(name: str) -> Mapping[str, KernelTable]:
    """The table in ``<name>.json``. ``ValueError`` where it breaks the format."""
    path = FOLDER / f"{name}.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path.name}: {error}") from None
    return parse(document, path.name)


def parse(document: Any, source: str) -> Mapping[str, KernelTable]:
    """A table from its JSON document. ``ValueError`` names ``source`` and the place in it."""
    match document:
        case {"kernels": dict(kernels)}:
            tables = {name: _kernel_table(t, f"{source}: {name}") for name, t in kernels.items()}
            return MappingProxyType(tables)
    raise ValueError(f'{source}: there is no object under "kernels"')


def _kernel_table(document: Any, where: str) -> KernelTable:
    if not isinstance(document, dict) or document.keys() != {"safe", "entries"}:
        raise ValueError(f'{where}: a kernel has "safe" and "entries"')
    safe = _config(document["safe"], f"{where}: safe")
    entries: list[Entry] = []
    for index, line in enumerate(document["entries"]):
        at = f"{where}: entry {index}"
        if not isinstance(line, dict) or line.get("bits") not in {16, 32}:
            raise ValueError(f'{at}: "bits" is 16 or 32')
        shape = _sizes(line.get("shape"), f"{at}: shape")
        rest = {key: value for key, value in line.items() if key not in {"bits", "shape"}}
        entry = Entry(line["bits"], shape, _config(rest, at))
        if entry.config.tiles.keys() != safe.tiles.keys():
            raise ValueError(f"{at}: the tiles are {sorted(safe.tiles)}, as in the safe one")
        if entries and shape.keys() != entries[0].shape.keys():
            raise ValueError(f"{at}: the shape names {sorted(entries[0].shape)}, as in the others")
        entries.append(entry)
    return KernelTable(safe, tuple(entries))


def _config(document: Any, where: str) -> Config:
    if not isinstance(document, dict) or document.keys() != {"tiles", "num_warps", "num_stages"}:
        raise ValueError(f"{where}: a configuration has tiles, num_warps and num_stages")
    tiles = _sizes(document["tiles"], f"{where}: tiles", least=0)
    counts = _sizes({key: document[key] for key in ("num_warps", "num_stages")}, where)
    for name, value in (*tiles.items(), ("num_warps", counts["num_warps"])):
        if value & (value - 1):
            raise ValueError(f"{where}: {name} is {value}, not a power of two")
    return Config(tiles, **counts)


def _sizes(document: Any, where: str, least: int = 1) -> Mapping[str, int]:
    """A frozen copy of an object of integers."""
    if not isinstance(document, dict) or not document:
        raise ValueError(f"{where}: an object of integers is wanted")
    for name, value in document.items():
        if type(value) is not int or value < least:
            raise ValueError(f"{where}: {name} is {value!r}, not an integer from {least} on")
    return MappingProxyType(dict(document))
