"""After a burst that the smallest subnet serves, the load before it is served as before it."""

import numpy as np
import pytest

from loadtest.arrivals import phases
from loadtest.paper_profile import PAPER_PROFILE
from loadtest.simulate import simulate_arrays
from policies.dualfit import DualFit
from policies.slackfit import SlackFit

SLO = 0.036
# Eight workers run the smallest subnet in full batches at 17,400 queries/s, one by one at 5,700.
CALM, BURST = 14_000.0, 20_000.0
BURST_ENDS, SETTLED, END = 0.35, 0.8, 1.2


def attainment_after(policy, seed):
    """Of what arrives long after the burst is over."""
    arrivals = phases([(0.3, CALM), (0.05, BURST), (END - BURST_ENDS, CALM)], seed)
    outcomes = simulate_arrays(arrivals, SLO, PAPER_PROFILE, policy, 8, seed)
    late = outcomes.arrival > SETTLED
    return float(np.mean(outcomes.met[late]))


@pytest.mark.parametrize("seed", range(4))
def test_dualfit_comes_back(seed):
    assert attainment_after(DualFit, seed) > 0.995


def test_slackfit_stays_where_batches_of_one_leave_it():
    """The slack is gone and batches of one cannot win it back: 5,674 of 14,000 are served."""
    stuck = attainment_after(lambda profile: SlackFit(profile, 64), 0)
    one_by_one = 8 / PAPER_PROFILE.latency(PAPER_PROFILE.smallest, 1)
    assert stuck == pytest.approx(one_by_one / CALM, abs=0.05)
