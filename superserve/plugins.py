"""Modules that an operator names so that their supernets get registered."""

import importlib
from collections.abc import Iterable

from superserve.errors import ConfigError


def import_plugins(modules: Iterable[str]) -> None:
    """Import each; raises `ConfigError` naming the one that cannot be."""
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception as error:
            # Somebody else's code: whatever it raises, it is the plugin that is to blame.
            raise ConfigError(f"cannot import the plugin {module}: {error!r}") from error
