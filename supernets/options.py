"""Options that come from JSON or a command line: the kind of every value is checked."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

# What is checked: kind -> what it is called, alone and in a list. Other kinds pass as they are.
_PLAIN: dict[Any, tuple[str, str]] = {
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("a name", "names"),
    bool: ("true or false", "true or false"),
}
_ABSTRACT = {int: Integral, float: Real}  # so that numbers of numpy are numbers


def checked(make: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """``options`` as ``make`` declares its arguments; lists become tuples where it wants those.

    Numbers stay of the type they are. Raises ``TypeError`` for an option that ``make`` does not
    take, with those that it takes, and ``ValueError`` for a value of another kind than declared.
    """
    parameters = inspect.signature(make).parameters
    named = {n: p.annotation for n, p in parameters.items() if p.kind is not p.VAR_KEYWORD}
    unknown = [repr(name) for name in options if name not in named]
    if unknown and len(named) == len(parameters):
        raise TypeError(f"there is no option {', '.join(unknown)}; there are {', '.join(named)}")
    found = dict(options)
    for name in options.keys() & named.keys():
        value, kind = options[name], named[name]
        if not _fits(value, kind):
            raise ValueError(f"{name} must be {_described(kind)}, not {value!r}")
        if isinstance(value, list) and get_origin(kind) is tuple:
            found[name] = tuple(value)
    return found


def check_positive(definition: Any, *may_be_zero: str) -> None:
    """``ValueError`` where a number of this dataclass, alone or in a tuple, is not above 0."""
    for name in (field.name for field in fields(definition) if field.name not in may_be_zero):
        held = getattr(definition, name)
        for value in held if isinstance(held, tuple) else (held,):
            if isinstance(value, int | float) and not isinstance(value, bool) and not value > 0:
                raise ValueError(f"{name} must be above 0, not {value}")


def _fits(value: Any, kind: Any) -> bool:
    parts = get_args(kind)
    match get_origin(kind):
        case origin if origin is tuple and parts[1:] != (...,):
            return True  # of a fixed length
        case origin if origin in {Union, UnionType}:
            return any(_fits(value, part) for part in parts)
        case origin if origin is Literal:
            return value in parts
        case origin if origin in {tuple, list, Sequence}:
            if isinstance(value, str) or not isinstance(value, Sequence):
                return False
            return all(_fits(item, parts[0]) for item in value)
    if kind in _ABSTRACT and isinstance(value, bool):
        return False
    known = kind is NoneType or kind in _PLAIN or is_dataclass(kind)
    return not known or isinstance(value, _ABSTRACT.get(kind, kind))


def _described(kind: Any, *, many: bool = False) -> str:
    parts = [part for part in get_args(kind) if part not in {NoneType, ...}]
    match get_origin(kind):
        case origin if origin in {Union, UnionType}:
            return " or ".join(_described(part, many=many) for part in parts)
        case origin if origin is Literal:
            return " or ".join(map(str, parts))
        case origin if origin in {tuple, list, Sequence}:
            return f"{'lists' if many else 'a list'} of {_described(parts[0], many=True)}"
    return _PLAIN[kind][many] if kind in _PLAIN else f"a {kind.__name__}"
