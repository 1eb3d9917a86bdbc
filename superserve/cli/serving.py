"""Commands around a server: serve, profile, models, classify."""

import asyncio
import logging
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from superserve.cli.app import (
    Card,
    Checkpoint,
    ConfigFile,
    Kernels,
    Plugins,
    ResidentModels,
    Supernet,
    Threads,
    Worker,
    app,
    console,
    default,
    progress_bar,
)
from superserve.config import Config, load_config


@app.command(rich_help_panel="Serving")
def serve(
    supernet: Supernet = None,
    checkpoint: Checkpoint = None,
    accuracy_card: Card = None,
    latency_profile: Annotated[
        str | None, default("A file of `superserve profile`.", "latency_profile")
    ] = None,
    plugins: Plugins = None,
    policy: Annotated[
        str | None, default("A policy's name, or package.module:Class.", "policy")
    ] = None,
    policy_options: Annotated[
        str | None, default("Its options, key=value,key=value.", "policy_options")
    ] = None,
    host: Annotated[str | None, default("Address to listen on.", "host")] = None,
    port: Annotated[int | None, default("Port; 0 takes any free one.", "port")] = None,
    devices: Annotated[
        str | None, default("A worker each: cpu, cuda:0,cuda:1, emulated:4.", "devices")
    ] = None,
    threads: Threads = None,
    kernels: Kernels = None,
    worker: Worker = None,
    resident_models: ResidentModels = None,
    credits_: Annotated[
        int | None, typer.Option("--credits", help="Batches that a worker may hold. [default: 1]")
    ] = None,
    slo_ms: Annotated[float | None, default("SLO of a request without one.", "slo_ms")] = None,
    max_slo_ms: Annotated[float | None, default("The longest SLO.", "max_slo_ms")] = None,
    late: Annotated[str | None, default("What is late: drop or serve.", "late")] = None,
    margin_ms: Annotated[
        float | None, default("Planned on top of the profile.", "margin_ms")
    ] = None,
    reserve: Annotated[float | None, default("Share of the SLO kept back.", "reserve")] = None,
    slots: Annotated[int | None, default("Images in the server at once.", "slots")] = None,
    drain_s: Annotated[float | None, default("Seconds to finish at SIGTERM.", "drain_s")] = None,
    allow_uncalibrated: Annotated[
        bool | None, typer.Option(help="Serve subnets without statistics of their own.")
    ] = None,
    journal: Annotated[
        str | None, default("A file for every decision, as JSON lines.", "journal")
    ] = None,
    log_level: Annotated[str | None, default("debug, info, warning...", "log_level")] = None,
    config_file: ConfigFile = None,
) -> None:
    """Serve a supernet over HTTP; POST images to /v1/classify."""
    overrides = {key: value for key, value in locals().items() if key in Config.__slots__}
    config = load_config({**overrides, "credits": credits_}, file=config_file)
    _log_as_asked(config)
    import uvloop

    uvloop.run(_serve(config))


async def _serve(config: Config) -> None:
    from superserve.heap import settle
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
        settle()
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


@app.command(rich_help_panel="Serving")
def profile(
    supernet: Supernet = None,
    checkpoint: Checkpoint = None,
    accuracy_card: Card = None,
    plugins: Plugins = None,
    threads: Threads = None,
    kernels: Kernels = None,
    worker: Worker = None,
    device: Annotated[str, typer.Option(help="cpu or cuda:0.")] = "cpu",
    output: Annotated[str, typer.Option(help="A file; else the user's cache.")] = "",
    config_file: ConfigFile = None,
) -> None:
    """Measure latency per subnet and batch size on a device, for policies to plan with."""
    overrides = {key: value for key, value in locals().items() if key in Config.__slots__}
    config = load_config(overrides, file=config_file)
    from superserve.profile_store import LatencyProfile
    from superserve.profiling import measure

    with progress_bar() as bar:
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


@app.command(rich_help_panel="Serving")
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


@app.command(rich_help_panel="Serving")
def classify(
    files: Annotated[list[Path], typer.Argument(help="JPEG, PNG or WebP files.")],
    url: Annotated[
        str | None, typer.Option(help="A running server; without it the model is loaded here.")
    ] = None,
    supernet: Supernet = None,
    checkpoint: Checkpoint = None,
    accuracy_card: Card = None,
    plugins: Plugins = None,
    slo_ms: Annotated[float | None, typer.Option(help="With --url: the deadline.")] = None,
    top_k: Annotated[int, typer.Option(min=1, help="How many labels to show.")] = 3,
) -> None:
    """Classify image files, on a running server or right here with the largest subnet."""
    from superserve.local_classify import classify_here, read_image

    if url is None:
        config = load_config(
            {"supernet": supernet, "checkpoint": checkpoint, "accuracy_card": accuracy_card,
             "plugins": plugins}
        )  # fmt: skip
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


def _log_as_asked(config: Config) -> None:
    level = logging.getLevelNamesMapping().get(config.log_level.upper())
    if level is None:
        raise typer.BadParameter(f"there is no log level {config.log_level!r}")
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("uvicorn").setLevel(max(level, logging.WARNING))
