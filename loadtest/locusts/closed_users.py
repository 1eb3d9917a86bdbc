"""How many closed-loop users it takes to ask as often as a workload does. Pure."""

from math import ceil

import numpy as np

from loadtest.arrivals import Times

STEP = 1.0  # seconds between two ticks of a Locust shape


def users_by_step(arrivals: Times, requests_per_user: float) -> tuple[int, ...]:
    """How many users each step of a second needs for the arrivals within it."""
    if not len(arrivals):
        return ()
    steps = int(arrivals[-1] / STEP) + 1
    counts, _ = np.histogram(arrivals, bins=steps, range=(0.0, steps * STEP))
    return tuple(ceil(count / (requests_per_user * STEP)) for count in counts.tolist())
