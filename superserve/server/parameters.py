"""The query parameters of a classification: their names, legal ranges and defaults."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl

from policies.types import Profile
from superserve.config import Config
from superserve.errors import BadParameter, NotFound, NotReady
from superserve.messages import ModelInfo

SLO_HEADER = "x-slo-ms"
DEFAULT_TOP_K = 5
MAX_PRIORITY = 100

_NAMES = ("slo_ms", "top_k", "min_accuracy", "model", "priority", "format")
FORMATS = ("file", "pixels")


@dataclass(frozen=True, slots=True)
class Parameters:
    """``slo`` is in seconds from arrival, ``min_accuracy`` in percent.

    With ``pixels`` an image is what the network takes, uint8 [H, W, C], and not a file.
    """

    model: ModelInfo
    slo: float
    top_k: int
    min_accuracy: float
    priority: int
    pixels: bool = False


def parse_parameters(
    query: str,
    slo_header: str | None,
    *,
    config: Config,
    models: Mapping[str, ModelInfo],
    profiles: Mapping[str, Profile],
) -> Parameters:
    """Read the query string; its ``slo_ms`` is stronger than the X-SLO-Ms header.

    Raises `BadParameter`, saying what is legal; `NotFound` for an unknown model; and `NotReady`
    as long as no worker has brought a model.
    """
    given: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in _NAMES:
            raise BadParameter(
                f"there is no parameter {_shown(name)}; the known ones are {', '.join(_NAMES)}"
            )
        if name in given:
            raise BadParameter(f"{name} is given twice; once is enough")
        given[name] = value
    model = _model(given.get("model"), config.supernet, models)
    slo_ms = config.slo_ms
    if "slo_ms" in given:
        slo_ms = _slo_ms("slo_ms", given["slo_ms"], config.max_slo_ms)
    elif slo_header is not None:
        slo_ms = _slo_ms("X-SLO-Ms", slo_header, config.max_slo_ms)
    top_k = min(DEFAULT_TOP_K, len(model.labels))
    if "top_k" in given:
        top_k = _integer("top_k", given["top_k"], 1, len(model.labels))
    priority = 0
    if "priority" in given:
        priority = _integer("priority", given["priority"], 0, MAX_PRIORITY)
    min_accuracy = 0.0
    if "min_accuracy" in given:
        min_accuracy = _min_accuracy(given["min_accuracy"], profiles[model.name])
    form = given.get("format", FORMATS[0])
    if form not in FORMATS:
        raise BadParameter(f"format must be one of {', '.join(FORMATS)}, not {_shown(form)}")
    pixels = form == "pixels"
    return Parameters(model, slo_ms / 1000.0, top_k, min_accuracy, priority, pixels)


def default_model(wanted: str, models: Mapping[str, ModelInfo]) -> ModelInfo | None:
    """Who answers a request that names no model: the configured supernet, or else the first."""
    return models.get(wanted) or next(iter(models.values()), None)


def _model(name: str | None, default: str, models: Mapping[str, ModelInfo]) -> ModelInfo:
    model = default_model(default, models) if name is None else models.get(name)
    if model is not None:
        return model
    if name is None or not models:
        raise NotReady("no worker has brought a model yet; ask again soon")
    raise NotFound(f"there is no model {_shown(name)}; this server has {', '.join(sorted(models))}")


def _slo_ms(name: str, text: str, most: float) -> float:
    value = _number(text)
    if value is None or not 0 < value <= most:
        raise BadParameter(
            f"{name} must be a number above 0 and at most {most:g} (milliseconds), "
            f"not {_shown(text)}"
        )
    return value


def _min_accuracy(text: str, profile: Profile) -> float:
    best = profile.accuracies[-1]
    value = _number(text)
    if value is None or not 0 <= value <= best:
        raise BadParameter(
            f"min_accuracy must be a number from 0 to {best:g} (percent), which is what the best "
            f"subnet has, not {_shown(text)}"
        )
    return value


def _integer(name: str, text: str, least: int, most: int) -> int:
    value = _number(text)
    if value is None or not value.is_integer() or not least <= value <= most:
        raise BadParameter(
            f"{name} must be a whole number from {least} to {most}, not {_shown(text)}"
        )
    return int(value)


def _number(text: str) -> float | None:
    """None if ``text`` is no finite number; what Python alone takes for one, as 1_000, is none."""
    if not text.isascii() or "_" in text:
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _shown(text: str) -> str:
    """As an error message may repeat it: quoted and short."""
    return repr(text if len(text) <= 40 else text[:40] + "...")
