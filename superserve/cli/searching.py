"""The command that searches a supernet's subnets for those worth serving."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.progress import Progress as Bar

from superserve.cli.app import Plugins, app, progress_bar
from superserve.cli.making import (
    BatchSize,
    CpuThreads,
    Device,
    SavedCheckpoint,
    checked_device,
    open_checkpoint,
    piece_of,
)
from superserve.errors import ConfigError

# Population and generations: a measured generation costs minutes, a predicted one next to nothing.
MEASURED, PREDICTED = (24, 8), (100, 30)


@app.command(rich_help_panel="Making supernets")
def search(
    checkpoint: SavedCheckpoint,
    data: Annotated[
        str,
        typer.Option(
            help="A folder with a folder per class, package.module:function, or digits:select."
        ),
    ] = "",
    calibration_data: Annotated[
        str, typer.Option(help="Training images for calibration; else a part of --data.")
    ] = "",
    split: Annotated[
        str,
        typer.Option(
            help="Cut --data in train:select:report: calibrates on the first part, measures on "
            "the second. (default: 30:70:0 without --calibration-data)"
        ),
    ] = "",
    latency: Annotated[
        Literal["measured", "macs"], typer.Option(help="The cost: seconds here, or MACs.")
    ] = "measured",
    accuracy: Annotated[
        str, typer.Option(help="measured, or predicted:FILE, a predictor of Once-for-All.")
    ] = "measured",
    population: Annotated[
        int | None, typer.Option(min=2, help="Of a generation. (default: 24; predicted: 100)")
    ] = None,
    generations: Annotated[
        int | None, typer.Option(min=0, help="After the first. (default: 8; predicted: 30)")
    ] = None,
    budget_images: Annotated[
        int | None, typer.Option(min=1, help="At most so many forwards, calibration included.")
    ] = None,
    images: Annotated[
        int, typer.Option(min=2, help="That a subnet on the front is measured on.")
    ] = 1024,
    first_images: Annotated[int, typer.Option(min=2, help="That every subnet is shown.")] = 64,
    eta: Annotated[int, typer.Option(min=2, help="Times as many images in each rung.")] = 4,
    separation: Annotated[
        float, typer.Option(min=0.0, help="Standard errors behind at which a subnet is dropped.")
    ] = 2.5,
    calibration_images: Annotated[int, typer.Option(min=1, help="For each subnet.")] = 512,
    batch_size: BatchSize = 100,
    seed: Annotated[int, typer.Option(min=0, help="Of all that is drawn.")] = 0,
    write: Annotated[
        bool, typer.Option("--write", help="Put the front's statistics into the checkpoint.")
    ] = False,
    output: Annotated[Path, typer.Option("-o", "--output", help="The front.")] = Path("front.json"),
    device: Device = "cpu",
    threads: CpuThreads = None,
    plugins: Plugins = None,
) -> None:
    """Find the subnets that no other beats in accuracy and cost; interrupted, it goes on.

    A space no larger than the search would look at is measured whole.
    """
    from supernets.searching.halving import HalvingOptions
    from supernets.searching.search import EvolutionOptions
    from supernets.searching.search_recipe import Recipe, keep_statistics, write_front

    file = accuracy.removeprefix("predicted:")
    predicted = file != accuracy
    if not predicted and accuracy != "measured":
        raise ConfigError(f"--accuracy is measured or predicted:FILE, not {accuracy!r}")
    if not predicted and not data:
        raise ConfigError("say which images to measure accuracy on: --data FOLDER")
    if predicted and write:
        raise ConfigError("a prediction makes no statistics: leave out --write, and calibrate")
    net = open_checkpoint(checkpoint, plugins, threads).to(checked_device(device))
    had = set(net.statistics)
    usual = PREDICTED if predicted else MEASURED
    recipe = Recipe(
        EvolutionOptions(
            population=usual[0] if population is None else population,
            generations=usual[1] if generations is None else generations,
        ),
        HalvingOptions(min(first_images, images), images, eta, separation),
        latency,
        budget_images,
        batch_size,
        seed,
        device,
    )
    record = output.with_name(f"{output.stem}.measured.json")
    if predicted:
        result = _predicted(checkpoint, net, Path(file), recipe, record)
    else:
        images_ = _images(net, data, calibration_data, split, calibration_images, recipe)
        result = _measured(checkpoint, net, images_, recipe, record)
    write_front(output, result, latency, "predicted" if predicted else "measured")
    _print(result, latency)
    if write:
        print(f"Statistics of {keep_statistics(checkpoint, net, result, had)} subnets written.")
    elif net.norms():
        print(f"Calibrate: superserve calibrate {checkpoint} --subnets {output} --data ...")
    print(f"Wrote {output}. Accuracies of what was selected are a little too high: measure them on")
    print(f"other images: superserve evaluate {checkpoint} --subnets {output} --data ...")


def _images(
    net: Any, data: str, calibration: str, split: str, calibration_images: int, recipe: Any
) -> Any:
    from supernets.data.datasets import open_images
    from supernets.searching.search_recipe import SearchImages

    cut = split or ("" if calibration else "30:70:0")
    step, labels = net.preprocessing, net.labels
    measured = open_images(data, step, labels, piece_of(cut, "select", recipe.seed))
    training = (
        open_images(calibration, step, labelled=False)
        if calibration
        else open_images(data, step, labels, piece_of(cut, "train", recipe.seed))
    )
    return SearchImages.load(
        measured,
        training,
        recipe.halving.last,
        calibration_images,
        recipe.batch_size,
        recipe.seed,
    )


def _measured(checkpoint: Path, net: Any, images: Any, recipe: Any, record: Path) -> Any:
    from supernets.searching.search_recipe import measured_front

    with progress_bar() as bar:
        return measured_front(checkpoint, net, images, recipe, record, _progress(bar, recipe))


def _predicted(checkpoint: Path, net: Any, file: Path, recipe: Any, record: Path) -> Any:
    from supernets.searching.predictors import UnsuitedPredictor, load_predictor
    from supernets.searching.search_recipe import predicted_front

    try:
        predictor = load_predictor(file, net.space)
        with progress_bar() as bar:
            watch = _progress(bar, recipe)
            return predicted_front(checkpoint, net, predictor, recipe, record, watch)
    except UnsuitedPredictor as error:
        raise ConfigError(str(error)) from error


def _progress(bar: Bar, recipe: Any) -> Any:
    """Generations on one bar, what happens within on two others."""
    from supernets.searching.search import front
    from supernets.searching.search_recipe import Progress

    generations = bar.add_task("generations", total=recipe.evolution.generations + 1)
    shown = bar.add_task("images shown", total=recipe.budget)
    timed = bar.add_task("rounds timed", total=None, visible=recipe.cost == "measured")

    def on_generation(done: int, points: Sequence[Any]) -> None:
        text = f"generations: {len(points)} subnets, {len(front(points))} on the front"
        bar.update(generations, completed=done + 1, description=text)

    return Progress(
        on_generation,
        lambda count: bar.advance(shown, count),
        lambda done, total: bar.update(timed, completed=done, total=total),
    )


def _print(result: Any, latency: str) -> None:
    scale, unit = (1e3, "ms") if latency == "measured" else (1e-6, "million MACs")
    for point in result.front:
        error = "" if point.standard_error is None else f" ± {point.standard_error:.2f}"
        cost = f"{scale * point.cost:9.3f} {unit}"
        print(f"{point.subnet.id}  {point.accuracy:6.2f}{error} %  {cost}  {point.subnet}")
    spent = f", {result.images} images shown" if result.images else ""
    print(f"{len(result.front)} of {len(result.points)} subnets looked at are on the front{spent}.")
