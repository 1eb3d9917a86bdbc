"""A profile small enough to work every decision out by hand."""

from policies.types import Profile, QueueView

# Seconds at the batch sizes       1    2    4
HAND = Profile.from_table(
    [
        ("small", 70.0, {1: 1.0, 2: 1.5, 4: 2.5}),
        ("mid", 75.0, {1: 2.0, 2: 3.2, 4: 5.5}),
        ("large", 80.0, {1: 4.0, 2: 7.0, 4: 13.0}),
    ]
)
NOW = 100.0


def choose(policy, queue, slack):
    """Decide for ``queue`` queries, the head of which is due in ``slack`` seconds."""
    view = QueueView.of([NOW + slack + place for place in range(queue)])
    return policy.choose(view, NOW)
