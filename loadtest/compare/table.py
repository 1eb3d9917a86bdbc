"""A table of a settings file that knows its keys, so that every complaint can name what fits."""

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

from superserve.errors import ConfigError


class Table:
    """``where`` it stands is part of every complaint; without ``known``, any key will do."""

    def __init__(self, where: str, values: Any, known: Sequence[str] | None = None) -> None:
        if not isinstance(values, Mapping):
            raise ConfigError(f"{where} must be a table, not {values!r}")
        unknown = [] if known is None else [str(name) for name in values if name not in known]
        if known is not None and unknown:
            raise ConfigError(f"{where} has no key {', '.join(unknown)}; it has {', '.join(known)}")
        self.where = where
        self.values = values

    def bad(self, name: str, wanted: str) -> ConfigError:
        value = self.values.get(name)
        return ConfigError(f"{name} of {self.where} must be {wanted}, not {value!r}")

    def number(self, name: str, default: float, most: float = inf) -> float:
        value = self.values.get(name, default)
        if not is_number(value) or value > most:
            wanted = "a number from 0" + ("" if most == inf else f" to {most:g}")
            raise self.bad(name, wanted)
        return float(value)

    def whole(self, name: str, default: int) -> int:
        value = self.values.get(name, default)
        if not is_whole(value):
            raise self.bad(name, "a whole number from 0")
        return int(value)

    def text(self, name: str, default: str) -> str:
        value = self.values.get(name, default)
        if not isinstance(value, str):
            raise self.bad(name, "text")
        return value

    def truth(self, name: str, *, default: bool) -> bool:
        value = self.values.get(name, default)
        if not isinstance(value, bool):
            raise self.bad(name, "true or false")
        return value

    def texts(self, name: str) -> list[str]:
        value = self.values.get(name, [])
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise self.bad(name, "a list of texts")
        return value

    def tables(self, name: str) -> list[Any]:
        value = self.values.get(name)
        if not isinstance(value, list) or not value:
            raise self.bad(name, "one table or more, such as [[policies]]")
        return value


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < inf


def is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
