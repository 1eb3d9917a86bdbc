"""Commands that make supernets: calibrate, evaluate, export."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress, TaskID

from superserve.cli.app import Plugins, app, progress_bar
from superserve.config import load_config
from superserve.errors import ConfigError

Data = Annotated[
    str,
    typer.Option(
        help="A folder with a folder per class, package.module:function, or digits:train|select|"
        "report."
    ),
]
SavedCheckpoint = Annotated[Path, typer.Argument(help="A safetensors file of SuperServe.")]
Subnets = Annotated[
    str,
    typer.Option(
        help="A JSON file (of `superserve search`), ids, 'N random', all, front, smallest, largest."
    ),
]
Split = Annotated[
    str,
    typer.Option(help="Cut the data in train:select:report, say 80:10:10, and use one part."),
]
Images = Annotated[int, typer.Option(min=1, help="At most so many, drawn at random.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images per forward pass.")]
Seed = Annotated[int, typer.Option(min=0, help="Of what is drawn and cut.")]
Device = Annotated[str, typer.Option(help="cpu or cuda:0.")]
CpuThreads = Annotated[int | None, typer.Option(min=1, help="CPU threads. [default: all]")]


@app.command(rich_help_panel="Making supernets")
def calibrate(
    checkpoint: SavedCheckpoint,
    data: Data,
    subnets: Subnets = "",
    images: Images = 2000,
    batch_size: BatchSize = 100,
    split: Split = "",
    seed: Seed = 0,
    again: Annotated[
        bool, typer.Option("--again", help="Also those that have statistics already.")
    ] = False,
    device: Device = "cpu",
    threads: CpuThreads = None,
    plugins: Plugins = None,
) -> None:
    """Give subnets their normalisation statistics; interrupted, the same command goes on.

    Without --subnets: the smallest, the largest and 14 random ones, or with --again those that
    have statistics.
    """
    from supernets.calibration import calibrate_checkpoint
    from supernets.data.datasets import open_images
    from supernets.searching.subnet_choice import choose_subnets

    net = open_checkpoint(checkpoint, plugins, threads).to(checked_device(device))
    if not net.norms():
        print(f"{net.name} has no batch normalisation: there is nothing to calibrate.")
        return
    wanted = choose_subnets(net, checkpoint, subnets or ("" if again else "16 random"), seed)
    missing = [subnet for subnet in wanted if again or subnet not in net.statistics]
    if not missing:
        print(f"All {len(wanted)} subnets have statistics already; --again measures them anew.")
        return
    piece = piece_of(split, "train", seed)
    chosen = open_images(data, net.preprocessing, piece=piece, labelled=False).subset(images, seed)
    with progress_bar() as bar:
        watched, on_subnet = _progress(bar, chosen.batches(batch_size), len(missing))
        identity = f"{chosen.fingerprint()} in batches of {batch_size}"
        done = calibrate_checkpoint(
            checkpoint, net, missing, watched, identity, again=again, progress=on_subnet
        )
    print(f"{len(done)} subnets calibrated on {len(chosen)} images of {chosen.name}: {checkpoint}")
    print(f"Measure them: superserve evaluate {checkpoint} --data ...")


@app.command(rich_help_panel="Making supernets")
def evaluate(
    checkpoint: SavedCheckpoint,
    data: Data,
    subnets: Subnets = "",
    images: Annotated[
        int | None, typer.Option(min=1, help="At most so many, drawn at random. [default: all]")
    ] = None,
    batch_size: BatchSize = 100,
    split: Split = "",
    seed: Seed = 0,
    dataset_name: Annotated[str, typer.Option(help="On the card; else the data's own.")] = "",
    allow_uncalibrated: Annotated[
        bool, typer.Option("--allow-uncalibrated", help="With the statistics all subnets share.")
    ] = False,
    device: Device = "cpu",
    threads: CpuThreads = None,
    plugins: Plugins = None,
) -> None:
    """Measure subnets on held-out images and write the accuracy card; it can be interrupted.

    Without --subnets: those that are calibrated.
    """
    from supernets.data.datasets import open_images
    from supernets.evaluation import evaluate as measure
    from supernets.norms.statistics import MissingStatistics
    from supernets.searching.subnet_choice import choose_subnets

    net = open_checkpoint(checkpoint, plugins, threads)
    wanted = choose_subnets(net, checkpoint, subnets, seed)
    if not wanted:
        raise ConfigError(
            f"no subnet is calibrated in {checkpoint}: run superserve calibrate first"
            if net.norms()
            else f"{net.name} needs no calibration, so say which subnets to measure: --subnets"
        )
    piece = piece_of(split, "report", seed)
    chosen = open_images(data, net.preprocessing, net.labels, piece)
    chosen = chosen if images is None else chosen.subset(images, seed)
    with progress_bar() as bar:
        watched, on_subnet = _progress(bar, chosen.batches(batch_size), len(wanted))
        try:
            card = measure(
                checkpoint,
                net.name,
                wanted,
                watched,
                dataset_name or chosen.name,
                clusters=chosen.clusters,
                allow_uncalibrated=allow_uncalibrated,
                device=checked_device(device),
                data=chosen.fingerprint(),
                progress=on_subnet,
            )
        except MissingStatistics as error:
            raise ConfigError(str(error)) from error
    for entry, subnet in zip(card.subnets, wanted, strict=True):
        spread = "" if entry.standard_error is None else f" ± {entry.standard_error:.2f}"
        top5 = "" if entry.top5 is None else f"  top-5 {entry.top5:6.2f} %"
        print(f"{entry.id}  {entry.accuracy:6.2f}{spread} %{top5}  {subnet}")
    print(f"{card.samples} images of {card.dataset}. {card.notes}".rstrip())
    print(f"Serve it: superserve serve --supernet {net.name} --checkpoint {checkpoint}")


@app.command(rich_help_panel="Making supernets")
def export(
    checkpoint: SavedCheckpoint,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="FILE.pt2, FILE.onnx or FILE.safetensors.")
    ],
    subnet: Annotated[
        str, typer.Option(help="An id, settings as JSON, smallest or largest.")
    ] = "largest",
    allow_uncalibrated: Annotated[
        bool, typer.Option("--allow-uncalibrated", help="With the statistics all subnets share.")
    ] = False,
    plugins: Plugins = None,
) -> None:
    """Write one subnet as a plain file for other programs, and check that it computes the same."""
    from supernets.exporting import export as write
    from supernets.norms.statistics import MissingStatistics
    from supernets.searching.subnet_choice import choose_subnets

    net = open_checkpoint(checkpoint, plugins, None)
    chosen = choose_subnets(net, checkpoint, subnet)
    if len(chosen) != 1:
        raise ConfigError(f"one subnet can be exported at a time; {subnet!r} are {len(chosen)}")
    try:
        file = write(net, chosen[0], output, allow_uncalibrated=allow_uncalibrated)
    except MissingStatistics as error:
        raise ConfigError(str(error)) from error
    print(f"Subnet {chosen[0].id} ({chosen[0]}): {file}, {file.stat().st_size / 1e6:.1f} MB")


def open_checkpoint(checkpoint: Path, plugins: str | None, threads: int | None) -> Any:
    """The supernet in a checkpoint, by the name that the file holds."""
    import torch

    from supernets.fingerprint import read_metadata
    from supernets.registry import create_supernet
    from superserve.plugins import import_plugins

    import_plugins(load_config({"plugins": plugins}).plugins)
    if threads is not None:
        torch.set_num_threads(threads)
    name = read_metadata(checkpoint).get("name", "")
    try:
        return create_supernet(name, checkpoint)
    except KeyError as error:
        raise ConfigError(f"{error.args[0]}; --plugins names modules that have others") from error


def checked_device(name: str) -> str:
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"there is no device {name!r} here; use cpu or cuda:0") from error
    return name


def piece_of(split: str, part: str, seed: int) -> Any:
    from supernets.data.datasets import Piece

    if not split:
        return None
    try:
        train, select, report = (float(share) for share in split.split(":"))
    except ValueError as error:
        raise ConfigError(f"--split is three shares, say 80:10:10, not {split!r}") from error
    if min(train, select, report) < 0 or not 0 < train + select + report < float("inf"):
        raise ConfigError(f"the shares of --split must be positive, not {split!r}")
    return Piece(part, (train, select, report), seed)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class _Watched:
    """Batches that move a bar while they are read, from the start again with every pass."""

    batches: Any
    bar: Progress
    task: TaskID

    def __iter__(self) -> Iterator[Any]:
        self.bar.reset(self.task)
        for batch in self.batches:
            yield batch
            self.bar.advance(self.task)


def _progress(
    bar: Progress, batches: Any, subnets: int
) -> tuple[Iterable[Any], Callable[[Any], None]]:
    """Batches that show how far a pass is, and what to call with each finished subnet."""
    overall = bar.add_task("subnets", total=subnets)
    within = bar.add_task("batches of this pass", total=len(batches))
    return _Watched(batches, bar, within), lambda _: bar.advance(overall)
