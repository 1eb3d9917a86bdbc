"""Weight-shared supernets: create, call with a subnet, make resident, calibrate, train, extract.

Members are loaded when they are first used, so that a process which needs only the pure parts
(`supernets.space`, `supernets.searching.pareto`, `supernets.data.digits_data`) never imports torch.
"""

from importlib import import_module
from typing import Any

_MEMBERS = {
    "create_supernet": "supernets.registry",
    "list_supernets": "supernets.registry",
    "register_supernet": "supernets.registry",
    "Supernet": "supernets.supernet",
    "Preprocessing": "supernets.supernet",
    "ResidentForm": "supernets.supernet",
    "make_elastic": "supernets.making_elastic",
    "register_module": "supernets.opt_in",
    "extract": "supernets.extraction",
    "export": "supernets.exporting",
    "calibrate": "supernets.calibration",
    "calibrate_checkpoint": "supernets.calibration",
    "evaluate": "supernets.evaluation",
    "train": "supernets.learning.training",
    "TrainOptions": "supernets.learning.training",
    "cost": "supernets.cost",
    "open_images": "supernets.data.datasets",
    "import_checkpoint": "supernets.importing",
    "save": "supernets.checkpoint",
    "Subnet": "supernets.space",
    "SearchSpace": "supernets.space",
    "StagedSpace": "supernets.space",
    "CheckpointError": "supernets.errors",
    "MissingStatistics": "supernets.norms.statistics",
}

__all__ = list(_MEMBERS)


def __getattr__(name: str) -> Any:
    if name not in _MEMBERS:
        raise AttributeError(f"module 'supernets' has no attribute {name!r}")
    value = getattr(import_module(_MEMBERS[name]), name)
    globals()[name] = value
    return value
