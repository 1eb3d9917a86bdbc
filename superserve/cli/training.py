"""The command that trains supernets: on somebody's images, or an embedded one whole."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.progress import Progress, TaskID

from superserve.cli.app import Plugins, app, progress_bar
from superserve.cli.importing import _option as parsed_option
from superserve.cli.making import (
    BatchSize,
    Device,
    checked_device,
    open_checkpoint,
    piece_of,
)
from superserve.config import load_config
from superserve.errors import ConfigError

DIGITS_FOLDER = Path("runs/digits")


@app.command(rich_help_panel="Making supernets")
def train(
    what: Annotated[
        str, typer.Argument(help="A name of `superserve models`, or a checkpoint to start from.")
    ],
    data: Annotated[
        str,
        typer.Option(
            help="A folder with a folder per class, package.module:function, or digits:train; "
            "without it `train digits` makes the embedded supernet, whole."
        ),
    ] = "",
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Folder for everything. (default: runs/NAME)"),
    ] = None,
    validation: Annotated[
        str, typer.Option(help="Held-out data; else parts of --data, see --split.")
    ] = "",
    split: Annotated[
        str,
        typer.Option(help="How --data is cut to train, watch and report, where nothing else is."),
    ] = "80:10:10",
    epochs: Annotated[float, typer.Option(min=0.001, help="Passes over the data.")] = 30.0,
    batch_size: BatchSize = 64,
    lr: Annotated[float, typer.Option(min=0.0, help="The highest learning rate.")] = 3e-3,
    random_subnets: Annotated[
        int, typer.Option(min=0, help="In each step, beside the largest and the smallest.")
    ] = 2,
    shrink: Annotated[
        bool, typer.Option("--shrink", help="Progressively: full, then kernel, depth, width.")
    ] = False,
    teacher: Annotated[
        str, typer.Option(help="A checkpoint whose largest subnet teaches, or self.")
    ] = "",
    augment: Annotated[
        bool, typer.Option("--augment/--no-augment", help="Random crops and mirror images.")
    ] = True,
    flip: Annotated[bool, typer.Option("--flip/--no-flip", help="Mirror images.")] = True,
    amp: Annotated[
        Literal["none", "bfloat16", "float16"],
        typer.Option(help="Compute in this type; for GPUs."),
    ] = "none",
    device: Device = "cpu",
    seed: Annotated[int, typer.Option(min=0, help="Of weights, batches and subnets.")] = 0,
    option: Annotated[
        list[str] | None,
        typer.Option(help="key=value for the supernet, say image_size=64; may be repeated."),
    ] = None,
    scale: Annotated[
        float, typer.Option(min=0.001, max=10.0, help="Of the embedded recipe's steps.")
    ] = 1.0,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
    plugins: Plugins = None,
) -> None:
    """Train a supernet on a folder of images; interrupted, the same command goes on."""
    import torch

    torch.set_num_threads(threads)
    if not data:
        if what != "digits":
            raise ConfigError(
                f"there is a recipe for digits only, not for {what!r}: train it with --data FOLDER"
            )
        _digits(output or DIGITS_FOLDER, scale, seed)
        return
    from superserve.plugins import import_plugins

    import_plugins(load_config({"plugins": plugins}).plugins)
    from supernets.data.image_sources import Augmentation
    from supernets.learning.data_recipe import Recipe, make
    from supernets.learning.training import TrainingDiverged, frozen_teacher

    torch.manual_seed(seed)
    net, cut = _prepare(what, data, validation, split, seed, option or [], plugins)
    folder = output or Path("runs") / net.name
    recipe = Recipe(
        folder=folder,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=lr,
        random_subnets=random_subnets,
        seed=seed,
        shrink=shrink,
        amp="" if amp == "none" else amp,
        teacher=teacher,
        device=checked_device(device),
        augmentation=Augmentation(flip=0.5 if flip else 0.0) if augment else None,
    )
    taught_by = None
    if teacher:
        of = net if teacher == "self" else open_checkpoint(Path(teacher), plugins, None)
        if len(of.labels) != len(net.labels):
            raise ConfigError(f"{teacher} knows {len(of.labels)} classes, not {len(net.labels)}")
        taught_by = frozen_teacher(of)
    steps = recipe.steps(len(cut.train))
    print(f"{len(cut.train)} images of {len(net.labels)} classes to train on, {steps} steps")
    with progress_bar() as bar:
        watch = _Watch(bar, steps)
        try:
            card = make(net, cut, recipe, taught_by, watch.on_step, watch.on_epoch, watch.on_subnet)
        except (TrainingDiverged, ValueError) as error:
            raise ConfigError(str(error)) from error
    for entry in card.subnets:
        print(f"{entry.id}  {entry.accuracy:6.2f} ± {entry.standard_error or 0:.2f} %")
    file = folder / f"{net.name}.safetensors"
    print(f"Wrote {file} and its accuracy card.")
    print(f"Better subnets: superserve search {file} --data {data}")
    print(f"Serve it: superserve serve --supernet {net.name} --checkpoint {file}")


def _prepare(
    what: str,
    data: str,
    validation: str,
    split: str,
    seed: int,
    options: list[str],
    plugins: str | None,
) -> tuple[Any, Any]:
    """The supernet, with the classes of the data, and the data, cut."""
    from supernets.data.datasets import open_images
    from supernets.learning.data_recipe import Data
    from supernets.registry import create_supernet

    if Path(what).is_file():
        if options:
            raise ConfigError("a checkpoint says how it is built: leave out --option")
        net = open_checkpoint(Path(what), plugins, None)
        labels = net.labels
    else:
        chosen = dict(parsed_option(text) for text in options)
        try:
            net = create_supernet(what, pretrained=False, **chosen)
            classes = open_images(data, net.preprocessing).classes
            if classes and len(classes) != len(net.labels):
                net = create_supernet(
                    what, pretrained=False, **{**chosen, "num_classes": len(classes)}
                )
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(str(error.args[0])) from error
        labels = net.labels = classes or net.labels
    if validation:
        held_out = open_images(validation, net.preprocessing, labels)
        return net, Data(open_images(data, net.preprocessing, labels), held_out, held_out)
    parts = [
        open_images(data, net.preprocessing, labels, piece_of(split, part, seed))
        for part in ("train", "select", "report")
    ]
    return net, Data(*parts)


class _Watch:
    """Shows training on a progress bar, and epochs as lines."""

    def __init__(self, bar: Progress, steps: int) -> None:
        self._bar, self._steps = bar, steps
        self._tasks: dict[str, TaskID] = {}

    def on_step(self, step: Any) -> None:
        phase = f"{step.phase}: " if step.phase else ""
        self._show("train", step.index + 1, self._steps, f"{phase}loss {step.largest_loss:.3f}")

    def on_epoch(self, epoch: Any) -> None:
        print(
            f"epoch {epoch.index + 1}: loss {epoch.step.largest_loss:.3f}, "
            f"smallest {epoch.smallest:.2f} %, largest {epoch.largest:.2f} %"
            f"{f' ({epoch.step.phase})' if epoch.step.phase else ''}"
        )

    def on_subnet(self, phase: str, subnet: Any) -> None:
        self._show(phase, None, None, str(subnet))

    def _show(self, phase: str, done: int | None, total: int | None, detail: str) -> None:
        if phase not in self._tasks:
            self._tasks[phase] = self._bar.add_task(phase, total=total)
        text = f"{phase}: {detail}"[:60]
        if done is None:
            self._bar.update(self._tasks[phase], advance=1, description=text)
        else:
            self._bar.update(self._tasks[phase], completed=done, description=text)


def _digits(output: Path, scale: float, seed: int) -> None:
    """The embedded supernet by its own recipe."""
    from supernets.learning import digits_recipe

    recipe = digits_recipe.Recipe(output, scale, seed)
    with progress_bar() as bar:
        tasks: dict[str, Any] = {}

        def on_progress(phase: str, done: int, total: int, detail: str) -> None:
            if phase not in tasks:
                tasks[phase] = bar.add_task(phase, total=total)
            bar.update(tasks[phase], completed=done, description=f"{phase}: {detail}"[:60])

        card = digits_recipe.make(recipe, on_progress)
    for entry in card.subnets:
        print(f"{entry.id}  {entry.accuracy:6.2f} ± {entry.standard_error:.2f} %")
    print(f"Wrote {output}/digits.safetensors, its accuracy card and its model card.")
    print(f"Serve it: superserve serve --checkpoint {output}/digits.safetensors")
