"""What the tuner tries, leaves out, picks and writes down. Pure: `kernels.tune` does the timing."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import log2
from statistics import median
from typing import Any

from kernels.configs import Config, Entry, KernelTable

_CONV = {
    "BM": (32, 64, 128),
    "BN": (16, 32, 64, 128, 256),
    "BK": (32, 64),
    "SPLIT_K": (1, 2, 4, 8),
}
TILES: Mapping[str, Mapping[str, tuple[int, ...]]] = {
    "pointwise": {
        "BM": (32, 64, 128),
        "BN": (16, 32, 64, 128, 256),
        "BK": (32, 64, 128),
        "SPLIT_K": (1, 2, 4, 8),
    },
    "conv": _CONV,
    "stem": _CONV,
    "depthwise": {
        "STRIPS": (8, 16, 32),
        "STRIP": (1, 2, 4, 8),
        "BC": (16, 32, 64),
        "UNROLL": (1, 2),
    },
    "depthwise_pool": {
        "STRIPS": (8, 16, 32, 64, 128),
        "STRIP": (1, 2, 4, 8),
        "BC": (8, 16, 32),
        "UNROLL": (1, 2),
    },
    "depthwise_project": {
        "STRIPS": (16, 32),
        "STRIP": (1, 2, 4),
        "BN": (32, 64, 128),
        "BK": (32, 64),
        "UNROLL": (1, 2),
    },
    "squeeze_excite": {"BI": (16,), "BM": (64, 128, 256), "BN": (16, 32, 64), "BK": (32, 64, 128)},
    "head": {"FUSED": (0, 2, 8), "BN": (4, 8, 16), "BC": (256, 512, 1024), "BP": (4, 8, 16)},
}
"""Tile sizes to try, by the name that a kernel is looked up under."""

WARPS: Mapping[str, tuple[int, ...]] = {
    "depthwise": (1, 2, 4),
    "depthwise_pool": (2, 4, 8),
}
STAGES: Mapping[str, tuple[int, ...]] = {
    "pointwise": (2, 3, 4),
    "conv": (2, 3, 4),
    "stem": (2, 3, 4),
    "squeeze_excite": (2, 3),
}
MATRIX = ("pointwise", "conv", "stem")
TIE = 0.02  # relative: less than this is no reason to leave the configuration in use


@dataclass(frozen=True, slots=True)
class Timing:
    """What was measured of one configuration: seconds of one run, several times."""

    config: Config
    seconds: tuple[float, ...]


def candidates(
    kernel: str, safe: Config, sizes: Mapping[str, int], bits: int, shared: int, limit: int
) -> list[Config]:
    """At most ``limit`` configurations worth timing, the safe one first.

    ``shared`` is the bytes that a program may have of shared memory. Those that need more, that
    hold more accumulators than registers, or whose tiles are far larger than the problem are left
    out; of the rest, an even selection.
    """
    grid = [
        Config(dict(zip(TILES[kernel], tiles, strict=True)), warps, stages)
        for *tiles, warps, stages in product(
            *TILES[kernel].values(), WARPS.get(kernel, (4, 8)), STAGES.get(kernel, (1,))
        )
    ]
    fitting = [
        config for config in grid if config != safe and fits(kernel, config, sizes, bits, shared)
    ]
    room = max(limit - 1, 0)
    step = max(1.0, len(fitting) / room) if room else 1.0
    count = min(room, len(fitting))
    return [safe, *(fitting[int(index * step)] for index in range(count))]


def fits(kernel: str, config: Config, sizes: Mapping[str, int], bits: int, shared: int) -> bool:
    """Whether a configuration can run, and could be a good one for these sizes."""
    tiles = config.tiles
    if shared_bytes(kernel, config, bits) > shared:
        return False
    if kernel in MATRIX:
        programs = -(-sizes["m"] // tiles["BM"]) * -(-sizes["n"] // tiles["BN"])
        return (
            tiles["BM"] * tiles["BN"] // (32 * config.num_warps) <= 128
            and tiles["BM"] <= max(2 * sizes["m"], 32)
            and tiles["BN"] <= max(2 * sizes["n"], 16)
            and tiles["BK"] <= max(2 * sizes["k"], 32)
            # Parts of a sum must not be empty, and pay only where there are few programs.
            and (tiles["SPLIT_K"] == 1 or programs <= 264)
            and tiles["SPLIT_K"] * tiles["BK"] <= max(sizes["k"], tiles["BK"])
        )
    if kernel.startswith("depthwise"):
        values = tiles["STRIPS"] * tiles["STRIP"] * tiles.get("BC", tiles.get("BN", 1))
        return 8 * 32 <= values <= 96 * 32 * config.num_warps
    return True


def shared_bytes(kernel: str, config: Config, bits: int) -> int:
    """About what the operands in flight take: every stage's tiles; nothing for other kernels."""
    tiles = config.tiles
    rows = {"squeeze_excite": "BI", "depthwise_project": "STRIPS"}.get(kernel, "BM")
    if "BK" not in tiles:
        return 0
    return config.num_stages * (tiles[rows] + tiles["BN"]) * tiles["BK"] * bits // 8


