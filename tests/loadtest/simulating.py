"""Profiles and policies of the simulated runs that are worked by hand."""

from policies import Choice, Profile

# Seconds for a batch of           1       4
PROFILE = Profile.from_table([
    ("small", 70.0, {1: 1.0, 4: 2.0}),
    ("large", 80.0, {1: 2.0, 4: 6.0}),
])  # fmt: skip
SOLO = Profile.from_table([("only", 75.0, {1: 1.0})])
LONG = 1000.0


class Script:
    """Runs these subnets one after the other, each with one query."""

    def __init__(self, *subnets):
        self.left = list(subnets)

    def choose(self, view, now):
        return Choice(self.left.pop(0), 1)


class Always:
    def __init__(self, answer):
        self.answer = answer
        self.views = []

    def choose(self, view, now):
        self.views.append((now, tuple(view.waiting), tuple(view.workers)))
        return self.answer


def always(subnet="small", batch=1, shed=0):
    return Always(Choice(subnet, batch, shed))


def finishes(records):
    return [record.finish for record in records]


def reasons(records):
    return [record.dropped for record in records]
