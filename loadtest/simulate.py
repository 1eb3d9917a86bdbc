"""Virtual time around the real scheduler and policies: what a server would do, without one.

Nothing is decided here: the scheduler gets its events at the times at which they would happen, and
what it commands makes the events that follow.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableSequence, Sequence
from itertools import chain, count, repeat
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from loadtest.records import Record
from loadtest.simulation_noise import Noise, Scatter, noisy_times
from loadtest.simulation_outcomes import Books, Floats, Outcomes
from loadtest.simulation_timing import timed
from loadtest.simulation_workers import (
    FleetEvent,
    Join,
    Switching,
    WorkerSpec,
    as_specs,
    in_order,
)
from loadtest.simulation_world import Event, World
from policies import load_policy
from policies.types import Policy, Profile
from superserve.messages import Command, Query
from superserve.scheduler import Scheduler

MakePolicy = Callable[[Profile], Policy]
Logged = tuple[str, tuple[Any, ...], list[Command]]  # an event and what came back
Profiles = Profile | Mapping[str, Profile]

_BLOCK = 65536  # queries whose numbers are turned from arrays into Python's at a time
_MODEL = ""  # a simulation serves one model, which needs no name


def simulate(
    arrivals: npt.ArrayLike,
    slo: npt.ArrayLike,
    profile: Profile,
    policy: Policy | MakePolicy | str,
    workers: int | Sequence[WorkerSpec] = 8,
    seed: int = 0,
    **options: Any,
) -> list[Record]:
    """`simulate_arrays`, whose ``options`` it takes, as one record per query in arrival order."""
    return simulate_arrays(arrivals, slo, profile, policy, workers, seed, **options).records()


def simulate_arrays(
    arrivals: npt.ArrayLike,
    slo: npt.ArrayLike,
    profile: Profile,
    policy: Policy | MakePolicy | str,
    workers: int | Sequence[WorkerSpec] = 8,
    seed: int = 0,
    *,
    min_accuracy: npt.ArrayLike = 0.0,
    priority: npt.ArrayLike = 0,
    late: Literal["drop", "serve"] = "drop",
    reserve: float = 0.0,
    compensate: bool = False,
    credits: int = 1,
    max_waiting: int | None = None,
    actuation: float = 0.0,
    loading: Mapping[str, float] | None = None,
    resident: int = 1,
    noise: Noise | Scatter | None = None,
    events: Iterable[FleetEvent] = (),
    profiles: Mapping[str, Profile] | None = None,
    true_profile: Profiles | None = None,
    decisions: MutableSequence[float] | None = None,
    log: MutableSequence[Logged] | None = None,
) -> Outcomes:
    """Serve queries that come at ``arrivals`` (ascending seconds from 0), in virtual time.

    The queries: ``slo`` (seconds), ``min_accuracy`` (percent) and ``priority`` are one for all or
    arrays like ``arrivals``.

    The server: ``policy`` is a name of `POLICIES` or ``package.module:Class``, what builds a
    policy from a profile, or a policy itself, whose memory then outlives the run. It plans with
    ``profile``, for device types in ``profiles`` with that one. ``late``, ``reserve``,
    ``compensate``, ``max_waiting`` and ``credits``: see `Scheduler`.

    The workers: ``actuation``, ``loading`` and ``resident``: see `Switching`; the server plans
    without these costs. A batch takes what ``true_profile`` (by device type, if it is a mapping)
    says, or else the planned time, changed by ``noise`` that is drawn from ``seed``. ``events`` are
    the workers' failures, joins and restarts.

    What else to collect: ``decisions``, the real seconds of each call of `choose`; ``log``, each
    event of the scheduler with its arguments and commands, for `replay`.

    At one time completions come first (by dispatch), then ``events`` (as given), arrivals, and
    last the scheduler's alarm. The run ends when all queries are answered and all ``events`` have
    happened, or when nothing can happen any more to those that wait. Two runs with the same
    arguments are the same. Raises ``ValueError`` for arguments that make no run; what a faulty
    policy does raises the scheduler's `PolicyError`.
    """
    times, deadlines = _times(arrivals, slo)
    specs = as_specs(workers)
    script = in_order(events, specs)
    joining = [event.worker for event in script if isinstance(event, Join)]
    # A type that no worker has must not count among those a query could be served by.
    types = dict.fromkeys(spec.device_type for spec in (*specs, *joining)) or {"cpu": None}
    planned = {kind: (profiles or {}).get(kind, profile) for kind in types}
    real = _real(planned, true_profile)
    switching = Switching(actuation, loading or {}, resident)
    subnets = tuple(dict.fromkeys(subnet for each in planned.values() for subnet in each.subnets))
    unknown = sorted(set(switching.loading).difference(subnets))
    if unknown:
        raise ValueError(f"loading names subnets that no profile has: {', '.join(unknown)}")
    make_policy = _maker(policy, len(types))
    scheduler = Scheduler(
        {(_MODEL, kind): each for kind, each in planned.items()},
        make_policy if decisions is None else timed(make_policy, decisions),
        late=late,
        reserve=reserve,
        compensate=compensate,
        max_waiting=max_waiting,
    )
    books = Books(subnets)
    world = World(
        queries=_queries(times, deadlines, min_accuracy, priority),
        last_deadline=float(np.max(deadlines, initial=0.0)),
        workers=specs,
        script=script,
        real=real,
        credits=credits,
        switching=switching,
        times=noisy_times(noise, seed),
        books=books,
    )
    recorder = None if log is None else lambda *event: log.append(event)
    for commands in replay(scheduler, world.events(), recorder):
        if commands:
            world.carry_out(commands)
    return books.outcomes(times, deadlines, world.names)


def replay(
    scheduler: Scheduler,
    events: Iterable[Event],
    recorder: Callable[[str, tuple[Any, ...], list[Command]], object] | None = None,
) -> Iterator[list[Command]]:
    """Give a scheduler these events, one by one, and yield the commands that each brings.

    The next event is drawn when its turn comes, so that it may depend on the commands before: so
    a simulation runs, and so a log, of a simulation or of a live server, is run again.
    ``recorder`` is called with every event, its arguments and its commands.
    """
    for name, arguments in events:
        commands: list[Command] = getattr(scheduler, name)(*arguments)
        if recorder is not None:
            recorder(name, arguments, commands)
        yield commands


def _times(arrivals: npt.ArrayLike, slo: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Arrivals and deadlines [N]."""
    times = np.array(arrivals, dtype=np.float64)
    if times.ndim != 1 or not np.all(np.isfinite(times)):
        raise ValueError("arrivals must be one array of finite seconds")
    if len(times) and (times[0] < 0 or np.any(np.diff(times) < 0)):
        raise ValueError("arrivals must ascend from 0 or later")
    deadlines = times + np.asarray(slo, dtype=np.float64)
    if deadlines.shape != times.shape or not np.all(np.isfinite(deadlines)):
        raise ValueError("slo must be finite seconds: one number, or one for each arrival")
    return times, deadlines


