"""Commands that put servers and policies under load: demo."""

from typing import Annotated

import typer

from superserve.cli.app import Checkpoint, app


@app.command(rich_help_panel="Experiments")
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
