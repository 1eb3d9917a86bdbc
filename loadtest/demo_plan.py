"""What the demonstration sends, worked out from the profile of the server. Pure."""

from dataclasses import dataclass
from math import ceil

from loadtest.arrivals import Times, phases
from policies.types import Profile

# Calm, burst, calm: long enough before to see the best accuracy, and after to see it come back.
SHARES = (("calm", 8 / 30), ("burst", 10 / 30), ("calm again", 12 / 30))
CALM = 0.3  # of the largest subnet's capacity
HEADROOM = 0.5  # of the smallest subnet's capacity: the burst must be possible to serve
SLO_BATCHES = 2.5  # the largest subnet's full batches: one runs, one gathers, and some reserve
SLO_STEP = 0.005  # seconds, rounded up to
SMALLEST_SLO = 0.025  # seconds: timers are good to about 1 ms, and 5 % of the SLO must exceed that


@dataclass(frozen=True, slots=True)
class Phase:
    name: str
    start: float  # seconds
    seconds: float
    rate: float  # queries per second


@dataclass(frozen=True, slots=True)
class Plan:
    """Times in seconds, rates and capacities in queries per second over all workers."""

    slo: float
    phases: tuple[Phase, ...]
    largest_capacity: float
    smallest_capacity: float

    @property
    def seconds(self) -> float:
        return sum(phase.seconds for phase in self.phases)

    @property
    def overloads(self) -> bool:
        """Is the burst more than the largest subnet can serve? If not, there is nothing to see."""
        return max(phase.rate for phase in self.phases) > self.largest_capacity

    def arrivals(self, seed: int) -> Times:
        """A Poisson stream at the rates of the phases."""
        return phases([(phase.seconds, phase.rate) for phase in self.phases], seed)

    def phase_at(self, time: float) -> Phase:
        """The phase of this time; the last one also afterwards."""
        begun = [phase for phase in self.phases if phase.start <= time]
        return begun[-1] if begun else self.phases[0]


def make_plan(
    profile: Profile,
    *,
    workers: int = 1,
    seconds: float = 30.0,
    slo: float | None = None,
    burst_factor: float = 2.0,
) -> Plan:
    """Calm at 0.3 and burst at ``burst_factor`` of what the largest subnet can serve.

    The burst stays within half of what the smallest subnet can serve. ``profile`` holds planning
    latencies; ``slo`` None means long enough for the largest subnet. Raises ``ValueError`` for
    values that are not positive.
    """
    if workers < 1 or seconds <= 0 or burst_factor <= 0 or (slo is not None and slo <= 0):
        raise ValueError("workers, seconds, SLO and burst factor must be positive")
    largest = _capacity(profile, profile.largest, workers)
    smallest = _capacity(profile, profile.smallest, workers)
    rates = {
        "calm": CALM * largest,
        "burst": min(burst_factor * largest, HEADROOM * smallest),
        "calm again": CALM * largest,
    }
    start = 0.0
    planned = []
    for name, share in SHARES:
        planned.append(Phase(name, start, share * seconds, rates[name]))
        start += share * seconds
    return Plan(slo or comfortable_slo(profile), tuple(planned), largest, smallest)


def comfortable_slo(profile: Profile) -> float:
    """Seconds within which even the largest subnet answers in full batches."""
    needed = SLO_BATCHES * profile.latency(profile.largest, profile.max_batch)
    steps = ceil(max(needed, SMALLEST_SLO) / SLO_STEP - 1e-9)  # 0.03 / 0.005 is 6.000000000000001
    return steps * SLO_STEP


def _capacity(profile: Profile, subnet: str, workers: int) -> float:
    """Queries per second in full batches."""
    return workers * profile.max_batch / profile.latency(subnet, profile.max_batch)
