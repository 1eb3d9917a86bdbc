"""The report of an experiment: live against simulated, what it rests on, how to run it again."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from re import sub

from loadtest.compare.document import (
    Block,
    Code,
    Heading,
    Paragraph,
    Picture,
    Points,
    Table,
    as_html,
    as_markdown,
)
from loadtest.compare.pareto import plot_pareto
from loadtest.compare.plots import plot_timelines
from loadtest.compare.results import Results
from loadtest.compare.study import PENALTY, Setting
from loadtest.compare.tables import NEAR, TableCell, setting_table, title_of
from loadtest.experiment.definition_file import experiment_document
from loadtest.experiment.fidelity import error, pairs
from loadtest.experiment.plots import error_text, plot_fidelity
from loadtest.experiment.run import ExperimentResults
from loadtest.experiment.tables import (
    accuracy_table,
    agreement_table,
    kinds_points,
    live_table,
    loading_table,
    throughput_table,
)
from loadtest.experiment.throughput import SUSTAINED, rates_text

PLOTS = "plots"
RESULTS = "results.json"


def write_report(results: ExperimentResults, folder: Path) -> Path:
    """``report.html``, ``report.md``, pictures, ``results.json``; gives the HTML's path."""
    plots = folder / PLOTS
    plots.mkdir(parents=True, exist_ok=True)
    blocks = [
        *_opening(results),
        *_throughput(results),
        *_settings(results, plots),
        *_fidelity(results, plots),
        *_accuracy(results),
        *_loading(results),
        *_repeat(results),
    ]
    name = results.experiment.study.name
    (folder / RESULTS).write_text(json.dumps(results_document(results), indent=1) + "\n")
    (folder / "report.md").write_text(as_markdown(blocks, folder))
    path = folder / "report.html"
    path.write_text(as_html(blocks, f"Live experiment: {name}"))
    return path


def results_document(results: ExperimentResults) -> dict[str, object]:
    """All figures of the report, for JSON."""
    found = pairs(results.live, results.simulated)
    attainment = error([pair.attainment for pair in found])
    accuracy = error([pair.accuracy for pair in found])
    return {
        "experiment": experiment_document(results.experiment),
        "computed_by": [asdict(each) for each in results.live.provenance],
        "profiles": {
            kind: {
                "device": known.latency.device_name,
                "created": known.latency.created,
                "service": {
                    name: value
                    for name, value in known.service.document().items()
                    if name != "scatter"
                },
            }
            for kind, known in results.kinds.items()
        },
        "sustained": [asdict(each) for each in results.sustained],
        "live": [
            {"cell": asdict(cell), **asdict(run), "facts": asdict(results.facts[cell])}
            for cell, run in results.live.runs.items()
        ],
        "simulated": [
            {"cell": asdict(cell), **asdict(run)} for cell, run in results.simulated.runs.items()
        ],
        "bounds": [
            {"cell": asdict(cell), **asdict(bound)}
            for cell, bound in results.simulated.bounds.items()
        ],
        "rejected": [
            {"cell": asdict(cell), "complaints": list(complaints)}
            for cell, complaints in results.rejected.items()
        ],
        "fidelity": {
            "pairs": [asdict(pair) for pair in found],
            "attainment": None if attainment is None else asdict(attainment),
            "accuracy": None if accuracy is None else asdict(accuracy),
        },
    }


def with_bounds(results: ExperimentResults) -> Results:
    """The live results, beside what no policy could have had."""
    return replace(results.live, bounds=results.simulated.bounds)


def _opening(results: ExperimentResults) -> list[Block]:
    experiment = results.experiment
    study, server = experiment.study, experiment.server
    how = (
        "Workers are emulated: they wait the times of the profile and compute nothing; HTTP, "
        "scheduler and policies are real."
        if server.emulated
        else "Every query carries a real image, and every answer is compared with its label."
    )
    seeds = len(study.seeds)
    return [
        Heading(f"Live experiment: {study.name}", 1),
        Paragraph(
            f"Policies: {len(study.policies)}, other servers: {len(experiment.peers)}, settings: "
            f"{len(study.settings())}, each live from {seeds} seed{'s' if seeds > 1 else ''} and "
            f"again in simulation. Supernet {server.supernet} on {', '.join(server.devices)}. "
            f"{how} Queries are sent by Locust in open loop: latency counts from the intended "
            "time, and what is not answered is a miss. Each run has a server of its own, and "
            "policies take turns, so that a machine that changes slowly harms all alike."
        ),
        Points(kinds_points(results.kinds)),
        *_rejections(results),
    ]


def _rejections(results: ExperimentResults) -> list[Block]:
    if not results.rejected:
        return []
    lines = [f"{cell}: {'; '.join(why)}" for cell, why in results.rejected.items()]
    return [
        Heading("Runs that do not count"),
        Paragraph("Tried as often as was asked for and invalid each time; --resume tries again."),
        Points(lines),
    ]


