"""What does it take to hold a range of accuracies: a supernet with 500 subnets, or several models?

``python -m benchmarks.memory``: the question of figure 5a of the SuperServe paper (NSDI'25). One
OFA ResNet50 with the norms of 500 subnets, against four stand-alone ResNets (torchvision's 18, 34,
50 and 101) and against six subnets extracted from the same supernet, spread over its space. Each is
built in a process of its own: bytes of the tensors it holds, and by how much its resident set grew.
Weights are random; statistics are of noise images. Everything is float32.
"""

import ctypes
import gc
import multiprocessing
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor

from benchmarks.common import arguments, header, show, write
from benchmarks.subnet_norms import SUBNETS, counter, distinct, randomised
from supernets import calibrate, create_supernet, extract, save
from supernets.cost import parameters
from supernets.supernet import Supernet

SUPERNET = "ofa_resnet50"
RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101")
EXTRACTED = 6
SIZED = 60  # subnets among which those that are spread over the space are looked for
OURS = f"supernet + {SUBNETS} subnets' norms"
KINDS = (OURS, f"{OURS}, exact", "supernet alone", "4 ResNets", f"{EXTRACTED} extracted subnets")


def main() -> None:
    options = arguments("Memory of one supernet against several models.", rounds=1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "supernet.safetensors"
        spread, sizes = _prepare(checkpoint, options.seed)
        context = multiprocessing.get_context("spawn")
        with context.Pool(1, maxtasksperchild=1) as pool:
            held = {kind: pool.apply(_hold, (kind, checkpoint, spread)) for kind in KINDS}
    ours = held[OURS]
    rows = [
        {
            "what": kind,
            "models": found["models"],
            "held_mb": found["bytes"] / 1e6,
            "times_ours": found["bytes"] / ours["bytes"],
            "resident_set_mb": found["resident_set"] / 1e6,
            "resident_set_times_ours": found["resident_set"] / ours["resident_set"],
        }
        for kind, found in held.items()
    ]
    show("Memory", list(rows[0]), [list(row.values()) for row in rows])
    show("Of the supernet", ["", "MB"], [[k, v / 1e6] for k, v in ours["parts"].items()])
    document = {
        **header(options.seed, supernet=SUPERNET, subnets=SUBNETS),
        "rows": rows,
        "parts_of_ours": ours["parts"],
        "extracted_parameters": sizes,
    }
    print(write("memory", document, options.output))


def _prepare(checkpoint: Path, seed: int) -> tuple[list[dict[str, object]], list[int]]:
    """Save the calibrated supernet; the subnets to extract, by rank of size, and their sizes."""
    net = randomised(create_supernet(SUPERNET), seed)
    ends = [net.space.smallest, net.space.largest]
    subnets = list(dict.fromkeys([*ends, *distinct(net.space, SUBNETS, seed)]))[:SUBNETS]
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(seed))
    calibrate(net, subnets, [images], counter("calibrate", SUBNETS))
    save(net, checkpoint)
    size = {subnet: parameters(net, subnet) for subnet in subnets[:SIZED]}
    ranked = sorted(size, key=lambda subnet: size[subnet])
    spread = [ranked[round(i * (SIZED - 1) / (EXTRACTED - 1))] for i in range(EXTRACTED)]
    return [subnet.to_json() for subnet in spread], [size[subnet] for subnet in spread]


def _hold(kind: str, checkpoint: Path, spread: list[dict[str, object]]) -> dict[str, Any]:
    """Build one contender and say what it takes; in a process that has built nothing before."""
    torch.set_num_threads(1)
    before = _resident_set()
    parts: dict[str, float] = {}
    if kind.startswith("supernet"):
        net = _loaded(checkpoint)
        if kind == "supernet alone":
            for subnet in list(net.statistics):
                del net.statistics[subnet]
        held: Any = net.resident(norms="exact" if kind.endswith("exact") else "auto")
        memory, models = held.memory(), len(net.statistics)
        parts = {
            "weights": memory.weights + memory.derived,
            "norms, float32": memory.norms.naive_bytes,
            "norms as held": memory.norms.bytes,
            "of which decoded": memory.norms.decoded_bytes,
            "norms per subnet": memory.norms.bytes / max(1, models),
            "arena": memory.total,
        }
        held_bytes = held.arena.nbytes
        del net
    else:
        if kind == "4 ResNets":
            held = [getattr(torchvision.models, name)().eval() for name in RESNETS]
        else:
            net = _loaded(checkpoint)
            held = [extract(net, net.space.from_json(subnet)) for subnet in spread]
            del net
        models = len(held)
        held_bytes = _storage_bytes(
            tensor for module in held for tensor in [*module.parameters(), *module.buffers()]
        )
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed counts for nobody
    grown = _resident_set() - before
    del held
    return {"models": models, "bytes": held_bytes, "resident_set": grown, "parts": parts}


def _loaded(checkpoint: Path) -> Supernet:
    return create_supernet(SUPERNET, checkpoint=checkpoint)


def _storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the memory under them, each piece counted once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def _resident_set() -> int:
    """Bytes of this process that are in memory now (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return 1024 * int(line.split()[1])
    raise OSError("/proc/self/status has no VmRSS")


if __name__ == "__main__":
    main()
