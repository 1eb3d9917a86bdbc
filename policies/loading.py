"""From a name and option texts, as people type them, to something that builds policies."""

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from inspect import signature
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from policies.types import Policy, Profile

_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def resolve(name: str, known: Mapping[str, type]) -> type:
    """The policy class of a known name or of ``package.module:Class``.

    Raises ``ValueError`` with the known names if there is no such class.
    """
    if name in known:
        return known[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ValueError(
            f"no policy {name!r}; there are {', '.join(known)}, or give package.module:Class"
        )
    try:
        found = getattr(import_module(module), attribute)
    except Exception as error:
        # Somebody else's module: whatever it raises, it is the policy that cannot be loaded.
        raise ValueError(f"cannot load the policy {name!r}: {error!r}") from error
    if isinstance(found, type) and callable(getattr(found, "choose", None)):
        return found
    raise ValueError(f"{name!r} is no policy: it needs to be a class with a choose method")


def with_options(policy: type, options: Mapping[str, str]) -> Callable[[Profile], Policy]:
    """A constructor with these options bound, each converted to the type it is annotated with.

    Raises ``ValueError`` for an option that the class does not have or a text that does not fit.
    """
    # The first parameter is the profile.
    names = list(signature(policy).parameters)[1:]
    hints = get_type_hints(policy.__init__)  # type: ignore[misc]
    values: dict[str, Any] = {}
    for name, text in options.items():
        if name not in names:
            has = ", ".join(names) or "none"
            raise ValueError(f"{policy.__name__} has no option {name!r}; it has {has}")
        try:
            values[name] = _convert(text, hints.get(name, str))
        except ValueError as error:
            raise ValueError(f"{policy.__name__}: {name}={text!r} {error}") from error
    return partial(policy, **values)


def _convert(text: str, annotation: Any) -> object:
    if get_origin(annotation) in {Union, UnionType}:
        # Text fits everything, so it is tried last.
        kinds = sorted(get_args(annotation), key=lambda kind: kind is str)
        for kind in kinds:
            try:
                return _convert(text, kind)
            except ValueError:
                continue
        raise ValueError(f"is none of {', '.join(_name(kind) for kind in kinds)}")
    if get_origin(annotation) is Literal:
        if text in get_args(annotation):
            return text
        raise ValueError(f"is none of {', '.join(map(str, get_args(annotation)))}")
    if annotation is NoneType and text.lower() == "none":
        return None
    if annotation is bool and text.lower() in _TRUTH:
        return _TRUTH[text.lower()]
    if annotation in {int, float}:
        try:
            return annotation(text)
        except ValueError:
            raise ValueError(f"is no {_name(annotation)}") from None
    if annotation is str:
        return text
    raise ValueError(f"is no {_name(annotation)}")


def _name(annotation: Any) -> str:
    return "none" if annotation is NoneType else getattr(annotation, "__name__", str(annotation))