def _settings(results: ExperimentResults, plots: Path) -> list[Block]:
    live = with_bounds(results)
    blocks: list[Block] = []
    for number, setting in enumerate(results.experiment.study.settings(), start=1):
        title = title_of(live, setting)
        name = f"{number:02}-{sub(r'[^a-z0-9]+', '-', title.lower()).strip('-')}"
        pareto, times = plots / f"pareto-{name}.png", plots / f"timeline-{name}.png"
        simulated_times = plots / f"timeline-{name}-simulated.png"
        blocks += [
            Heading(title),
            Paragraph(_conditions(results, setting)),
            Heading("Live", 3),
            Table(*live_table(results, live, setting)),
        ]
        if plot_pareto(pareto, live, setting):
            blocks.append(Picture(pareto, f"Live, attainment and accuracy: {title}"))
        if plot_timelines(times, live, setting):
            blocks.append(Picture(times, f"Live, over time: {title}"))
        blocks += [Heading("Simulated", 3), Table(*setting_table(results.simulated, setting))]
        if plot_timelines(simulated_times, results.simulated, setting):
            blocks.append(Picture(simulated_times, f"Simulated, over time: {title}"))
    return blocks


def _conditions(results: ExperimentResults, setting: Setting) -> str:
    workload = results.experiment.study.workload(setting.workload)
    queries = results.live.queries(setting)
    slo = workload.slo if isinstance(workload.slo, float) else 0.0
    text = (
        f"{setting.workers} worker{'s' if setting.workers > 1 else ''}, SLO {slo * 1e3:g} ms, "
        f"{min(queries, default=0)} to {max(queries, default=0)} queries a run."
    )
    ceiling = results.simulated.ceiling(setting)
    if ceiling is not None:
        text += (
            f" With batches that take their usual time no policy can have a utility above "
            f"{ceiling.utility.mean:.2f}"
        )
        if ceiling.fluid_accuracy is not None:
            text += (
                f", or serve all in time with more than {ceiling.fluid_accuracy.mean:.2f} % "
                "accuracy"
            )
        text += "."
    return text + (
        f" Utility: the accuracy of a query that met its SLO, −{PENALTY:g} for one that did not. "
        f"The best accuracy and latency are among those with {100 * NEAR:g} % attainment or more."
    )


def _throughput(results: ExperimentResults) -> list[Block]:
    if not results.sustained:
        return []
    return [
        Heading("What one subnet alone sustains"),
        Paragraph(
            f"The highest steady rate of those tried at which {100 * SUSTAINED:g} % meet the SLO "
            f"({rates_text(results.sustained)}), beside what the profile promises of the device in "
            "full batches."
        ),
        Table(*throughput_table(results.sustained)),
    ]


def _fidelity(results: ExperimentResults, plots: Path) -> list[Block]:
    found = pairs(results.live, results.simulated)
    labels = [policy.label for policy in results.experiment.study.policies]
    blocks: list[Block] = [
        Heading("How true the simulation is"),
        Paragraph(
            "The simulation has the same arrivals, scheduler and policies. How long batches occupy "
            "a worker, and what a client waits beyond the server, was learnt in runs before all "
            f"others. SLO attainment: {error_text(error([pair.attainment for pair in found]))} "
            "configurations. "
            f"Accuracy: {error_text(error([pair.accuracy for pair in found]))}."
        ),
    ]
    picture = plots / "fidelity.png"
    if plot_fidelity(picture, found, labels):
        blocks += [
            Picture(picture, "Live against simulated"),
            Table(*agreement_table(found, results.simulated)),
        ]
    return blocks


def _accuracy(results: ExperimentResults) -> list[Block]:
    heads, lines = accuracy_table(results)
    if not lines:
        return []
    return [
        Heading("Measured accuracy against the accuracy cards"),
        Paragraph(
            "Of the answers whose image has a label: how many are right, and how many their "
            "subnets' cards promise for these very answers. ± is one standard error, by the number "
            "of distinct images where those are fewer than the answers."
        ),
        Table(heads, lines),
    ]


def _loading(results: ExperimentResults) -> list[Block]:
    heads, lines = loading_table(results)
    if not lines:
        return []
    return [
        Heading("What loading models costs"),
        Paragraph(
            "Workers that hold extracted models load one when a batch asks for it, and the batch "
            "waits. A supernet that is resident loads nothing."
        ),
        Table(heads, lines),
    ]


def _repeat(results: ExperimentResults) -> list[Block]:
    document = json.dumps(experiment_document(results.experiment), indent=1, ensure_ascii=False)
    profile = next(iter(results.kinds.values())).base
    sizes = [size for size in profile.batch_sizes if size & (size - 1) == 0]
    heads = ["Subnet", "Accuracy (%)", *(f"batch {size} (ms)" for size in sizes)]
    lines: list[Sequence[TableCell]] = [
        [
            TableCell(subnet),
            TableCell(f"{profile.accuracy(subnet):.2f}"),
            *(TableCell(f"{1e3 * profile.latency(subnet, size):.3f}") for size in sizes),
        ]
        for subnet in profile.subnets
    ]
    return [
        Heading("To run it again"),
        Paragraph(
            "superserve experiment experiment.json -o DIR repeats it; live runs differ as machines "
            "do. The numbers are in results.json, one record per query in records/, the servers' "
            "own records in journals/."
        ),
        *(
            Points(
                [
                    f"commit {each.commit or 'unknown (no checkout)'}",
                    ", ".join(f"{name} {version}" for name, version in each.versions.items()),
                    f"on {each.machine}",
                ]
            )
            for each in results.live.provenance
        ),
        Heading("Profile of the idle device, medians", 3),
        Table(heads, lines),
        Heading("Experiment", 3),
        Code(document),
    ]
