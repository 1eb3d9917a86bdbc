"""The command line: `superserve serve|train|profile|models|classify|demo`. An edge, so ms and %."""

import asyncio
import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from supernets.errors import CheckpointError
from superserve.config import DEFAULTS, Config, load_config
from superserve.errors import SuperServeError

app = typer.Typer(
    help="SuperServe: an elastic supernet model server with fine-grained accuracy scaling.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console(stderr=True, highlight=False, markup=False)

Text = Annotated[str | None, typer.Option(show_default=False)]


def _default(text: str, name: str) -> Any:
    """A help text that ends with the setting's default."""
    value = getattr(DEFAULTS, name)
    shown = ",".join(value) if isinstance(value, tuple) else value
    return typer.Option(help=f"{text} [default: {shown or 'none'}]", show_default=False)


Supernet = Annotated[str | None, _default("A name of `superserve models`.", "supernet")]
Checkpoint = Annotated[str | None, _default("Weights, a safetensors file.", "checkpoint")]
Card = Annotated[str | None, _default("Accuracies; else the card by the weights.", "accuracy_card")]
Plugins = Annotated[str | None, _default("Modules that register supernets, a,b.", "plugins")]
Threads = Annotated[int | None, _default("Threads of each CPU worker.", "threads")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="A TOML file of settings.")]


@app.command()
def serve(
    supernet: Supernet = None,
    checkpoint: Checkpoint = None,
    accuracy_card: Card = None,
    latency_profile: Annotated[
        str | None, _default("A file of `superserve profile`.", "latency_profile")
    ] = None,
    plugins: Plugins = None,
    policy: Annotated[
        str | None, _default("A policy's name, or package.module:Class.", "policy")
    ] = None,
    policy_options: Annotated[
        str | None, _default("Its options, key=value,key=value.", "policy_options")
    ] = None,
    host: Annotated[str | None, _default("Address to listen on.", "host")] = None,
    port: Annotated[int | None, _default("Port; 0 takes any free one.", "port")] = None,
    devices: Annotated[
        str | None, _default("A worker each: cpu, cuda:0,cuda:1, emulated:4.", "devices")
    ] = None,
    threads: Threads = None,
    credits_: Annotated[
        int | None, typer.Option("--credits", help="Batches that a worker may hold. [default: 1]")
    ] = None,
    slo_ms: Annotated[float | None, _default("SLO of a request without one.", "slo_ms")] = None,
    max_slo_ms: Annotated[float | None, _default("The longest SLO.", "max_slo_ms")] = None,
    late: Annotated[str | None, _default("What is late: drop or serve.", "late")] = None,
    margin_ms: Annotated[
        float | None, _default("Planned on top of the profile.", "margin_ms")
    ] = None,
    reserve: Annotated[float | None, _default("Share of the SLO kept back.", "reserve")] = None,
    slots: Annotated[int | None, _default("Images in the server at once.", "slots")] = None,
    drain_s: Annotated[float | None, _default("Seconds to finish at SIGTERM.", "drain_s")] = None,
    allow_uncalibrated: Annotated[
        bool | None, typer.Option(help="Serve subnets without statistics of their own.")
    ] = None,
    log_level: Annotated[str | None, _default("debug, info, warning...", "log_level")] = None,
    config_file: ConfigFile = None,
) -> None:
    """Serve a supernet over HTTP; POST images to /v1/classify."""
    overrides = {key: value for key, value in locals().items() if key in Config.__slots__}
    config = load_config({**overrides, "credits": credits_}, file=config_file)
    _log_as_asked(config)
    import uvloop

    uvloop.run(_serve(config))


async def _serve(config: Config) -> None:
    from superserve.server.run import listen, run_server
    from superserve.service import running

    listener = listen(config)
    host, port = listener.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    console.print(f"Starting {config.supernet} on {', '.join(config.devices)} ...")
    async with running(config, say=console.print) as service:
        for name, profile in service.profiles.items():
            console.print(_subnet_table(name, profile, service.dispatcher.models[name].subnets))
        console.print(f"Policy {config.policy}; SLO {config.slo_ms:g} ms unless a request says so.")
        console.print(f"Serving on {url}  (docs: {url}/docs; stop with Ctrl-C)")
        await run_server(service.app, config, listener=listener)
    console.print("Stopped.")


def _subnet_table(name: str, profile: Any, readable: dict[str, str]) -> Table:
    table = Table(title=f"Subnets of {name}: accuracy, planned ms per batch size")
    table.add_column("subnet", no_wrap=True)
    table.add_column("%", justify="right", no_wrap=True)
    for batch in profile.batch_sizes:
        table.add_column(f"ms/{batch}", justify="right", no_wrap=True)
    table.add_column("settings", overflow="ellipsis", no_wrap=True)
    for subnet, accuracy, row in zip(
        profile.subnets, profile.accuracies, profile.latencies, strict=True
    ):
        cells = [f"{seconds * 1000:.1f}" for seconds in row]
        table.add_row(subnet, f"{accuracy:.2f}", *cells, readable.get(subnet, ""))
    return table


