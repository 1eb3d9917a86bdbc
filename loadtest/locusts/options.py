"""What a Locust run can be told: its arguments, which are fields of the web UI too.

Locust replaces an argument by what was typed in the web UI: text, where its default is None.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import orjson

from loadtest.workloads import REQUIRED, WORKLOADS
from policies import POLICIES
from superserve.errors import ConfigError

TIMEOUT_SLOS = 5.0  # without an answer after so many SLOs a query is given up,
SHORTEST_TIMEOUT = 1.0  # but not before so many seconds
CONNECTIONS = 512
IMAGE_COUNT = 400
RATES = ("rate", "mean_rate")  # what --rate is called in a workload
USUAL = {"rate": 100.0, "seconds": 30.0}  # where a workload needs one and nobody says


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Seconds inside, whatever was typed."""

    workload: Mapping[str, Any]  # see `loadtest.workloads`
    seed: int
    slo: float
    timeout: float
    policy: str  # empty = the server's
    policy_options: Mapping[str, str]
    model: str  # empty = the server's first
    min_accuracy: float | None  # percent
    image_count: int
    connections: int  # of each worker
    pixels: bool = False  # raw ones, which the server need not decode


def add_options(parser: Any, **_: Any) -> None:
    """Declare the arguments; a listener of Locust's ``init_command_line_parser``."""
    add = parser.add_argument  # an argument group of it would keep them out of the web UI
    add("--workload", choices=list(WORKLOADS), default="poisson", help="How queries arrive")
    add("--rate", type=float, help="Mean queries per second, where the workload has one")
    add("--seconds", type=float, help="How long to send")
    add("--cv2", type=float, help="Burstiness: squared coefficient of variation of the gaps")
    add("--trace", default="", help="For the workload trace: its name in SUPERSERVE_TRACES or file")
    add("--workload-options", default="", help="Its other keys: key=value,key=value or JSON")
    add("--seed", type=int, default=0, help="Of the arrivals and of the choice of images")
    add("--slo-ms", type=float, default=100.0, help="From the intended time of a query")
    add("--timeout-ms", type=float, help="Then a query is given up; usually 5 SLOs, at least 1 s")
    add("--policy", choices=["", *sorted(POLICIES)], default="", help="Else the server's")
    add("--policy-options", default="", help="key=value,key=value")
    add("--model", default="", help="Else the server's first")
    add("--min-accuracy", type=float, help="Percent, asked of every answer")
    add("--image-count", type=int, default=IMAGE_COUNT, help="Of --images, drawn by the seed")
    add("--pixels", action="store_true", help="Send raw grey pixels: the server decodes nothing")
    add("--connections", type=int, default=CONNECTIONS, help="At once, of each worker")
    # Not in the web UI: whoever reaches that shall not read or write files.
    hidden = {"include_in_web_ui": False}
    add("--images", default="", help="A folder with a folder of images for each class", **hidden)
    add("--records", default="", help="A file for one record per query", **hidden)


def read_options(values: Mapping[str, Any]) -> RunOptions:
    """What was typed, checked; raises `ConfigError` that names the argument."""
    slo = _number(values, "slo_ms", 100.0) / 1000
    timeout = _number(values, "timeout_ms", 1000 * max(TIMEOUT_SLOS * slo, SHORTEST_TIMEOUT)) / 1000
    if not 0 < slo <= timeout < inf:
        raise ConfigError("--slo-ms must be positive and not above --timeout-ms")
    floor = values.get("min_accuracy")
    policy = str(values.get("policy") or "")
    if policy and policy not in POLICIES:
        raise ConfigError(f"there is no policy {policy!r}, only {', '.join(sorted(POLICIES))}")
    return RunOptions(
        workload=_workload(values),
        seed=_whole(values, "seed", 0),
        slo=slo,
        timeout=timeout,
        policy=policy,
        policy_options={
            name: str(value) for name, value in _table(values, "policy_options").items()
        },
        model=str(values.get("model") or ""),
        min_accuracy=None if floor in {None, ""} else _number(values, "min_accuracy", 0.0),
        image_count=_whole(values, "image_count", IMAGE_COUNT, least=1),
        connections=_whole(values, "connections", CONNECTIONS, least=1),
        pixels=str(values.get("pixels") or "").lower() in {"true", "on", "1"},
    )


def _workload(values: Mapping[str, Any]) -> dict[str, Any]:
    """The table that `loadtest.workloads` reads; it checks the values itself."""
    kind = str(values.get("workload") or "poisson")
    if kind not in WORKLOADS:
        raise ConfigError(f"--workload must be one of {', '.join(WORKLOADS)}, not {kind!r}")
    keys = WORKLOADS[kind].keys
    spec: dict[str, Any] = {"kind": kind}
    for argument in ("rate", "seconds", "cv2"):
        names = RATES if argument == "rate" else (argument,)
        key = next((name for name in names if name in keys), None)
        if values.get(argument) not in {None, ""}:
            if key is None:
                raise ConfigError(f"the workload {kind} takes no {argument}, but {', '.join(keys)}")
            spec[key] = _number(values, argument, 0.0)
    trace = str(values.get("trace") or "")
    if trace and kind != "trace":
        raise ConfigError("a trace is replayed by --workload trace")
    if trace:
        spec["path" if Path(trace).is_file() else "name"] = trace
    spec |= _table(values, "workload_options")
    needed = [key for key, meaning in keys.items() if meaning.default is REQUIRED]
    return {key: usual for key, usual in USUAL.items() if key in needed} | spec


def _table(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """``key=value,key=value`` with numbers where they look so, or a JSON object."""
    text = str(values.get(name) or "").strip()
    if text.startswith("{"):
        try:
            return dict(orjson.loads(text))
        except orjson.JSONDecodeError as error:
            raise ConfigError(f"{_flag(name)} is no JSON: {error}") from error
    pairs = [part.strip() for part in text.split(",") if part.strip()]
    if wrong := [pair for pair in pairs if "=" not in pair]:
        raise ConfigError(f"{_flag(name)} must be key=value,key=value, not {wrong[0]!r}")
    return {key.strip(): _value(value) for key, value in (pair.split("=", 1) for pair in pairs)}


def _value(text: str) -> str | int | float:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _number(values: Mapping[str, Any], name: str, default: float) -> float:
    given = values.get(name)
    try:
        return default if given in {None, ""} else float(str(given))
    except ValueError:
        raise ConfigError(f"{_flag(name)} must be a number, not {given!r}") from None


def _whole(values: Mapping[str, Any], name: str, default: int, least: int = 0) -> int:
    number = _number(values, name, default)
    if not (number >= least and number == int(number)):
        raise ConfigError(f"{_flag(name)} must be a whole number from {least}, not {number:g}")
    return int(number)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
