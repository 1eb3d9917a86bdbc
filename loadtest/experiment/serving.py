"""The servers of an experiment as child processes: ours under a policy, or a peer."""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.compare.study import PolicySpec
from loadtest.experiment.design import Experiment, PeerSpec
from loadtest.server_process import running_server

PATIENCE = 300.0  # seconds for a server to be ready: extracted subnets are written first


@dataclass(frozen=True, slots=True)
class Contestant:
    """A process to start: its command, and whether it keeps a journal."""

    command: tuple[str, ...]
    arguments: tuple[str, ...]
    journal: Path | None


def ours(
    experiment: Experiment, policy: PolicySpec, profile: Path, folder: Path, name: str
) -> Contestant:
    """SuperServe with this policy. Its settings are written to a file, and it keeps a journal."""
    journal = folder / "journals" / f"{name}.jsonl"
    settings = folder / "settings" / f"{name}.toml"
    for file in (journal, settings):
        file.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text(as_toml(server_settings(experiment, policy, profile, journal)))
    command = (sys.executable, "-m", "superserve.cli", "serve")
    return Contestant(command, ("--config", str(settings)), journal)


def server_settings(
    experiment: Experiment, policy: PolicySpec, profile: Path, journal: Path
) -> dict[str, Any]:
    """The fields of `Config` that a run sets."""
    server, serving = experiment.server, policy.serving
    system = experiment.system(policy.label)
    return {
        **server.settings,
        "supernet": server.supernet,
        "devices": list(server.devices),
        "latency_profile": str(profile.absolute()),
        "policy": policy.name,
        "policy_options": [f"{name}={value}" for name, value in policy.options.items()],
        "reserve": serving.reserve,
        "late": serving.late,
        "margin_ms": round(serving.margin * 1e3, 9),
        "worker": system.worker,
        "resident_models": system.resident_models,
        "journal": str(journal.absolute()),
    }


def as_toml(settings: Mapping[str, Any]) -> str:
    """Texts, numbers, truths and lists of texts are written alike in JSON and TOML."""
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items())


def theirs(experiment: Experiment, peer: PeerSpec) -> Contestant:
    """A peer with its one subnet, on the same devices."""
    from loadtest.peers import command

    server = experiment.server
    line = command(
        peer.name,
        supernet=server.supernet,
        subnet=peer.subnet,
        workers=server.workers,
        devices=server.devices,
        settings=server.settings,
        options=peer.options,
    )
    return Contestant(tuple(line), (), None)


@contextmanager
def started(contestant: Contestant) -> Iterator[str]:
    """Its URL once it is ready; drained and stopped afterwards, which completes its journal."""
    with running_server(contestant.arguments, patience=PATIENCE, command=contestant.command) as url:
        yield url
