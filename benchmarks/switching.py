"""What does it cost to change the subnet: in place, or by loading it as a model of its own?

``python -m benchmarks.switching``: the questions of figures 1a and 5b of the SuperServe paper
(NSDI'25). The digits supernet and OFA MobileNetV3 w1.0 (random weights), six subnets of each spread
over the sizes; float32, one thread, everything in turn in every round. In place: the first use of a
program and the later ones. Loading: with `superserve.model_files`, as `serve --worker extracted`
does, from a page cache that has the file and from one that was told to forget it; and, because that
is how it is mostly done, with ``torch.load`` of a pickled module. Then the answer to one image from
the change on, which also has what a change leaves for later: plans, page faults, cold caches.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from torch import Tensor

from benchmarks.common import RESULTS, header, show, write
from benchmarks.subnet_norms import distinct, randomised
from supernets import calibrate, create_supernet, extract
from supernets.cost import parameters
from supernets.resident_programs import ResidentPrograms
from supernets.space import Subnet
from supernets.supernet import Supernet
from superserve.model_files import HeldModels, ModelFiles
from superserve.profile_store import device_name

SPREAD = 6  # subnets of each supernet
SIZED = 40  # random ones among which those that are spread over the sizes are looked for
BATCHES = (1, 16)
DOCS = Path(__file__).parent.parent / "docs"

ACTUATE, FIRST = "in place", "in place, first use"
WARM, COLD, PICKLED = "load, cached", "load, not cached", "torch.load, cached"
CHANGES = (ACTUATE, FIRST, WARM, COLD, PICKLED)
# Okabe and Ito's palette: told apart with every kind of colour vision.
STYLES = {
    COLD: ("#D55E00", "v"),
    PICKLED: ("#CC79A7", "D"),
    WARM: ("#E69F00", "s"),
    FIRST: ("#56B4E9", "^"),
    ACTUATE: ("#0072B2", "o"),
}
CACHE = (
    "dropped with posix_fadvise for 'not cached', as a probe has shown; the disk may have caches "
    "of its own"
)
_PAGE = 4096


@dataclass(frozen=True, slots=True)
class Contender:
    """``prepare`` is not timed."""

    prepare: Callable[[], object]
    call: Callable[[], object]


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    device = torch.device(options.device)
    with tempfile.TemporaryDirectory(prefix="superserve-switching-") as folder, torch.no_grad():
        nets = {"digits": _digits(), "ofa_mobilenetv3": _mobilenet(options.seed)}
        droppable = _droppable(Path(folder))
        results = {
            name: study(net, subnets, Path(folder) / name, options.rounds, device, cold=droppable)
            for name, (net, subnets) in nets.items()
        }
        filesystem = _filesystem(Path(folder))
    for name, rows in results.items():
        _tables(name, rows)
    kind = "cpu" if device.type == "cpu" else torch.cuda.get_device_name(device)
    where = {
        "how": f"measured on {device_name(kind)}",
        "filesystem": filesystem,
        "page cache": CACHE if droppable else "cannot be dropped here: no 'not cached'",
    }
    document = {**header(options.seed, rounds=options.rounds), **where, "supernets": results}
    slug = "cpu" if device.type == "cpu" else kind.lower().replace(" ", "-")
    print(write(f"switching-{slug}", document, options.output))
    options.docs.mkdir(parents=True, exist_ok=True)
    draw(results, options.docs / f"switching-{slug}.png", where["how"])
    print(options.docs / f"switching-{slug}.png")


def study(
    net: Supernet,
    subnets: Sequence[Subnet],
    folder: Path,
    rounds: int,
    device: torch.device,
    *,
    cold: bool,
) -> list[dict[str, Any]]:
    """A row for each subnet, ascending in size: the bytes of its file, and seconds."""
    resident = net.resident(device, subnets=subnets)
    assert isinstance(resident, ResidentPrograms)
    files = ModelFiles(folder, device)
    folder.mkdir()
    for subnet in subnets:
        torch.save(extract(net, subnet), _pickle(files, subnet))
        files.add(subnet, extract(net, subnet))
        for path in (files.path(subnet), _pickle(files, subnet)):
            with path.open("rb") as file:
                os.fsync(file.fileno())  # what is not on the disk yet cannot be dropped
    subnets = sorted(subnets, key=lambda subnet: files.path(subnet).stat().st_size)
    held = HeldModels(files, 1)
    step = net.preprocessing
    images = torch.randn(max(BATCHES), step.channels, step.height, step.width, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    contenders: dict[tuple[Subnet, str], Contender] = {}
    for index, subnet in enumerate(subnets):
        other = subnets[index - 1]
        found = {
            **_changes(resident, held, files, subnet, other, images),
            **_answers(resident, held, files, subnet, other, images),
        }
        if not cold:
            found = {name: c for name, c in found.items() if COLD not in name}
        contenders |= {(subnet, name): contender for name, contender in found.items()}
    times = _measured(contenders, rounds, device)
    return [_row(files, subnet, times) for subnet in subnets]


def _row(
    files: ModelFiles, subnet: Subnet, times: dict[tuple[Subnet, str], list[float]]
) -> dict[str, Any]:
    seconds = {name: taken for (of, name), taken in times.items() if of == subnet}
    return {
        "subnet": str(subnet),
        "file_bytes": files.path(subnet).stat().st_size,
        "median_ms": {name: 1e3 * statistics.median(taken) for name, taken in seconds.items()},
        "seconds": seconds,
    }


def _changes(
    resident: ResidentPrograms,
    held: HeldModels,
    files: ModelFiles,
    subnet: Subnet,
    other: Subnet,
    images: Tensor,
) -> dict[str, Contender]:
    """Until the subnet could run. ``other`` ran before; one model is held at a time."""
    path, pickled = files.path(subnet), _pickle(files, subnet)

    def both_ran() -> None:
        resident(images[:1], subnet)
        resident(images[:1], other)

    def unpickled() -> object:
        return torch.load(pickled, weights_only=False).to(
            resident.device, memory_format=torch.channels_last
        )

    return {
        ACTUATE: Contender(both_ran, lambda: resident.program(subnet)),
        FIRST: Contender(lambda: _forget(resident), lambda: resident.program(subnet)),
        WARM: Contender(lambda: (held.use(other), path.read_bytes()), lambda: held.use(subnet)),
        COLD: Contender(lambda: (held.use(other), _drop(path)), lambda: held.use(subnet)),
        PICKLED: Contender(pickled.read_bytes, unpickled),
    }


def _answers(
    resident: ResidentPrograms,
    held: HeldModels,
    files: ModelFiles,
    subnet: Subnet,
    other: Subnet,
    images: Tensor,
) -> dict[str, Contender]:
    """Each change with the answer to one image, and answers without a change."""
    image = images[:1]

    def loaded() -> object:
        held.use(subnet)
        return held(image, subnet)

    answers = {
        f"{name}, answer": Contender(change.prepare, call)
        for name, change in _changes(resident, held, files, subnet, other, images).items()
        for call in [loaded if name in {WARM, COLD} else lambda: resident(image, subnet)]
        if name != PICKLED
    }
    for batch in BATCHES:
        x = images[:batch]
        answers[f"batch {batch}, resident"] = Contender(
            lambda x=x: resident(x, subnet), lambda x=x: resident(x, subnet)
        )
        answers[f"batch {batch}, extracted"] = Contender(
            lambda x=x: (held.use(subnet), held(x, subnet)), lambda x=x: held(x, subnet)
        )
    return answers


def _measured(
    contenders: dict[tuple[Subnet, str], Contender], rounds: int, device: torch.device
) -> dict[tuple[Subnet, str], list[float]]:
    """Seconds of each, all of them in turn in every round; the first round does not count."""
    times: dict[tuple[Subnet, str], list[float]] = {key: [] for key in contenders}
    for _ in range(rounds + 1):
        for key, contender in contenders.items():
            contender.prepare()
            _settled(device)
            start = time.perf_counter()
            made = contender.call()
            _settled(device)
            times[key].append(time.perf_counter() - start)
            del made
    return {key: taken[1:] for key, taken in times.items()}


def _settled(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _forget(resident: ResidentPrograms) -> None:
    """As if no subnet had ever been used."""
    resident._lowered.clear()  # noqa: SLF001
    resident._programs.clear()  # noqa: SLF001


def _pickle(files: ModelFiles, subnet: Subnet) -> Path:
    return files.path(subnet).with_suffix(".pt")


def _drop(path: Path) -> None:
    """Have the system forget the pages of a file that is on the disk."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _droppable(folder: Path) -> bool:
    """Whether the page cache forgets a file when it is told to: seen by asking for a page at once.

    It needs the flag RWF_NOWAIT of ``preadv``, which Linux has.
    """
    path = folder / "probe"
    path.write_bytes(os.urandom(64 * _PAGE))
    with path.open("rb") as file:
        os.fsync(file.fileno())
        cached = _cached(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return cached and not _cached(file.fileno())


def _cached(file: int) -> bool:
    """Whether a page in the middle is in the page cache."""
    try:
        return os.preadv(file, [bytearray(_PAGE)], 32 * _PAGE, os.RWF_NOWAIT) == _PAGE
    except (BlockingIOError, AttributeError):
        return False


def _filesystem(folder: Path) -> str:
    """The type of the file system that the folder lies on (Linux)."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    inside = [mount for mount in mounts if folder.resolve().is_relative_to(mount[0])]
    return max(inside, key=lambda mount: len(mount[0]), default=["", "unknown"])[1]


def _digits() -> tuple[Supernet, list[Subnet]]:
    net = create_supernet("digits")
    return net, _spread(net, list(net.statistics))


def _mobilenet(seed: int) -> tuple[Supernet, list[Subnet]]:
    net = randomised(create_supernet("ofa_mobilenetv3").eval(), seed)
    ends = [net.space.smallest, net.space.largest]
    subnets = _spread(net, [*ends, *distinct(net.space, SIZED, seed)])
    generator = torch.Generator().manual_seed(seed)
    calibrate(net, subnets, [torch.randn(2, 3, 64, 64, generator=generator)])
    return net, subnets


def _spread(net: Supernet, subnets: Sequence[Subnet]) -> list[Subnet]:
    """`SPREAD` of them, evenly by rank of size."""
    sizes = {subnet: parameters(net, subnet) for subnet in subnets}
    ranked = sorted(sizes, key=lambda subnet: sizes[subnet])
    return [ranked[round(i * (len(ranked) - 1) / (SPREAD - 1))] for i in range(SPREAD)]


def _tables(name: str, rows: Sequence[dict[str, Any]]) -> None:
    names = [change for change in CHANGES if change in rows[0]["median_ms"]]
    show(
        f"{name}: ms to change to a subnet (medians)",
        ["MB", *names, "load, cached / in place", "load, cached / batch 16"],
        [
            [
                f"{row['file_bytes'] / 1e6:.2f}",
                *(f"{row['median_ms'][change]:.3f}" for change in names),
                row["median_ms"][WARM] / row["median_ms"][ACTUATE],
                row["median_ms"][WARM] / row["median_ms"]["batch 16, extracted"],
            ]
            for row in rows
        ],
    )
    rest = [found for found in rows[0]["median_ms"] if found not in CHANGES]
    show(
        f"{name}: ms until one image is answered, and of answers without a change (medians)",
        ["MB", *rest],
        [
            [f"{row['file_bytes'] / 1e6:.2f}", *(row["median_ms"][found] for found in rest)]
            for row in rows
        ],
    )


def draw(results: dict[str, list[dict[str, Any]]], path: Path, how: str) -> None:
    """Milliseconds to change against the size of the subnet, a field for each supernet."""
    figure = Figure(figsize=(9.0, 4.2), layout=ConstrainedLayoutEngine(w_pad=0.08))
    fields = figure.subplots(1, len(results), sharey=True)
    for axes, (name, rows) in zip(fields, results.items(), strict=True):
        sizes = [row["file_bytes"] / 1e6 for row in rows]
        for change, (colour, marker) in STYLES.items():
            if change in rows[0]["median_ms"]:
                taken = [row["median_ms"][change] for row in rows]
                axes.plot(sizes, taken, marker=marker, color=colour, label=change, linewidth=1.4)
        axes.set_yscale("log")
        axes.set_title(name, loc="left", fontsize=10.5)
        axes.set_xlabel("Size of the subnet (MB, float32)")
        axes.set_xlim(left=0)
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    fields[0].set_ylabel("Time to change to it (ms)")
    handles = fields[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=len(STYLES), frameon=False)
    figure.supxlabel(f"One thread; {how}", fontsize=8.5, color="#666666")
    figure.savefig(path, dpi=160, facecolor="white")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="cpu or cuda:0")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the JSON file")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of the picture")
    return parser.parse_args()


if __name__ == "__main__":
    main()
