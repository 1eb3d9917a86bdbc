"""A study that takes a blink: two policies, one load, two seeds."""

from loadtest.compare import PolicySpec, Study, WorkloadSpec

POISSON = {"kind": "poisson", "rate": 600, "seconds": 0.5}


def small_study(**changes):
    given = {
        "name": "small",
        "policies": (PolicySpec("slackfit"), PolicySpec("fixed", {"subnet": "largest"})),
        "workloads": (WorkloadSpec(POISSON, label="calm"),),
        "seeds": (0, 1),
        "workers": (2,),
    }
    return Study(**(given | changes))
