"""Workloads by name: a table of settings, as it stands in a TOML file, becomes arrivals.

``{kind = "bursty", base = 1500, variant = 4900, cv2 = 8, seconds = 60}`` is one. What a kind takes
is in `WORKLOADS`; rates are in queries per second, times in seconds. A table that does not fit is a
``ValueError`` that lists what would.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from math import inf
from pathlib import Path
from typing import Any

from loadtest import arrivals, generators
from loadtest.arrivals import Times
from loadtest.traces import Trace, find_trace, read_trace

REQUIRED = object()  # in place of a default


@dataclass(frozen=True, slots=True)
class Key:
    """What one setting must be. ``default`` is `REQUIRED` where there is none."""

    fits: Callable[[Any], bool]
    wanted: str
    default: Any = REQUIRED

    def or_else(self, default: Any) -> "Key":
        return Key(self.fits, self.wanted, default)


@dataclass(frozen=True, slots=True)
class Workload:
    keys: Mapping[str, Key]
    make: Callable[..., Times]  # (seed, **settings)
    label: Callable[[Mapping[str, Any]], str]


def make_arrivals(spec: Mapping[str, Any], seed: int) -> Times:
    """The arrivals of the workload ``spec``; the same ``seed`` gives the same ones.

    Raises ``ValueError`` for an unknown kind, an unknown or missing key, a value that does not fit,
    or a trace that is not there or malformed.
    """
    workload, settings = _settings(spec)
    return workload.make(seed=seed, **settings)


def describe(spec: Mapping[str, Any]) -> str:
    """A short label for plots. Raises ``ValueError`` as `make_arrivals` does; reads no trace."""
    workload, settings = _settings(spec)
    return workload.label(settings)


RATES: Mapping[str, tuple[str, ...]] = {  # what grows with the load; `phases` has them in its steps
    "constant": ("rate",),
    "poisson": ("rate",),
    "gamma": ("rate",),
    "bursty": ("base", "variant"),
    "time_varying": ("rate1", "rate2", "tau"),
    "diurnal": ("mean_rate",),
    "mmpp": ("rate_on", "rate_off"),
    "maf_like": ("mean_rate",),
    "trace": ("mean_rate",),
}


def scaled(spec: Mapping[str, Any], unit: float) -> dict[str, Any]:
    """The workload whose rates are so many times those of ``spec``, to three digits.

    Raises ``ValueError`` as `make_arrivals` does, and where ``spec`` leaves out a rate, since what
    would stand in its place is in queries per second.
    """
    _settings(spec)
    kind = str(spec["kind"])
    missing = [name for name in RATES.get(kind, ()) if spec.get(name) is None]
    if missing:
        raise ValueError(f"the workload {kind} needs {', '.join(missing)} as multiples of a rate")
    changed = {name: _three_digits(spec[name] * unit) for name in RATES.get(kind, ())}
    if kind == "phases":
        steps = [[seconds, _three_digits(rate * unit)] for seconds, rate in spec["steps"]]
        return {**spec, "steps": steps}
    return {**spec, **changed}


def _three_digits(value: float) -> float:
    return float(f"{value:.3g}")


def _settings(spec: Mapping[str, Any]) -> tuple[Workload, dict[str, Any]]:
    kind = spec.get("kind")
    if not isinstance(kind, str) or kind not in WORKLOADS:
        raise ValueError(f"there is no workload of kind {kind!r}, only {', '.join(WORKLOADS)}")
    workload = WORKLOADS[kind]
    given = {name: value for name, value in spec.items() if name != "kind"}
    unknown = [name for name in given if name not in workload.keys]
    missing = [n for n, k in workload.keys.items() if k.default is REQUIRED and n not in given]
    if unknown or missing:
        trouble = (
            f"does not know {', '.join(unknown)}" if unknown else f"needs {', '.join(missing)}"
        )
        raise ValueError(f"the workload {kind} {trouble}; its keys are {_usage(workload)}")
    for name, value in given.items():
        key = workload.keys[name]
        if not key.fits(value):
            raise ValueError(f"{name} of the workload {kind} must be {key.wanted}, not {value!r}")
    return workload, {name: given.get(name, key.default) for name, key in workload.keys.items()}


def _usage(workload: Workload) -> str:
    keys = workload.keys.items()
    return ", ".join(
        name if key.default is REQUIRED else f"{name} (default {key.default})" for name, key in keys
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < inf


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _are_steps(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(
        isinstance(step, list | tuple) and len(step) == 2 and all(map(_is_number, step))
        for step in value
    )


def _is_moment(value: Any) -> bool:
    return _is_number(value) or isinstance(value, str | date)


def _are_functions(value: Any) -> bool:
    return _is_whole(value) or (
        isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)
    )


_NUMBER = Key(_is_number, "a number from 0")
_WHOLE = Key(_is_whole, "a whole number from 0")
_TEXT = Key(lambda value: isinstance(value, str), "text", None)
_MOMENT = Key(_is_moment, "seconds from 0, a date or a time", None)
_DAY = Key(lambda value: isinstance(value, str | date), "a date", None)
_CV2 = _NUMBER.or_else(1.0)
_PEAK_TO_MEAN = generators.MAF_PEAK_RATE / generators.MAF_MEAN_RATE


def _trace_arrivals(
    *,
    seed: int,
    name: str | None,
    path: str | None,
    day: Any,
    start: Any,
    stop: Any,
    format: str | None,  # noqa: A002 - the key of the table
    functions: Any,
    column: str,
    bin_seconds: float,
    **scaling: Any,
) -> Times:
    if (name is None) == (path is None):
        raise ValueError("the workload trace needs either the name of a trace or its path")
    if day is not None and (start is not None or stop is not None):
        raise ValueError("the workload trace takes either a day, or start and stop")
    file = find_trace(name) if name is not None else Path(str(path))
    if not file.is_file():
        raise ValueError(f"there is no trace {file}")
    chosen = tuple(functions) if isinstance(functions, list) else functions
    trace = _read(file, file.stat().st_mtime_ns, format, chosen, column, bin_seconds)
    part = trace.part(start, stop) if day is None else trace.day(day)
    return part.arrivals(seed=seed, **scaling)


@lru_cache(maxsize=4)
def _read(
    file: Path,
    _modified: int,  # a changed file is another one
    kind: str | None,
    functions: int | tuple[str, ...] | None,
    column: str,
    bin_seconds: float,
) -> Trace:
    """A day of Azure Functions takes seconds to read, and a sweep asks for it at every seed."""
    return read_trace(file, kind, functions=functions, column=column, bin_seconds=bin_seconds)


def _trace_label(s: Mapping[str, Any]) -> str:
    words = [s["name"] or Path(str(s["path"])).stem]
    if s["day"] is not None:
        words.append(str(s["day"]))
    elif s["start"] is not None or s["stop"] is not None:
        words.append(f"{s['start'] or 0}..{'' if s['stop'] is None else s['stop']}")
    if s["mean_rate"] is not None:
        words.append(f"{s['mean_rate']:g} q/s")
    return " ".join(words)


WORKLOADS: Mapping[str, Workload] = {
    "constant": Workload(
        {"rate": _NUMBER, "seconds": _NUMBER},
        lambda seed, **s: arrivals.constant(**s),  # noqa: ARG005 - nothing in it is random
        lambda s: f"constant {s['rate']:g} q/s",
    ),
    "poisson": Workload(
        {"rate": _NUMBER, "seconds": _NUMBER},
        arrivals.poisson,
        lambda s: f"Poisson {s['rate']:g} q/s",
    ),
    "gamma": Workload(
        {"rate": _NUMBER, "cv2": _NUMBER, "seconds": _NUMBER},
        arrivals.gamma,
        lambda s: f"gamma {s['rate']:g} q/s, CV² {s['cv2']:g}",
    ),
    "phases": Workload(
        {"steps": Key(_are_steps, "pairs of seconds and rate"), "cv2": _CV2},
        arrivals.phases,
        lambda s: "phases " + "-".join(f"{rate:g}" for _, rate in s["steps"]) + " q/s",
    ),
    "bursty": Workload(
        {
            "base": _NUMBER.or_else(generators.BURSTY_BASE),
            "variant": _NUMBER,
            "cv2": _NUMBER,
            "seconds": _NUMBER,
        },
        generators.bursty,
        lambda s: f"bursty {s['base']:g} + {s['variant']:g} q/s, CV² {s['cv2']:g}",
    ),
    "time_varying": Workload(
        {
            "rate1": _NUMBER,
            "rate2": _NUMBER,
            "tau": _NUMBER,
            "seconds": _NUMBER,
            "cv2": _NUMBER.or_else(generators.TIME_VARYING_CV2),
            "start": _NUMBER.or_else(None),
        },
        generators.time_varying,
        lambda s: f"{s['rate1']:g} → {s['rate2']:g} q/s at {s['tau']:g} q/s², CV² {s['cv2']:g}",
    ),
    "diurnal": Workload(
        {
            "mean_rate": _NUMBER,
            "seconds": _NUMBER,
            "swing": _NUMBER.or_else(0.5),
            "cv2": _CV2,
            "period": _NUMBER.or_else(None),
        },
        generators.diurnal,
        lambda s: f"diurnal {s['mean_rate']:g} q/s ± {100 * s['swing']:g} %",
    ),
    "mmpp": Workload(
        {
            "rate_on": _NUMBER,
            "rate_off": _NUMBER.or_else(0.0),
            "on_seconds": _NUMBER,
            "off_seconds": _NUMBER,
            "seconds": _NUMBER,
        },
        generators.mmpp,
        lambda s: (
            f"on/off {s['rate_on']:g}/{s['rate_off']:g} q/s, "
            f"{s['on_seconds']:g}/{s['off_seconds']:g} s"
        ),
    ),
    "maf_like": Workload(
        {
            "mean_rate": _NUMBER.or_else(generators.MAF_MEAN_RATE),
            "seconds": _NUMBER.or_else(generators.MAF_SECONDS),
            "cv2": _CV2,
            "day": _WHOLE.or_else(0),
            "functions": _WHOLE.or_else(generators.MAF_FUNCTIONS),
            "peak_to_mean": _NUMBER.or_else(_PEAK_TO_MEAN),
        },
        generators.maf_like,
        lambda s: f"MAF-like {s['mean_rate']:g} q/s",
    ),
    "trace": Workload(
        {
            "name": _TEXT,
            "path": _TEXT,
            "mean_rate": _NUMBER.or_else(None),
            "seconds": _NUMBER.or_else(None),
            "cv2": _CV2,
            "day": _DAY,
            "start": _MOMENT,
            "stop": _MOMENT,
            "format": _TEXT,
            "functions": Key(_are_functions, "a number of functions, or their hashes", None),
            "column": _TEXT.or_else("count"),
            "bin_seconds": _NUMBER.or_else(1.0),
        },
        _trace_arrivals,
        _trace_label,
    ),
}