def bucket(sizes: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    """Shapes with one bucket get one entry: sizes to the nearest power of two, above 16 of four."""

    def rounded(size: int) -> int:
        power = log2(max(size, 1))
        return int(2 ** round(power)) if power < 4 else int(4 ** round(power / 2))

    small = {"kernel", "stride", "side"}  # these change the program, not only its size
    return tuple((name, v if name in small else rounded(v)) for name, v in sorted(sizes.items()))


def best(timings: Iterable[Timing], used: Config) -> Config:
    """The fastest median; the one in use where that is as good as.

    ``ValueError`` where nothing was timed.
    """
    medians = {id(t): (median(t.seconds), t.config) for t in timings}
    if not medians:
        raise ValueError("no configuration could be timed")
    fastest, config = min(medians.values(), key=lambda pair: pair[0])
    kept = next((seconds for seconds, c in medians.values() if c == used), None)
    return used if kept is not None and kept <= fastest * (1 + TIE) else config


def merged(
    tables: Mapping[str, KernelTable], found: Mapping[str, Sequence[Entry]]
) -> dict[str, KernelTable]:
    """``tables`` with the new entries in the place of those of the same buckets and widths."""
    result = dict(tables)
    for kernel, entries in found.items():
        table = tables[kernel]
        new = {(entry.bits, bucket(entry.shape)) for entry in entries}
        kept = [e for e in table.entries if (e.bits, bucket(e.shape)) not in new]
        result[kernel] = KernelTable(table.safe, (*entries, *kept))
    return result


def word_of(device: str) -> str:
    """The file name that a device's table gets: "h200" for an "NVIDIA H200"."""
    words = re.findall(r"[a-z0-9]+", device.lower())
    return next((w for w in words if re.search(r"\d", w)), words[-1] if words else "gpu")


def document(tables: Mapping[str, KernelTable], measured: Mapping[str, Any]) -> str:
    """The JSON of `kernels.configs`, one entry a line; ``measured`` says where it comes from."""
    kernels = ",\n".join(
        f'    {json.dumps(name)}: {{\n      "safe": {json.dumps(_config(table.safe))},\n'
        f'      "entries": [{_entries(table)}]\n    }}'
        for name, table in tables.items()
    )
    source = json.dumps(dict(measured))
    return f'{{\n  "measured": {source},\n  "kernels": {{\n{kernels}\n  }}\n}}\n'


def _entries(table: KernelTable) -> str:
    lines = [
        json.dumps({"bits": e.bits, "shape": dict(e.shape), **_config(e.config)})
        for e in table.entries
    ]
    return "".join(f"\n        {line}," for line in lines).rstrip(",") + ("\n      " * bool(lines))


def _config(config: Config) -> dict[str, Any]:
    scheduling = {"num_warps": config.num_warps, "num_stages": config.num_stages}
    return {"tiles": dict(config.tiles), **scheduling}


def grouped(keys: Iterable[tuple[str, Mapping[str, int]]]) -> list[list[int]]:
    """The positions of keys of one kernel and bucket, in the order in which they appear."""
    found: dict[tuple[str, object], list[int]] = {}
    for index, (kernel, sizes) in enumerate(keys):
        found.setdefault((kernel, bucket(sizes)), []).append(index)
    return list(found.values())
