"""The report of a comparison: tables, pictures, and all that is needed to run it again."""

import json
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
from loadtest.compare.plots import plot_cost, plot_timelines, plot_utility
from loadtest.compare.results import Results
from loadtest.compare.run import CELLS
from loadtest.compare.study import PAPER, PENALTY, Setting, WorkloadSpec
from loadtest.compare.study_file import document_of
from loadtest.compare.tables import (
    NEAR,
    TableCell,
    overview,
    setting_table,
    spread_text,
    title_of,
)

STUDY = "study.json"
PLOTS = "plots"


def write_report(results: Results, folder: Path) -> Path:
    """``report.html``, ``report.md``, their pictures and ``study.json``; gives the HTML's path."""
    study = results.prepared.study
    plots = folder / PLOTS
    plots.mkdir(parents=True, exist_ok=True)
    blocks = [*_opening(results, plots), *_settings(results, plots), *_repeat(results)]
    document = json.dumps(document_of(study), indent=1, ensure_ascii=False)
    (folder / STUDY).write_text(document + "\n")
    (folder / "report.md").write_text(as_markdown(blocks, folder))
    path = folder / "report.html"
    path.write_text(as_html(blocks, f"Policies compared: {study.name}"))
    return path


def _opening(results: Results, plots: Path) -> list[Block]:
    study = results.prepared.study
    blocks: list[Block] = [
        Heading(f"Policies compared: {study.name}", 1),
        Paragraph(
            f"Policies: {len(study.policies)}. Settings: {len(study.settings())}, each from "
            f"{len(study.seeds)} seed{'s' if len(study.seeds) > 1 else ''}. Simulated: the "
            "scheduler and the policies are those of the server, workers and time are not. "
            + _profile(results)
        ),
        Heading("All settings"),
        Table(*overview(results)),
        Paragraph(_legend(results)),
    ]
    utility, cost = plots / "utility.png", plots / "decisions.png"
    plot_utility(utility, results)
    plot_cost(cost, results)
    if results.bounds:
        blocks.append(Picture(utility, "How far each policy stays below the bound"))
    blocks.append(Picture(cost, "Time per decision"))
    return blocks


def _profile(results: Results) -> str:
    profile = results.prepared.profile
    source = results.prepared.study.profile
    named = "the paper's CNNs, as far as known (see PAPER_PROFILE)" if source == PAPER else source
    return (
        f"Latencies and accuracies: {named}; {len(profile.subnets)} subnets from "
        f"{profile.accuracies[0]:.2f} to {profile.accuracies[-1]:.2f} %, batches up to "
        f"{profile.max_batch}."
    )


def _legend(results: Results) -> str:
    text = (
        f"Utility is the accuracy of a query that met its SLO and −{PENALTY:g} for one that did "
        "not, mean over all queries; effective accuracy counts 0 for those. Mean accuracy and "
        "latency are over the queries that met their SLO and that were answered: there the best "
        f"is marked among policies with an attainment of {100 * NEAR:g} % or more. "
    )
    if len(results.prepared.study.seeds) > 1:
        text += "± is the 95 % t-interval of the mean over seeds, min the lowest seed. "
    if results.bounds:
        text += (
            "The bound is on the utility of any schedule, also of one that knows all arrivals: the "
            "price bound, or the fluid bound where that is lower. "
        )
    return text + "The time per decision is real, and was measured while other cells ran."


def _settings(results: Results, plots: Path) -> list[Block]:
    blocks: list[Block] = []
    for number, setting in enumerate(results.prepared.study.settings(), start=1):
        title = title_of(results, setting)
        name = f"{number:02}-{sub(r'[^a-z0-9]+', '-', title.lower()).strip('-')}"
        pareto, times = plots / f"pareto-{name}.png", plots / f"timeline-{name}.png"
        blocks += [
            Heading(title),
            Paragraph(_conditions(results, setting)),
            Table(*setting_table(results, setting)),
        ]
        if plot_pareto(pareto, results, setting):
            blocks.append(Picture(pareto, f"Attainment and accuracy: {title}"))
        if plot_timelines(times, results, setting):
            blocks.append(Picture(times, f"Over time: {title}"))
    return blocks


def _conditions(results: Results, setting: Setting) -> str:
    workload = results.prepared.study.workload(setting.workload)
    queries = results.queries(setting)
    parts = [
        f"{setting.workers} workers" if setting.workers > 1 else "1 worker",
        _slo_text(workload),
        f"{min(queries)} to {max(queries)} queries" if len(set(queries)) > 1
        else f"{queries[0] if queries else 0} queries",
    ]  # fmt: skip
    if workload.noise is not None:
        parts.append(f"latencies vary: {workload.noise}")
    if workload.failures is not None:
        parts.append("workers fail")
    if workload.tuned_on:
        parts.append("settings of policies were tuned on this load")
    text = ", ".join(parts) + "."
    ceiling = results.ceiling(setting)
    if ceiling is not None:
        spread = spread_text(ceiling.utility, 3)
        text += f" No policy can have a utility above {ceiling.utility.mean:.3f} {spread}".rstrip()
        if ceiling.fluid_accuracy is not None:
            accuracy = ceiling.fluid_accuracy.mean
            text += f", or serve all in time with more than {accuracy:.3f} % accuracy"
        else:
            text += "; not all queries can be served in time"
        text += "." if workload.noise is None else (
            ", if batches took what the profile says: quicker ones, by chance, may reach more."
        )  # fmt: skip
    return text


def _slo_text(workload: WorkloadSpec) -> str:
    if isinstance(workload.slo, float):
        return f"SLO {workload.slo * 1e3:g} ms"
    return "SLO " + ", ".join(
        f"{seconds * 1e3:g} ms for {100 * share:g} %" for seconds, share in workload.slo
    )


def _repeat(results: Results) -> list[Block]:
    prepared = results.prepared
    profile = prepared.profile
    blocks: list[Block] = [
        Heading("To run it again"),
        Paragraph(
            f"superserve compare {STUDY} -o DIR gives the same cells (but for the times of "
            f"decisions) with the same software. The numbers of each cell are in {CELLS}."
        ),
    ]
    blocks += [Points(found) for found in _software(results)]
    heads = ["Subnet", "Accuracy (%)", *(f"batch {b} (ms)" for b in profile.batch_sizes)]
    lines = [
        [TableCell(subnet), TableCell(f"{accuracy:.2f}"),
         *(TableCell(f"{1e3 * seconds:.3f}") for seconds in row)]
        for subnet, accuracy, row in zip(
            profile.subnets, profile.accuracies, profile.latencies, strict=True
        )
    ]  # fmt: skip
    document = json.dumps(document_of(prepared.study), indent=1, ensure_ascii=False)
    return [
        *blocks,
        Heading("Profile", 3),
        Table(heads, lines),
        Heading("Study", 3),
        Code(document),
    ]


def _software(results: Results) -> list[list[str]]:
    """For each software that computed cells: its commit, its versions, the machine."""
    return [
        [
            f"commit {found.commit or 'unknown (no checkout)'}",
            ", ".join(f"{name} {version}" for name, version in found.versions.items()),
            f"on {found.machine}",
        ]
        for found in results.provenance
    ]
