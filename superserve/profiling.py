"""Getting the latency profile that a server needs: from a file, the cache, or a quick measurement.

The measurement runs in a process of its own (`superserve.profiler`); nothing here imports torch.
"""

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path

from superserve.config import Config
from superserve.engine_types import EngineSpec
from superserve.errors import ConfigError
from superserve.messages import ModelInfo
from superserve.profile_store import LatencyProfile, profile_path
from superserve.profiler import FULL_SECONDS, QUICK_SECONDS, ProfileRequest

Say = Callable[[str], None]
Progress = Callable[[float, float], None]  # seconds spent, seconds allowed

_LINE_LIMIT = 1 << 20


def engine_spec(config: Config, device: str) -> EngineSpec:
    """What a worker or the profiler on this device is built from."""
    return EngineSpec(
        supernet=config.supernet,
        checkpoint=config.checkpoint,
        accuracy_card=config.accuracy_card,
        plugins=config.plugins,
        device=device,
        threads=config.threads,
        allow_uncalibrated=config.allow_uncalibrated,
        kernels=config.kernels,
        worker=config.worker,
        resident_models=config.resident_models,
    )


async def find_or_measure(
    config: Config, model: ModelInfo, device: str, device_type: str, say: Say
) -> LatencyProfile:
    """The latency profile of this model on this device.

    A file that the operator named must fit, or `ConfigError` says why not. One in the cache that
    does not fit is measured anew, quickly, and ``say`` tells so.
    """
    if config.latency_profile:
        return _named(config, model, device_type)
    path = profile_path(model, device_type, config.threads)
    reason = "there is none yet"
    if path.exists():
        try:
            cached = LatencyProfile.read(path)
        except ConfigError as error:
            reason = error.message
        else:
            unfit = cached.why_not(model, device_type, config.threads)
            if unfit is None:
                return cached
            reason = f"the one in the cache is stale, {unfit}"
    say(
        f"No latency profile of {model.name} on {device} ({reason}): making a quick one, about "
        f"{QUICK_SECONDS:.0f} s. For a better one run `superserve profile` on the idle machine."
    )
    request = ProfileRequest(engine_spec(config, device), seconds=QUICK_SECONDS, quick=True)
    return LatencyProfile.read(await run_profiler(request))


async def for_emulation(config: Config, say: Say) -> LatencyProfile:
    """The profile whose latencies emulated workers wait: the one named, else that of this CPU."""
    if config.latency_profile:
        return LatencyProfile.read(Path(config.latency_profile))
    say("Emulated workers wait the latencies of this machine's CPU; give --latency-profile FILE to")
    say("emulate another device.")
    request = ProfileRequest(
        engine_spec(config, "cpu"), seconds=QUICK_SECONDS, quick=True, reuse=True
    )
    return LatencyProfile.read(await run_profiler(request))


async def measure(config: Config, device: str, output: str, progress: Progress | None) -> Path:
    """Make a full profile; returns its file."""
    request = ProfileRequest(engine_spec(config, device), seconds=FULL_SECONDS, output=output)
    return await run_profiler(request, progress)


async def run_profiler(request: ProfileRequest, progress: Progress | None = None) -> Path:
    """Run the profiler's process to its end. Raises `ConfigError` with its reason if it fails."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "superserve.profiler",
        request.to_json(),
        stdout=asyncio.subprocess.PIPE,
        limit=_LINE_LIMIT,
    )
    assert process.stdout is not None
    path: Path | None = None
    try:
        async for line in process.stdout:
            try:
                report = json.loads(line)
            except ValueError:
                continue  # a plugin printed something
            if not isinstance(report, dict):
                continue
            if "error" in report:
                raise ConfigError(report["error"])
            if "path" in report:
                path = Path(report["path"])
            elif progress is not None:
                progress(report["spent"], report["allowed"])
        status = await process.wait()
    except BaseException:
        if process.returncode is None:
            process.kill()
            await process.wait()
        raise
    if path is None:
        raise ConfigError(f"the profiler ended with status {status} and no profile; see above")
    return path


def _named(config: Config, model: ModelInfo, device_type: str) -> LatencyProfile:
    path = Path(config.latency_profile)
    named = LatencyProfile.read(path)
    unfit = named.why_not(model, device_type, config.threads)
    if unfit is not None:
        raise ConfigError(
            f"the latency profile {path} does not fit: {unfit}. Measure again with "
            f"`superserve profile --supernet {model.name} --output {path}`, or leave "
            "--latency-profile out"
        )
    return named
