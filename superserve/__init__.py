"""An elastic supernet model server: as accurate as the deadlines allow.

Members are loaded when they are first used; none of them imports torch into this process, except
a server that is asked to run its workers in it.
"""

from importlib import import_module
from typing import Any

_MEMBERS = {
    "serve": "superserve.local",
    "profile": "superserve.local",
    "LocalServer": "superserve.local",
    "Client": "superserve.client",
    "AsyncClient": "superserve.client",
    "Config": "superserve.config",
    "load_config": "superserve.config",
}

__all__ = list(_MEMBERS)


def __getattr__(name: str) -> Any:
    if name not in _MEMBERS:
        raise AttributeError(f"module 'superserve' has no attribute {name!r}")
    value = getattr(import_module(_MEMBERS[name]), name)
    globals()[name] = value
    return value
