"""The tables of an experiment's report."""

from collections.abc import Mapping, Sequence
from statistics import mean

from loadtest.compare.results import Results
from loadtest.compare.study import Setting
from loadtest.compare.tables import NOTHING, TableCell, setting_table, title_of
from loadtest.experiment.fidelity import Pair
from loadtest.experiment.outcomes import LiveFacts
from loadtest.experiment.run import ExperimentResults, Kind
from loadtest.experiment.throughput import Sustained

Found = tuple[list[str], list[list[TableCell]]]
DECISIONS = ("Decisions", "µs per decision")  # which a live server does not count


def live_table(results: ExperimentResults, live: Results, setting: Setting) -> Found:
    """As a simulation's, with the server's own clock and the sender's lateness beside it."""
    heads, lines = setting_table(live, setting)
    kept = [place for place, head in enumerate(heads) if head not in DECISIONS]
    extra = ["Met by the server's clock (%)", "Sender's p99 lateness (ms)"]
    rows = []
    for line in lines:
        facts = _facts(results, setting, line[0].text)
        server = [f.server_attainment for f in facts if f.server_attainment is not None]
        late = [f.lateness_p99 for f in facts if f.lateness_p99 is not None]
        rows.append(
            [
                *(line[place] for place in kept),
                TableCell(f"{100 * mean(server):.3f}" if server else NOTHING),
                TableCell(f"{1e3 * max(late):.2f}" if late else NOTHING),
            ]
        )
    return [*(heads[place] for place in kept), *extra], rows


def agreement_table(found: Sequence[Pair], simulated: Results) -> Found:
    """One line per configuration."""
    heads = [
        "Policy", "Setting", "Seeds", "Attainment live (%)", "simulated", "difference",
        "Accuracy live (%)", "simulated", "difference", "p99 live (ms)", "simulated",
        "Mean batch live", "simulated",
    ]  # fmt: skip
    lines = [
        [
            TableCell(pair.policy),
            TableCell(title_of(simulated, pair.setting)),
            TableCell(str(pair.seeds)),
            *_both(pair.attainment, 2),
            *_both(pair.accuracy, 3),
            *_both(pair.latency_p99, 1, 1e3)[:2],
            *_both(pair.mean_batch, 2)[:2],
        ]
        for pair in found
    ]
    return heads, lines


def accuracy_table(results: ExperimentResults) -> Found:
    """Over all seeds of a policy in a setting; no lines where nothing was labelled."""
    heads = ["Policy", "Setting", "Answers", "Measured (%)", "Promised (%)", "Difference",
             "in standard errors"]  # fmt: skip
    lines = []
    for setting in results.experiment.study.settings():
        for policy in results.live.prepared.study.policies:
            judged = [
                facts
                for facts in _facts(results, setting, policy.label)
                if facts.measured is not None and facts.promised is not None and facts.error
            ]
            if judged:
                lines.append(_accuracy_line(policy.label, title_of(results.live, setting), judged))
    return heads, lines


def _accuracy_line(policy: str, setting: str, judged: Sequence[LiveFacts]) -> list[TableCell]:
    answers = sum(facts.judged for facts in judged)

    def weighted(name: str) -> float:
        total: float = sum(getattr(facts, name) * facts.judged for facts in judged)
        return total / answers

    measured, promised = weighted("measured"), weighted("promised")
    # Seeds share the images, so that they do not make the mean any surer.
    spread = weighted("error")
    return [
        TableCell(policy),
        TableCell(setting),
        TableCell(str(answers)),
        TableCell(f"{measured:.2f} ± {spread:.2f}"),
        TableCell(f"{promised:.2f}"),
        TableCell(f"{measured - promised:+.2f}"),
        TableCell(f"{(measured - promised) / spread:+.1f}"),
    ]


def loading_table(results: ExperimentResults) -> Found:
    """Policies that loaded something; per run, over the seeds."""
    heads = ["Policy", "Setting", "Loads a run", "Time loading a run (s)", "per load (ms)"]
    lines = []
    for setting in results.experiment.study.settings():
        for policy in results.experiment.study.policies:
            facts = _facts(results, setting, policy.label)
            loads = sum(each.loads for each in facts)
            if loads:
                seconds = sum(each.loading for each in facts)
                lines.append(
                    [
                        TableCell(policy.label),
                        TableCell(title_of(results.live, setting)),
                        TableCell(f"{loads / len(facts):.0f}"),
                        TableCell(f"{seconds / len(facts):.2f}"),
                        TableCell(f"{1e3 * seconds / loads:.2f}"),
                    ]
                )
    return heads, lines


def throughput_table(found: Sequence[Sustained]) -> Found:
    heads = ["Subnet", "Accuracy (%)", "Sustained (queries/s)", "Promised (queries/s)", "Limit"]
    lines = [
        [
            TableCell(each.subnet),
            TableCell(f"{each.accuracy:.2f}"),
            TableCell(f"{each.rate:.0f}"),
            TableCell(f"{each.promised:.0f}"),
            TableCell("the sender" if each.limited_by_sender else "the server"),
        ]
        for each in found
    ]
    return heads, lines


def kinds_points(kinds: Mapping[str, Kind]) -> list[str]:
    """What was measured beforehand, one statement for each kind of worker."""
    return [
        f"{kind} workers: profile measured on {known.latency.device_name}, {known.latency.created}"
        f"; in the server a batch takes {1e3 * known.service.fixed:.2f} ms + "
        f"{known.service.factor:.3f} × the profile (learnt from {known.service.batches} batches), "
        f"and a client waits {1e3 * known.service.overhead:.2f} ms more than the server counts."
        for kind, known in kinds.items()
    ]


def _facts(results: ExperimentResults, setting: Setting, policy: str) -> list[LiveFacts]:
    return [
        facts
        for cell, facts in results.facts.items()
        if cell.setting == setting and cell.policy == policy and cell in results.live.runs
    ]


def _both(pair: tuple[float, float] | None, digits: int, scale: float = 1.0) -> list[TableCell]:
    if pair is None:
        return [TableCell(NOTHING)] * 3
    live, simulated = (value * scale for value in pair)
    shown = [f"{live:.{digits}f}", f"{simulated:.{digits}f}", f"{live - simulated:+.{digits}f}"]
    return [TableCell(text) for text in shown]
