"""Putting a server together: workers, profiles, scheduler, dispatcher; and taking it apart."""

import contextlib
import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI

from policies import load_policy
from policies.types import Profile
from superserve.config import Config
from superserve.dispatcher import Dispatcher
from superserve.emulated import DEVICE_TYPE, EmulatedPool
from superserve.errors import ConfigError
from superserve.guarded import MakePolicy
from superserve.journal import Journal
from superserve.messages import WorkerInfo
from superserve.pool import Pool, ProcessPool
from superserve.profiling import Say, engine_spec, find_or_measure, for_emulation
from superserve.scheduler import Scheduler
from superserve.server.app import create_app
from superserve.worker import WorkerSpec

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Service:
    """A running server without its socket. ``profiles`` are by model name."""

    config: Config
    app: FastAPI
    dispatcher: Dispatcher
    workers: tuple[WorkerInfo, ...]
    profiles: Mapping[str, Profile]


@contextlib.asynccontextmanager
async def running(
    config: Config, *, in_process: bool = False, say: Say = log.info
) -> AsyncIterator[Service]:
    """Start everything that answers queries; at the end drain and stop it.

    ``in_process`` runs the workers as threads of this process. Raises `ConfigError` where a
    setting, the supernet, its accuracy card or a profile is wrong, before any query is taken.
    """
    make_policy = policy_maker(config)
    with contextlib.ExitStack() as files:
        journal = files.enter_context(Journal(Path(config.journal))) if config.journal else None
        async with _running(
            config, make_policy, journal, in_process=in_process, say=say
        ) as service:
            yield service


@contextlib.asynccontextmanager
async def _running(
    config: Config, make_policy: MakePolicy, journal: Journal | None, *, in_process: bool, say: Say
) -> AsyncIterator[Service]:
    margin = config.margin_ms / 1000.0
    emulated = [device for device in config.devices if device.startswith(DEVICE_TYPE)]
    if emulated and len(emulated) != len(config.devices):
        raise ConfigError("emulated devices and real ones cannot serve together")
    pool: Pool
    if emulated:
        pool, tables = await _emulated(config, margin, say)
        workers = await pool.start()
    else:
        pool = _real(config, in_process=in_process)
        workers = await pool.start()
        try:
            tables = await _tables(config, workers, margin, say)
        except BaseException:
            await pool.stop()
            raise
    try:
        scheduler = Scheduler(
            tables, make_policy, late=config.late, reserve=config.reserve, compensate=True
        )
        dispatcher = Dispatcher(
            scheduler,
            pool,
            make_policy=make_policy,
            policy_name=config.policy,
            hang_grace=config.worker_hang_s,
            note=None if journal is None else journal.note,
        )
    except Exception as error:
        # The policy's constructor may be anybody's code.
        await pool.stop()
        raise ConfigError(f"the policy {config.policy} cannot be built: {error!r}") from error
    await dispatcher.start(workers, config.credits)
    profiles = {model: profile for (model, _), profile in reversed(tables.items())}
    app = create_app(dispatcher, config, profiles=profiles)
    try:
        yield Service(config, app, dispatcher, workers, profiles)
    finally:
        await dispatcher.stop(config.drain_s)


def policy_maker(config: Config) -> MakePolicy:
    """What the settings say about the policy; raises `ConfigError` if there is no such one."""
    options = {}
    for option in config.policy_options:
        name, equals, value = option.partition("=")
        if not equals:
            raise ConfigError(f"a policy option is like buckets=16, not {option!r}")
        options[name] = value
    try:
        return load_policy(config.policy, options)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _real(config: Config, *, in_process: bool) -> Pool:
    specs = [
        WorkerSpec(name=f"{device}#{index}", spec=engine_spec(config, device))
        for index, device in enumerate(config.devices)
    ]
    if in_process:
        from superserve.inprocess import InProcessPool

        return InProcessPool(specs, slots=config.slots)
    return ProcessPool(specs, slots=config.slots, start_timeout=config.worker_start_s)


async def _tables(
    config: Config, workers: tuple[WorkerInfo, ...], margin: float, say: Say
) -> dict[tuple[str, str], Profile]:
    """One planning table per (model, device type) of these workers."""
    tables: dict[tuple[str, str], Profile] = {}
    for worker in workers:
        for model in worker.models:
            key = (model.name, worker.device_type)
            if key not in tables:
                latency = await find_or_measure(config, model, worker.device, key[1], say)
                tables[key] = latency.join(model.accuracies, margin)
    return tables


async def _emulated(
    config: Config, margin: float, say: Say
) -> tuple[EmulatedPool, dict[tuple[str, str], Profile]]:
    """``emulated`` is one worker, ``emulated:4`` four of them."""
    names: list[str] = []
    for device in config.devices:
        _, _, count = device.partition(":")
        if count and (not count.isdigit() or int(count) < 1):
            raise ConfigError(f"{device!r} must be like emulated:4, for four emulated workers")
        names += [f"{DEVICE_TYPE}#{len(names) + i}" for i in range(int(count or 1))]
    latency = await for_emulation(config, say)
    accuracies = latency.model.accuracies
    model = latency.model.name
    if model != config.supernet:
        raise ConfigError(
            f"the latency profile to emulate is of {model!r}, not of {config.supernet!r}: give "
            f"--supernet {model}, or another --latency-profile"
        )
    pool = EmulatedPool(
        names, (latency.model,), {model: latency.join(accuracies, 0.0)}, slots=config.slots
    )
    return pool, {(model, DEVICE_TYPE): latency.join(accuracies, margin)}
