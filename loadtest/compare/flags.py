"""Policies and workloads as they are typed on one command line."""

from dataclasses import replace

from loadtest.compare.study import PolicySpec, Study, WorkloadSpec
from loadtest.compare.study_file import parse_workload
from superserve.errors import ConfigError


def with_flags(
    study: Study,
    *,
    policies: str = "",
    workloads: tuple[str, ...] = (),
    seeds: int | None = None,
    workers: str = "",
    slo_ms: float | None = None,
    profile: str = "",
    bounds: bool | None = None,
) -> Study:
    """The study with what was typed in place of what it had.

    ``policies`` are ``name:key=value:key=value,name``; each of ``workloads`` is
    ``kind,key=value,key=value``; ``workers`` are ``4,8``. Raises `ConfigError` for what does not
    fit, as the study's file does.
    """
    changed = study
    if policies:
        named = tuple(map(_policy, policies.split(",")))
        changed = replace(changed, policies=named, timelines=())
    if workloads:
        changed = replace(changed, workloads=tuple(map(_workload, workloads)))
    if slo_ms is not None:
        if not slo_ms > 0:
            raise ConfigError(f"--slo-ms must be positive, not {slo_ms}")
        seconds = slo_ms / 1e3
        changed = replace(
            changed, workloads=tuple(replace(each, slo=seconds) for each in changed.workloads)
        )
    if workers:
        counts = _counts(workers)
        own = tuple(replace(each, workers=()) for each in changed.workloads)
        changed = replace(changed, workers=counts, workloads=own)
    if seeds is not None:
        changed = replace(changed, seeds=tuple(range(seeds)))
    if profile:
        changed = replace(changed, profile=profile)
    return changed if bounds is None else replace(changed, bounds=bounds)


def _policy(text: str) -> PolicySpec:
    """A name, which may hold a colon itself, and options after further colons."""
    parts = text.strip().split(":")
    name = ":".join(part for part in parts if "=" not in part)
    options = dict(part.split("=", 1) for part in parts if "=" in part)
    if not name:
        raise ConfigError(f"--policies has no name in {text!r}: type name or name:option=value")
    return PolicySpec(name, options)


def _workload(text: str) -> WorkloadSpec:
    kind, *settings = (part.strip() for part in text.split(","))
    wrong = [part for part in settings if "=" not in part]
    if wrong or "=" in kind:
        raise ConfigError(f"--workload must be kind,key=value,key=value, not {text!r}")
    spec = {key: _value(value) for key, value in (part.split("=", 1) for part in settings)}
    return parse_workload({"kind": kind, **spec}, {})


def _value(text: str) -> str | int | float:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _counts(text: str) -> tuple[int, ...]:
    counts = text.split(",")
    if not all(count.strip().isdecimal() and int(count) for count in counts):
        raise ConfigError(f"--workers must be whole numbers from 1, such as 4,8, not {text!r}")
    return tuple(map(int, counts))
