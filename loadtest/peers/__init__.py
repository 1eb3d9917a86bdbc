"""Other model servers under our load: LitServe and Ray Serve, each with one fixed subnet.

A peer is somebody else's server that runs our model behind the part of our HTTP API that a load
needs: ``/health/ready``, ``/v1/models``, ``/v1/policy`` and ``/v1/classify``. The network (one
extracted subnet on plain torch), the decoding and the JSON are ours, so that what differs is the
server: HTTP, queues, batching and processes. It knows no deadlines and no other subnet; the
``deadline_met`` of its answers only compares times afterwards.

`command` is what `loadtest.server_process.running_server` starts.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any

from loadtest.peers.settings import DEFAULTS, PeerSettings
from superserve.errors import ConfigError

OF_THE_MODEL = ("checkpoint", "accuracy_card", "plugins", "threads")  # fields of `Config`
NONE: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Peer:
    """``package`` is what is imported and installed, ``module`` what runs the server."""

    title: str
    package: str
    module: str


PEERS: Mapping[str, Peer] = MappingProxyType(
    {
        "litserve": Peer("LitServe", "litserve", "loadtest.peers.litserve_server"),
        "ray": Peer("Ray Serve", "ray", "loadtest.peers.ray_server"),
    }
)


def find_peer(name: str) -> Peer:
    """Raises `ConfigError` for an unknown name, and where its package is not installed."""
    peer = PEERS.get(name)
    if peer is None:
        raise ConfigError(f"there is no peer {name!r}; the known ones are {', '.join(PEERS)}")
    if find_spec(peer.package) is None:
        raise ConfigError(f"{peer.title} is not installed: pip install 'superserve[peers]'")
    return peer


def command(
    name: str,
    *,
    supernet: str = DEFAULTS.supernet,
    subnet: str = DEFAULTS.subnet,
    workers: int = DEFAULTS.workers,
    devices: Sequence[str] = (DEFAULTS.devices,),
    settings: Mapping[str, Any] = NONE,
    options: Mapping[str, Any] = NONE,
) -> list[str]:
    """The process to start, but for ``--host`` and ``--port``.

    Of ``settings``, those of `superserve.config.Config`, a peer takes what concerns the model; the
    others are for our scheduler. ``options`` are fields of `PeerSettings`, and stronger. Raises
    `ConfigError` as `find_peer` and `PeerSettings`.
    """
    peer = find_peer(name)
    chosen = {
        **{key: value for key, value in settings.items() if key in OF_THE_MODEL},
        "supernet": supernet,
        "subnet": subnet,
        "workers": workers,
        "devices": devices,
        **options,
    }
    return [sys.executable, "-m", peer.module, *PeerSettings.of(chosen).arguments()]


def version(name: str) -> str:
    """Title and version, as reports name it. Raises as `find_peer`."""
    peer = find_peer(name)
    return f"{peer.title} {metadata.version(peer.package)}"