@app.command()
def profile(
    supernet: Supernet = None,
    checkpoint: Checkpoint = None,
    accuracy_card: Card = None,
    plugins: Plugins = None,
    threads: Threads = None,
    device: Annotated[str, typer.Option(help="cpu or cuda:0.")] = "cpu",
    output: Annotated[str, typer.Option(help="A file; else the user's cache.")] = "",
    config_file: ConfigFile = None,
) -> None:
    """Measure latency per subnet and batch size on a device, for policies to plan with."""
    overrides = {key: value for key, value in locals().items() if key in Config.__slots__}
    config = load_config(overrides, file=config_file)
    from superserve.profile_store import LatencyProfile
    from superserve.profiling import measure

    with _progress_bar() as bar:
        task = bar.add_task("measuring", total=100)

        def on_progress(spent: float, allowed: float) -> None:
            bar.update(task, completed=100 * spent / allowed)

        path = asyncio.run(measure(config, device, output, on_progress))
    measured = LatencyProfile.read(path)
    table = measured.join(measured.model.accuracies, 0.0)
    console.print(_subnet_table(measured.model.name, table, measured.model.subnets))
    runs = min(cell.runs for row in measured.latencies.values() for cell in row.values())
    console.print(f"p99 over at least {runs} runs each, measured on {measured.device_name}.")
    print(path)


@app.command()
def models(
    plugins: Plugins = None,
    url: Annotated[str | None, typer.Option(help="Ask a running server instead.")] = None,
) -> None:
    """List the supernets that can be served, or what a running server serves."""
    if url is not None:
        from superserve.client import Client

        with Client(url) as client:
            for model in client.models():
                console.print(f"{model.name}: {model.resident_bytes / 1e6:.1f} MB resident")
                for subnet in model.subnets:
                    print(f"{subnet.id}  {subnet.accuracy:6.2f} %  {subnet.settings}")
        return
    from supernets.accuracy_card import AccuracyCard, card_path
    from supernets.registry import default_checkpoint, list_supernets
    from superserve.plugins import import_plugins

    import_plugins(load_config({"plugins": plugins}).plugins)
    for name in list_supernets():
        weights = default_checkpoint(name)
        if weights is None:
            print(f"{name}: needs --checkpoint FILE")
            continue
        card = AccuracyCard.read(card_path(weights))
        found = [entry.accuracy for entry in card.subnets]
        print(
            f"{name}: comes with weights; {len(found)} subnets, {min(found):.2f} to "
            f"{max(found):.2f} % on {card.dataset}"
        )


@app.command()
def classify(
    files: Annotated[list[Path], typer.Argument(help="JPEG, PNG or WebP files.")],
    url: Annotated[
        str | None, typer.Option(help="A running server; without it the model is loaded here.")
    ] = None,
    supernet: Supernet = None,
    checkpoint: Checkpoint = None,
    slo_ms: Annotated[float | None, typer.Option(help="With --url: the deadline.")] = None,
    top_k: Annotated[int, typer.Option(min=1, help="How many labels to show.")] = 3,
) -> None:
    """Classify image files, on a running server or right here with the largest subnet."""
    from superserve.local_classify import classify_here, read_image

    if url is None:
        config = load_config({"supernet": supernet, "checkpoint": checkpoint})
        rows = classify_here(config, files, top_k)
    else:
        from superserve.client import Client

        parameters: dict[str, Any] = {"top_k": top_k}
        if slo_ms is not None:
            parameters["slo_ms"] = slo_ms
        with Client(url) as client:
            answers = [client.classify(read_image(file), **parameters) for file in files]
        rows = [[(p.label, p.score) for p in answer.predictions] for answer in answers]
    for file, row in zip(files, rows, strict=True):
        print(f"{file}: " + ", ".join(f"{label} ({score:.1%})" for label, score in row))


@app.command()
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
    with _progress_bar() as bar:
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


@app.command()
def demo(
    seconds: Annotated[
        float, typer.Option(min=1.0, max=3600.0, help="Of one run: calm, burst, calm.")
    ] = 30.0,
    slo_ms: Annotated[float | None, typer.Option(help="Else by the profile.")] = None,
    burst_factor: Annotated[
        float, typer.Option(min=0.1, max=100.0, help="Times the largest's capacity.")
    ] = 2.0,
    policy: Annotated[str, typer.Option(help="Else the server's.")] = "",
    compare: Annotated[bool, typer.Option(help="Run a fixed largest subnet too.")] = True,
    url: Annotated[str, typer.Option(help="A running server; else one is started.")] = "",
    seed: Annotated[int, typer.Option(min=0, help="Of the arrivals.")] = 0,
    output: Annotated[str, typer.Option("-o", "--output", help="The picture.")] = (
        "superserve-demo.png"
    ),
    json_file: Annotated[str, typer.Option("--json", help="A file for the numbers.")] = "",
    checkpoint: Checkpoint = None,
) -> None:
    """Send calm, burst, calm to a server, show it live, and draw what happened."""
    from loadtest.demo import DemoOptions, run_demo
    from supernets.digits_data import sample_images

    options = DemoOptions(
        url=url,
        policy=policy,
        compare=compare,
        seconds=seconds,
        slo_ms=slo_ms,
        burst_factor=burst_factor,
        seed=seed,
        output=output,
        json=json_file,
        serve_arguments=("--checkpoint", checkpoint) if checkpoint else (),
    )
    raise typer.Exit(run_demo(options, sample_images(400)))


def _progress_bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
    )


def _log_as_asked(config: Config) -> None:
    level = logging.getLevelNamesMapping().get(config.log_level.upper())
    if level is None:
        raise typer.BadParameter(f"there is no log level {config.log_level!r}")
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("uvicorn").setLevel(max(level, logging.WARNING))


def main() -> None:
    """Run a command; an error of ours becomes one line and exit status 1."""
    sys.path.insert(0, str(Path.cwd()))  # where people keep their own policies and supernets
    try:
        app()
    except (SuperServeError, CheckpointError) as error:
        console.print(f"error: {error}", style="bold red", soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        console.print("Interrupted.")
        sys.exit(130)


if __name__ == "__main__":
    main()
