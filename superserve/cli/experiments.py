"""Commands that put servers and policies under load: demo, compare, experiment."""

from pathlib import Path
from typing import Annotated

import typer

from superserve.cli.app import Checkpoint, app

# What replaces a part of a study, simulated or live.
Policies = Annotated[str, typer.Option(help="Others: name,name:option=value,module:Class.")]
Seeds = Annotated[int | None, typer.Option(min=1, help="So many: 0, 1, 2, ...")]
SloMs = Annotated[float | None, typer.Option(help="One SLO for all queries.")]


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
    from supernets.data.digits_data import sample_images

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


@app.command(rich_help_panel="Experiments")
def compare(
    file: Annotated[
        Path | None, typer.Argument(help="A study, TOML; without one, the quick study.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="A folder. [default: compare-NAME]")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="The study that ships with SuperServe: a minute.")
    ] = False,
    policies: Policies = "",
    workload: Annotated[
        list[str] | None, typer.Option(help="Others: kind,key=value,...; may be repeated.")
    ] = None,
    seeds: Seeds = None,
    workers: Annotated[str, typer.Option(help="How many, or several: 4,8.")] = "",
    slo_ms: SloMs = None,
    profile: Annotated[str, typer.Option(help='"paper", or a file of `superserve profile`.')] = "",
    bounds: Annotated[
        bool | None, typer.Option("--bounds/--no-bounds", help="What no policy can exceed.")
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="At once. [default: one per CPU]")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Keep the finished cells.")] = False,
    records: Annotated[
        bool, typer.Option("--records", help="Also write one record per query.")
    ] = False,
) -> None:
    """Compare policies in simulation: tables, plots, upper bounds, one HTML report."""
    from loadtest.compare.command import CompareOptions, run_compare
    from loadtest.compare.flags import with_flags
    from loadtest.compare.study_file import quick_study, read_study

    if quick and file is not None:
        raise typer.BadParameter("--quick is a study of its own: leave out the file")
    study = with_flags(
        quick_study() if file is None else read_study(file),
        policies=policies,
        workloads=tuple(workload or ()),
        seeds=seeds,
        workers=workers,
        slo_ms=slo_ms,
        profile=profile,
        bounds=bounds,
    )
    folder = output or Path(f"compare-{study.name}")
    run_compare(study, CompareOptions(folder, processes, resume, records))


@app.command(rich_help_panel="Experiments")
def experiment(
    file: Annotated[
        Path | None, typer.Argument(help="An experiment, TOML; without one, the quick one.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="A folder. [default: experiment-NAME]")
    ] = None,
    policies: Policies = "",
    workload: Annotated[
        list[str] | None, typer.Option(help="Others: kind,key=value,...; may be repeated.")
    ] = None,
    seeds: Seeds = None,
    slo_ms: SloMs = None,
    resume: Annotated[bool, typer.Option("--resume", help="Keep what is finished.")] = False,
) -> None:
    """Run policies on a live server under Locust, then in simulation: one report of both."""
    from loadtest.experiment.command import ExperimentOptions, run_command
    from loadtest.experiment.definition_file import quick_experiment, read_experiment, with_flags
    from supernets.data.digits_data import sample_images

    found = with_flags(
        quick_experiment() if file is None else read_experiment(file),
        policies=policies,
        workloads=tuple(workload or ()),
        seeds=seeds,
        slo_ms=slo_ms,
    )
    folder = output or Path(f"experiment-{found.study.name}")
    run_command(found, ExperimentOptions(folder, resume), sample_images)
