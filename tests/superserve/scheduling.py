"""What the tests of the scheduler share: a profile, policies that do as told, short forms."""

from policies.types import Choice, Profile
from superserve.messages import Dispatch, Drop, Query
from superserve.scheduler import Scheduler

# Seconds at the batch sizes       1    2    4
PROFILE = Profile.from_table(
    [
        ("small", 70.0, {1: 1.0, 2: 1.5, 4: 2.5}),
        ("mid", 75.0, {1: 2.0, 2: 3.2, 4: 5.5}),
        ("large", 80.0, {1: 4.0, 2: 7.0, 4: 13.0}),
    ]
)


class Always:
    """A policy that makes the same choice every time, and remembers what it was asked."""

    def __init__(self, choice):
        self.choice = choice
        self.asked = []

    def __repr__(self):
        return "Always"

    def choose(self, view, now):
        self.asked.append((view, now))
        return self.choice


def always(subnet="small", batch=4, shed=0):
    return lambda _profile: Always(Choice(subnet, batch, shed))


def wait(_profile):
    return Always(None)


def scheduler(make_policy=None, *, workers=1, credits=1, profiles=None, **options):
    made = Scheduler(profiles or {("", "cpu"): PROFILE}, make_policy or always(), **options)
    for number in range(workers):
        made.worker_joined(f"w{number}", "cpu", 0.0, credits)
    return made


def query(id_, deadline=100.0, *, model="", floor=0.0, arrival=0.0):
    return Query(id_, arrival, deadline, model, min_accuracy=floor)


def fill(made, *queries, now=0.0):
    """Let these arrive one by one; all the commands that came back."""
    return [command for each in queries for command in made.arrive(each, now)]


def only(kind, commands):
    return [command for command in commands if isinstance(command, kind)]


def ids(commands):
    """Of each dispatch the ids of its queries."""
    return [[q.id for q in command.queries] for command in only(Dispatch, commands)]


def drops(commands):
    return [(command.query.id, command.reason) for command in only(Drop, commands)]
