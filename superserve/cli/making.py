"""Commands that make supernets: train."""

from pathlib import Path
from typing import Annotated, Any

import typer

from superserve.cli.app import app, progress_bar


@app.command(rich_help_panel="Making supernets")
def train(
    what: Annotated[str, typer.Argument(help="The supernet with a recipe: digits.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for everything.")] = Path(
        "runs/digits"
    ),
    scale: Annotated[
        float, typer.Option(min=0.001, max=10.0, help="Of the steps; under 1 for a trial.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, batches and subnets.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
) -> None:
    """Train an embedded supernet, whole; interrupted, the same command goes on."""
    if what != "digits":
        raise typer.BadParameter(f"there is a recipe for digits only, not for {what!r}")
    import torch

    from supernets import digits_recipe

    torch.set_num_threads(threads)
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
