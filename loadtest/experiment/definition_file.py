"""From an experiment's file (TOML, or the JSON that a run leaves) to an `Experiment`, and back.

Policies and workloads are written as for `superserve compare`; what is live stands in tables of
its own. Every complaint names the key, where it stands, and what fits.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

from loadtest.compare import flags
from loadtest.compare.study import Study
from loadtest.compare.study_file import document_of, parse_study, read_document
from loadtest.compare.table import Table
from loadtest.experiment.design import (
    EMULATED,
    Experiment,
    LoadSpec,
    PeerSpec,
    ServerSpec,
    System,
    Unit,
)
from superserve.config import DEFAULTS, Config, load_config
from superserve.errors import ConfigError

OURS = ("server", "load", "peers", "rates_of", "throughput")
SERVER = ("supernet", "devices", "profile", "profile_seconds", "slowdown")
# Of a server's settings, what the experiment itself decides.
RESERVED = ("policy", "policy_options", "host", "port", "worker", "resident_models", "journal",
            "latency_profile", "late", "reserve", "margin_ms")  # fmt: skip
SETTINGS = tuple(f.name for f in fields(Config) if f.name not in (*SERVER, *RESERVED))
LOAD = ("processes", "connections", "images", "image_count", "pixels", "timeout_ms", "attempts")
PEER = ("name", "subnet", "label", "options")
SYSTEM = ("worker", "resident_models")
# The server's own settings, where the file has none: so a study serves as `superserve serve` does.
SERVED = {"reserve": DEFAULTS.reserve, "late": DEFAULTS.late, "margin_ms": DEFAULTS.margin_ms}

Document = Mapping[str, Any]


def read_experiment(path: Path) -> Experiment:
    """Files that it names are looked for beside it. Raises `ConfigError` for what is wrong."""
    return parse_experiment(read_document(path, "experiment"), path.parent)


def quick_experiment() -> Experiment:
    """The experiment that ships with the package: edit ``quick.toml`` to change it."""
    text = files("loadtest.experiment").joinpath("quick.toml").read_text()
    return parse_experiment(tomllib.loads(text))


def parse_experiment(document: Document, folder: Path | None = None) -> Experiment:
    """``folder`` is where relative paths start; by default the current one."""
    folder = folder or Path()
    given = {name: value for name, value in document.items() if name not in OURS}
    if "workers" in given or "profile" in given:
        raise ConfigError("an experiment's workers and profile are those of its [server]")
    server = _server(Table("server", document.get("server", {}), (*SERVER, *SETTINGS)), folder)
    policies = [_without_system(each) for each in given.get("policies", ())]
    study = parse_study(
        {**SERVED, "slo_ms": DEFAULTS.slo_ms, **given, "policies": policies,
         "workers": server.workers},
        folder,
    )  # fmt: skip
    _check_live(study)
    return Experiment(
        study=study,
        server=server,
        load=_load(Table("load", document.get("load", {}), LOAD), folder),
        systems={
            policy.label: system
            for policy, each in zip(study.policies, given["policies"], strict=True)
            if (system := _system(policy.label, each)) != System()
        },
        peers=tuple(
            _peer(Table("peers", each, PEER))
            for each in Table("the experiment", document).tables("peers")
        )
        if "peers" in document
        else (),
        unit=_unit(document.get("rates_of", "queries/s")),
        throughput=Table("the experiment", document).truth("throughput", default=False),
    )


def with_flags(
    experiment: Experiment,
    *,
    policies: str = "",
    workloads: tuple[str, ...] = (),
    seeds: int | None = None,
    slo_ms: float | None = None,
) -> Experiment:
    """The experiment with what was typed in place of what it had, as `superserve compare` takes it.

    Typed policies are served as the experiment's first one, by resident workers.
    """
    study = flags.with_flags(
        experiment.study, policies=policies, workloads=workloads, seeds=seeds, slo_ms=slo_ms
    )
    if policies:
        serving = experiment.study.policies[0].serving
        named = tuple(replace(policy, serving=serving) for policy in study.policies)
        study = replace(study, policies=named)
    _check_live(study)
    kept = {policy.label for policy in study.policies}
    systems = {label: s for label, s in experiment.systems.items() if label in kept}
    return replace(experiment, study=study, systems={} if policies else systems)


def experiment_document(experiment: Experiment) -> dict[str, Any]:
    """What `parse_experiment` reads as the same experiment, in plain lists, texts and numbers."""
    study = document_of(experiment.study)
    study = {name: value for name, value in study.items() if name not in {"workers", "profile"}}
    for policy, described in zip(experiment.study.policies, study["policies"], strict=True):
        system = experiment.system(policy.label)
        if system != System():
            described |= {"worker": system.worker, "resident_models": system.resident_models}
    server, load = experiment.server, experiment.load
    plain = ("processes", "connections", "image_count", "pixels", "attempts")
    described_load: dict[str, Any] = {name: getattr(load, name) for name in plain}
    if load.images is not None:
        described_load["images"] = str(load.images)
    if load.timeout is not None:
        described_load["timeout_ms"] = load.timeout * 1e3
    peers = [
        {"name": p.name, "subnet": p.subnet, "label": p.label, "options": dict(p.options)}
        for p in experiment.peers
    ]
    return {
        **study,
        "rates_of": experiment.unit,
        "throughput": experiment.throughput,
        "server": {name: getattr(server, name) for name in SERVER}
        | {"devices": list(server.devices), **server.settings},
        "load": described_load,
        **({"peers": peers} if peers else {}),
    }


def _server(table: Table, folder: Path) -> ServerSpec:
    profile = table.text("profile", "")
    if profile and not (folder / profile).is_file() and profile != "paper":
        raise table.bad("profile", '"paper" or a file of `superserve profile`')
    slowdown = table.number("slowdown", 1.0)
    if not slowdown > 0:
        raise table.bad("slowdown", "a number above 0")
    return ServerSpec(
        supernet=table.text("supernet", DEFAULTS.supernet),
        devices=_devices(table),
        profile=str(folder / profile) if (folder / profile).is_file() else profile,
        profile_seconds=table.number("profile_seconds", ServerSpec().profile_seconds),
        slowdown=slowdown,
        settings=_settings(table),
    )


def _devices(table: Table) -> tuple[str, ...]:
    """Counts after a colon are checked, since the number of workers follows from them."""
    devices = tuple(table.texts("devices")) or DEFAULTS.devices
    for device in devices:
        name, _, count = device.partition(":")
        if not name or (name == EMULATED and count and not (count.isdigit() and int(count))):
            raise table.bad("devices", 'a list of devices: ["cpu"], ["cuda:0"], ["emulated:8"]')
    return devices


def _settings(table: Table) -> dict[str, Any]:
    """Checked as the server will check them, but now."""
    given = {name: table.values[name] for name in SETTINGS if name in table.values}
    load_config({**given, "devices": _devices(table)}, environment={})
    return given


def _load(table: Table, folder: Path) -> LoadSpec:
    defaults = LoadSpec()
    images = table.text("images", "")
    return LoadSpec(
        processes=table.whole("processes", defaults.processes),
        connections=table.whole("connections", defaults.connections),
        images=folder / images if images else None,
        image_count=table.whole("image_count", defaults.image_count),
        pixels=table.truth("pixels", default=False),
        timeout=table.number("timeout_ms", 0.0) / 1e3 or None,
        attempts=max(table.whole("attempts", defaults.attempts), 1),
    )


def _peer(table: Table) -> PeerSpec:
    from loadtest.peers import PEERS

    name = table.text("name", "")
    if name not in PEERS:
        raise table.bad("name", f"one of {', '.join(PEERS)}")
    subnet = table.text("subnet", "largest")
    options = Table(f"options of {name}", table.values.get("options", {}))
    return PeerSpec(
        name,
        subnet,
        table.text("label", "") or f"{name}, {subnet} subnet",
        {key: str(value) for key, value in options.values.items()},
    )


def _without_system(given: Any) -> Any:
    if not isinstance(given, Mapping):
        return given
    return {name: value for name, value in given.items() if name not in SYSTEM}


def _system(label: str, given: Any) -> System:
    if not isinstance(given, Mapping):
        return System()
    own = {name: given[name] for name in SYSTEM if name in given}
    table = Table(f"policy {label}", own, SYSTEM)
    resident = table.whole("resident_models", 1)
    match table.text("worker", "resident"):
        case "resident" | "extracted" as worker:
            return System(worker, max(resident, 1))
        case _:
            raise table.bad("worker", "resident or extracted")


def _unit(value: Any) -> Unit:
    for unit in get_args(Unit):
        if value == unit:
            return value  # type: ignore[no-any-return]  # one of the literals
    raise ConfigError(f"rates_of must be one of {', '.join(get_args(Unit))}, not {value!r}")


def _check_live(study: Study) -> None:
    """What only a simulation can have."""
    for workload in study.workloads:
        if workload.failures is not None or workload.noise is not None or workload.workers:
            raise ConfigError(
                f"workload {workload.label}: failures, noise and workers are for simulations; "
                "a live server has what it has"
            )
        if not isinstance(workload.slo, float):
            raise ConfigError(f"workload {workload.label}: a live run has one slo_ms")
