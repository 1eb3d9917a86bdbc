"""How many queries per second one subnet alone sustains on a live server: the range of Fig. 5c.

(SuperServe, NSDI'25, section 6.) A rate is sustained where a steady stream at it meets nearly all
deadlines. What limits it may be the device, HTTP or the sender: then that is the range of this
server on this machine.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from loadtest.compare.study import PolicySpec
from loadtest.experiment.live import Sent, send
from loadtest.experiment.serving import Contestant, started
from policies.types import Profile
from superserve.client import Client

SUSTAINED = 0.999  # SLO attainment
SECONDS = 4.0
STEPS = 6  # halvings: to within 2 % of where the search began
ABOVE = 1.3  # times what the profile promises, where the search begins


@dataclass(frozen=True, slots=True)
class Sustained:
    """Queries per second; ``promised`` by the profile, in full batches.

    ``limited_by_sender`` where a faster stream could not be sent in time.
    """

    subnet: str
    accuracy: float  # percent
    rate: float
    promised: float
    limited_by_sender: bool


@dataclass(frozen=True, slots=True)
class Probe:
    met: bool
    valid: bool


def highest(
    probe: Callable[[float], Probe], low: float, high: float, steps: int = STEPS
) -> tuple[float, bool]:
    """The highest of the rates tried that was met, and whether invalid runs stood above it.

    Bisection between ``low``, which is taken for met, and ``high``.
    """
    first = probe(high)
    if first.met and first.valid:
        return high, False
    invalid_above = not first.valid
    for _ in range(steps):
        middle = (low + high) / 2
        found = probe(middle)
        if found.met and found.valid:
            low = middle
        else:
            high, invalid_above = middle, not found.valid
    return low, invalid_above


def chosen(profile: Profile) -> tuple[str, ...]:
    """The smallest, the median and the largest subnet."""
    subnets = profile.subnets
    return tuple(dict.fromkeys((subnets[0], subnets[len(subnets) // 2], subnets[-1])))


def sustained_rates(
    contestant: Contestant,
    sent: Sent,
    base: Profile,
    workers: int,
    say: Callable[[str], None],
) -> tuple[Sustained, ...]:
    """On one server, one subnet after the other. ``base``: what batches take on an idle device."""
    found = []
    with started(contestant) as url, Client(url) as client:
        served = {s.id for s in client.models()[0].subnets}
        for subnet in chosen(base):
            if subnet not in served:
                continue  # another one is better at every batch size
            promised = workers * base.max_batch / base.latency(subnet, base.max_batch)
            policy = PolicySpec("fixed", {"subnet": subnet})

            def probe(rate: float, policy: PolicySpec = policy) -> Probe:
                say(f"{policy.options['subnet']}: {rate:.0f} queries/s")
                stream = {"kind": "constant", "rate": rate, "seconds": SECONDS}
                result = send(url, replace(sent, workload=stream), policy=policy)
                report = result.report
                return Probe(report is not None and report.attainment >= SUSTAINED, result.valid)

            rate, invalid = highest(probe, 0.0, ABOVE * promised)
            found.append(Sustained(subnet, base.accuracy(subnet), rate, promised, invalid))
    return tuple(found)


def rates_text(found: Sequence[Sustained]) -> str:
    """The range in one line."""
    rates = [each.rate for each in found]
    return f"{min(rates):.0f} to {max(rates):.0f} queries/s" if rates else "nothing"
