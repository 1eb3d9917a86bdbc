"""A policy of one's own, served from Python.

A policy is a class built from a profile, with one pure method. This one keeps a reserve: it spends
at most half of the earliest deadline's slack. On the command line the same class is
`superserve serve --policy own_policy:HalfSlack`, where `own_policy` is a module that Python finds.
"""

from pathlib import Path

import superserve
from policies import Choice, Profile, QueueView


class HalfSlack:
    """The most accurate subnet that runs all that waits in half of the head's slack."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile

    def choose(self, view: QueueView, now: float) -> Choice:
        """See `policies.types.Policy`."""
        batch = min(len(view), self.profile.max_batch)
        budget = (view.head.deadline - now) / 2
        fitting = [s for s in self.profile.subnets if self.profile.latency(s, batch) <= budget]
        return Choice(fitting[-1] if fitting else self.profile.smallest, batch)


if __name__ == "__main__":
    image = Path(__file__).parent / "images" / "seven.png"
    # Workers run in this process here, so that the script needs no module of its own name.
    with (
        superserve.serve(policy="__main__:HalfSlack", in_process=True) as server,
        server.client() as client,
    ):
        for slo_ms in (500, 50):
            answer = client.classify(image, slo_ms=slo_ms)
            print(f"SLO {slo_ms} ms: {answer.label} with {answer.accuracy} %")
