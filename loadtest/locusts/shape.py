"""For ordinary, closed-loop Locust users: a shape whose number of users follows a workload's rate.

It is no open loop. Users wait for their answers, so a server that is slow is asked less: latencies
and SLO attainment look better than what the arrivals would have met. Use it for soak tests and to
show that difference; use `loadtest/locustfile.py` for figures.
"""

from locust import LoadTestShape

from loadtest.locusts.closed_users import STEP, users_by_step
from loadtest.locusts.options import read_options
from loadtest.workloads import make_arrivals

SPAWN_RATE = 100.0  # users per second; Locust warns above


class TraceShape(LoadTestShape):
    """Users such that each sends ``requests_per_user`` per second, as ``constant_throughput`` does.

    A locustfile that has it must add the arguments of `loadtest.locusts.options.add_options`.
    """

    requests_per_user = 1.0
    _users: tuple[int, ...] | None = None

    def tick(self) -> tuple[int, float] | None:
        if self._users is None:
            assert self.runner is not None
            options = read_options(vars(self.runner.environment.parsed_options))
            arrivals = make_arrivals(options.workload, options.seed)
            self._users = users_by_step(arrivals, self.requests_per_user)
            self.reset_time()
        step = int(self.get_run_time() / STEP)
        if step >= len(self._users):
            self._users = None  # the web UI may start another one
            return None
        return self._users[step], SPAWN_RATE
