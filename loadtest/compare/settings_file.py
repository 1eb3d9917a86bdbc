"""The settings of servers and of queries as people type them: milliseconds, shares, tables."""

from collections.abc import Mapping
from math import inf
from typing import Any, Literal

from loadtest.compare.study import Failures, Happening, Serving, Slo
from loadtest.compare.table import Table, is_number
from loadtest.simulation_noise import Empirical, Exponential, Lognormal, Noise
from superserve.errors import ConfigError

SERVING = ("reserve", "late", "actuation_ms", "loading_ms", "resident", "margin_ms")
CONDITIONS = ("slo_ms", "noise", "failures")
FAILURES = ("every", "left", "events")
NOISE = ("kind", "sigma", "observed")


def serving_in(table: Table) -> Serving:
    late: Literal["drop", "serve"] = "serve" if table.values.get("late") == "serve" else "drop"
    if table.values.get("late", "drop") != late:
        raise table.bad("late", "drop or serve")
    loading = table.values.get("loading_ms", 0.0)
    if isinstance(loading, Mapping) and all(is_number(ms) for ms in loading.values()):
        seconds: float | dict[str, float] = {s: ms / 1e3 for s, ms in loading.items()}
    elif is_number(loading):
        seconds = loading / 1e3
    else:
        raise table.bad("loading_ms", "a number, or a table of one for each subnet")
    if table.whole("resident", 1) < 1:
        raise table.bad("resident", "1 or more")
    return Serving(
        table.number("reserve", 0.0, most=1.0),
        late,
        table.number("actuation_ms", 0.0) / 1e3,
        seconds,
        table.whole("resident", 1),
        table.number("margin_ms", 0.0) / 1e3,
    )


def serving_of(serving: Serving) -> dict[str, Any]:
    loading = serving.loading
    return {
        "reserve": serving.reserve,
        "late": serving.late,
        "actuation_ms": _ms(serving.actuation),
        "loading_ms": _ms(loading)
        if isinstance(loading, float)
        else {subnet: _ms(seconds) for subnet, seconds in loading.items()},
        "resident": serving.resident,
        "margin_ms": _ms(serving.margin),
    }


def conditions_in(table: Table) -> tuple[Slo, Noise | None, Failures | None]:
    return _slo(table), _noise(table), _failures(table)


def _slo(table: Table) -> Slo:
    given = table.values.get("slo_ms", 36.0)
    if is_number(given) and given > 0:
        return float(given) / 1e3
    pairs = isinstance(given, list) and bool(given) and all(
        isinstance(pair, list) and len(pair) == 2 and all(map(is_number, pair)) for pair in given
    )  # fmt: skip
    if not pairs or min(ms for ms, _ in given) <= 0 or abs(sum(s for _, s in given) - 1) > 1e-6:
        raise table.bad(
            "slo_ms", "a number above 0, or [ms, share] pairs with shares that sum to 1"
        )
    return tuple((ms / 1e3, float(share)) for ms, share in given)


def slo_of(slo: Slo) -> Any:
    if isinstance(slo, float):
        return _ms(slo)
    return [[_ms(seconds), share] for seconds, share in slo]


def _noise(table: Table) -> Noise | None:
    given = table.values.get("noise", 0.0)
    if is_number(given):
        return Lognormal(float(given)) if given else None
    inner = Table(f"noise of {table.where}", given, NOISE)
    observed = inner.values.get("observed", [])
    match inner.text("kind", ""):
        case "lognormal":
            return Lognormal(inner.number("sigma", 0.0))
        case "exponential":
            return Exponential()
        case "empirical" if isinstance(observed, list) and observed:
            if all(map(is_number, observed)):
                return Empirical(tuple(float(factor) for factor in observed))
            raise inner.bad("observed", "factors from 0")
        case _:
            wanted = "lognormal (with sigma), exponential, or empirical (with observed factors)"
            raise inner.bad("kind", wanted)


def noise_of(noise: Noise) -> dict[str, Any]:
    match noise:
        case Lognormal(sigma):
            return {"kind": "lognormal", "sigma": sigma}
        case Empirical(observed):
            return {"kind": "empirical", "observed": list(observed)}
        case Exponential():
            return {"kind": "exponential"}
        case _:
            raise ConfigError(f"this noise cannot be written down: {noise!r}")


def _failures(table: Table) -> Failures | None:
    given = table.values.get("failures")
    if given is None:
        return None
    inner = Table(f"failures of {table.where}", given, FAILURES)
    events = inner.tables("events") if "events" in inner.values else []
    return Failures(
        inner.number("every", 0.0) or inf,
        inner.whole("left", 1),
        tuple(_happening(Table(f"events of {inner.where}", event)) for event in events),
    )


def _happening(event: Table) -> Happening:
    match event.values:
        case {"at": at, "fail": str(worker), **rest} if is_number(at) and not rest:
            return at, "fail", worker
        case {"at": at, "restart": str(worker), **rest} if is_number(at) and not rest:
            return at, "restart", worker
        case {"at": at, "join": str(worker), **rest} if is_number(at) and not rest:
            return at, "join", worker
    raise ConfigError(
        f'{event.where} must be like {{at = 5.0, fail = "w3"}} (or restart, or join), '
        f"not {dict(event.values)!r}"
    )


def failures_of(failures: Failures) -> dict[str, Any]:
    every = {} if failures.every == inf else {"every": failures.every}
    events = [{"at": at, what: worker} for at, what, worker in failures.events]
    return every | {"left": failures.left} | ({"events": events} if events else {})


def _ms(seconds: float) -> float:
    """Rounding takes back what the change of unit adds: 0.036 s are 36 ms."""
    return round(seconds * 1e3, 9)
