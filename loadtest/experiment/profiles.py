"""Latency profiles of an experiment: measured on this machine, named, or the paper's."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from loadtest.experiment.design import PAPER, ServerSpec
from loadtest.paper_profile import PAPER_PROFILE
from policies.types import Profile
from superserve.config import Config, load_config
from superserve.messages import ModelInfo, Preprocessing
from superserve.profile_store import Latency, LatencyProfile, now_utc, versions
from superserve.profiler import ProfileRequest
from superserve.profiling import engine_spec, run_profiler

FOLDER = "profiles"

OnProgress = Callable[[float, float], None]  # seconds spent, seconds allowed


def server_config(server: ServerSpec, worker: str, **more: Any) -> Config:
    """The settings of the experiment's server with this kind of worker."""
    given = {"supernet": server.supernet, "devices": server.devices, "worker": worker}
    return load_config({**server.settings, **given, **more}, environment={})


def find_profile(
    server: ServerSpec, worker: str, folder: Path, on_progress: OnProgress
) -> tuple[Path, LatencyProfile]:
    """The profile in ``folder``, made or copied there if there is none yet.

    Raises `ConfigError` where it cannot be measured or read.
    """
    path = folder / FOLDER / f"{worker}.json"
    if path.exists():
        return path, LatencyProfile.read(path)
    if server.profile == PAPER:
        found = stretched(paper_latencies(server.supernet), server.slowdown)
    elif server.profile:
        found = stretched(LatencyProfile.read(Path(server.profile)), server.slowdown)
    else:
        measured = folder / FOLDER / f"{worker}.measured.json"
        config = server_config(server, worker)
        device = "cpu" if server.emulated else server.devices[0]
        request = ProfileRequest(
            engine_spec(config, device), seconds=server.profile_seconds, output=str(measured)
        )
        asyncio.run(run_profiler(request, on_progress))
        found = stretched(LatencyProfile.read(measured), server.slowdown)
        measured.unlink()
    found.write(path)
    return path, found


def paper_latencies(supernet: str) -> LatencyProfile:
    """The paper's CNNs as a profile that emulated workers can wait, under the name ``supernet``."""
    profile = PAPER_PROFILE
    model = ModelInfo(
        name=supernet,
        labels=tuple("0123456789"),
        preprocessing=Preprocessing(32, 32, 1, (0.5,), (0.5,)),
        subnets={subnet: subnet for subnet in profile.subnets},
        weights_hash=PAPER,
        resident_bytes=0,
        accuracies=dict(zip(profile.subnets, profile.accuracies, strict=True)),
        accuracy_source="the paper",
    )
    return LatencyProfile(
        model=model,
        device_type="emulated",
        device_name="an RTX 2080 Ti, as far as the paper tells",
        threads=1,
        versions=versions(),
        quick=False,
        created=now_utc(),
        latencies={
            subnet: {
                batch: Latency(seconds, seconds, 1)
                for batch, seconds in zip(profile.batch_sizes, row, strict=True)
            }
            for subnet, row in zip(profile.subnets, profile.latencies, strict=True)
        },
    )


def stretched(profile: LatencyProfile, factor: float) -> LatencyProfile:
    """All latencies times ``factor``: the same device in slow motion."""
    if factor == 1.0:
        return profile
    latencies = {
        subnet: {b: Latency(c.p50 * factor, c.p99 * factor, c.runs) for b, c in row.items()}
        for subnet, row in profile.latencies.items()
    }
    return LatencyProfile(
        profile.model, profile.device_type, profile.device_name, profile.threads,
        profile.versions, profile.quick, profile.created, latencies,
    )  # fmt: skip


def planned_table(profile: LatencyProfile, margin: float) -> Profile:
    """What the server plans with, ``margin`` in seconds."""
    return profile.join(profile.model.accuracies, margin)


def base_table(profile: LatencyProfile, *, emulated: bool) -> Profile:
    """What batches take on an idle device. Emulated workers wait exactly the planned times.

    On a real one each size of batch has its own: medians, and between profiled sizes a line, since
    CPU workers run batches as large as they are.
    """
    if emulated:
        return planned_table(profile, 0.0)
    accuracies = profile.model.accuracies
    rows = [
        (subnet, accuracies[subnet], _every_size(row))
        for subnet, row in profile.latencies.items()
        if subnet in accuracies
    ]
    return Profile.from_table(rows)


def _every_size(row: Mapping[int, Latency]) -> dict[int, float]:
    profiled = sorted(row)
    medians = np.maximum.accumulate([row[size].p50 for size in profiled])
    sizes = np.arange(1, profiled[-1] + 1)
    return dict(zip(sizes.tolist(), np.interp(sizes, profiled, medians).tolist(), strict=True))
