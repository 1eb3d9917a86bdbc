"""What all commands share: the application, the console, options, how errors end."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from supernets.errors import CheckpointError, DataError, ExportError
from superserve.config import DEFAULTS
from superserve.errors import SuperServeError

app = typer.Typer(
    help="SuperServe: an elastic supernet model server with fine-grained accuracy scaling.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console(stderr=True, highlight=False, markup=False)


def default(text: str, name: str) -> Any:
    """A help text that ends with the setting's default."""
    value = getattr(DEFAULTS, name)
    shown = ",".join(value) if isinstance(value, tuple) else value
    return typer.Option(help=f"{text} \\[default: {shown or 'none'}]", show_default=False)


Supernet = Annotated[str | None, default("A name of `superserve models`.", "supernet")]
Checkpoint = Annotated[str | None, default("Weights, a safetensors file.", "checkpoint")]
Card = Annotated[str | None, default("Accuracies; else the card by the weights.", "accuracy_card")]
Plugins = Annotated[str | None, default("Modules that register supernets, a,b.", "plugins")]
Kernels = Annotated[str | None, default("What runs the subnets: auto, triton or torch.", "kernels")]
Worker = Annotated[
    str | None, default("resident (the supernet) or extracted (models, loaded).", "worker")
]
ResidentModels = Annotated[
    int | None, default("Models that an extracted worker holds.", "resident_models")
]
Threads = Annotated[int | None, default("Threads of each CPU worker.", "threads")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="A TOML file of settings.")]


def progress_bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
    )


def run() -> None:
    """Run the command of the command line; an error of ours becomes one line and exit status 1."""
    sys.path.insert(0, str(Path.cwd()))  # where people keep their own policies and supernets
    try:
        app()
    except (SuperServeError, CheckpointError, DataError, ExportError) as error:
        console.print(f"error: {error}", style="bold red", soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        console.print("Interrupted.")
        sys.exit(130)