def _queries(
    times: Floats, deadlines: Floats, floors: npt.ArrayLike, priorities: npt.ArrayLike
) -> Iterator[Query]:
    """Made when they are about to arrive. Their ids are their places in ``times``."""
    floors = np.broadcast_to(np.asarray(floors, dtype=np.float64), times.shape)
    priorities = np.broadcast_to(np.asarray(priorities, dtype=np.int64), times.shape)
    blocks = (slice(begin, begin + _BLOCK) for begin in range(0, len(times), _BLOCK))
    return chain.from_iterable(
        map(
            Query,
            count(block.start),
            times[block].tolist(),
            deadlines[block].tolist(),
            repeat(_MODEL),
            priorities[block].tolist(),
            floors[block].tolist(),
        )
        for block in blocks
    )


def _real(planned: Mapping[str, Profile], true_profile: Profiles | None) -> dict[str, Profile]:
    """By device type; ``ValueError`` if a batch that may be planned is missing."""
    if true_profile is None:
        return dict(planned)
    if isinstance(true_profile, Profile):
        real = dict.fromkeys(planned, true_profile)
    else:
        real = {kind: true_profile.get(kind, plan) for kind, plan in planned.items()}
    for kind, plan in planned.items():
        missing = set(plan.subnets).difference(real[kind].subnets)
        if missing or real[kind].max_batch < plan.max_batch:
            raise ValueError(f"the true profile of {kind} must cover all that is planned with")
    return real


def _maker(policy: Policy | MakePolicy | str, device_types: int) -> MakePolicy:
    if isinstance(policy, str):
        return load_policy(policy)
    if isinstance(policy, type) or not hasattr(policy, "choose"):
        return cast("MakePolicy", policy)
    if device_types > 1:
        raise ValueError("each device type needs a policy of its own: give what builds it")
    return lambda _: cast("Policy", policy)
