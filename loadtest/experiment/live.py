"""One load on one server that is started for it: ready, Locust, drain, both sides' records."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.compare.study import PolicySpec
from loadtest.experiment.design import LoadSpec
from loadtest.experiment.serving import Contestant, started
from loadtest.locusts.run import LocustResult, LocustSettings, run_locust
from loadtest.records import Record
from superserve.client import Client
from superserve.journal import JournalEntries, read_journal

WARM_UP = 20  # queries before the load, for servers that do not warm up by themselves

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Sent:
    """What a load is, beside the server."""

    workload: Mapping[str, Any]  # in queries per second
    slo: float  # seconds
    seed: int
    load: LoadSpec
    images: Path | None


@dataclass(frozen=True, slots=True)
class LiveRun:
    """``records`` in order of arrival; ``complaints`` say why the run does not count."""

    records: tuple[Record, ...]
    journal: JournalEntries | None
    complaints: tuple[str, ...]
    attempts: int


def run_live(contestant: Contestant, sent: Sent, records: Path, say: Say) -> LiveRun:
    """Try until a run is valid or the attempts are used up. The records stay in ``records``.

    Raises `ConfigError` where the server does not start or the load cannot be made.
    """
    records.parent.mkdir(parents=True, exist_ok=True)
    attempt = 0
    while True:
        attempt += 1
        result, died = _once(contestant, sent, records, say)
        complaints = list(result.complaints)
        if died:
            complaints.append("the server did not answer any more when the load was over")
        if result.report is None:
            complaints.append("nothing came back")
        if not complaints or attempt >= sent.load.attempts:
            journal = None if contestant.journal is None else read_journal(contestant.journal)
            return LiveRun(result.records, journal, tuple(complaints), attempt)
        say(f"run again: {complaints[0]}")


def _once(contestant: Contestant, sent: Sent, records: Path, say: Say) -> tuple[LocustResult, bool]:
    """The run, and whether the server was gone at its end."""
    say("starting the server")
    with started(contestant) as url, Client(url) as client:
        if contestant.journal is None:
            _warm_up(client)
        say("under load")
        result = send(url, sent, records=records)
        died = not client.ready()
        say("draining")
    return result, died


def send(
    url: str, sent: Sent, *, records: Path | None = None, policy: PolicySpec | None = None
) -> LocustResult:
    """The load on a server that runs, under its own policy or another one."""
    load = sent.load
    return run_locust(
        LocustSettings(
            url=url,
            workload=sent.workload,
            slo=sent.slo,
            seed=sent.seed,
            timeout=load.timeout,
            policy="" if policy is None else policy.name,
            policy_options={} if policy is None else policy.options,
            images=sent.images,
            image_count=load.image_count,
            pixels=load.pixels,
            connections=load.connections,
            processes=load.processes,
            records=records,
        )
    )


def _warm_up(client: Client) -> None:
    from loadtest.locusts.images import blank_image

    model = client.models()[0]
    image = blank_image(model.input.height, model.input.width).body
    for _ in range(WARM_UP):
        client.classify(image, model=model.name)
