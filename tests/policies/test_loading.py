"""Policies by name and option text."""

import sys
from types import ModuleType

import pytest

from policies import POLICIES, Choice, Profile, QueueView, Wait, load_policy
from policies.fixed import Fixed
from policies.slackfit import SlackFit

PROFILE = Profile.from_table([("s", 70.0, {1: 1.0, 2: 2.0}), ("l", 80.0, {1: 3.0, 2: 6.0})])


class Odd:
    """A policy of somebody else's, with an option of every kind."""

    def __init__(
        self, profile: Profile, share: float = 0.5, count: int | None = None, *, eager: bool = False
    ) -> None:
        self.options = (share, count, eager)
        self.subnet = profile.smallest

    def choose(self, view: QueueView, now: float) -> Choice | None:
        return Choice(self.subnet, 1)


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch):
    """A module of somebody else's, with a policy and something that is none."""
    module = ModuleType("elsewhere")
    module.Odd = Odd
    module.number = 3
    monkeypatch.setitem(sys.modules, "elsewhere", module)


@pytest.mark.parametrize("name", POLICIES)
def test_every_name_builds_a_policy_from_a_profile_alone(name):
    policy = load_policy(name)(PROFILE)
    assert isinstance(policy.choose(QueueView.of([9.0]), 0.0), Choice | Wait)


def test_a_class_of_somebody_else_is_found_by_its_path():
    assert isinstance(load_policy("elsewhere:Odd")(PROFILE), Odd)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (0.5, None, False)),
        ({"share": "0.25"}, (0.25, None, False)),
        ({"share": "1"}, (1.0, None, False)),
        ({"count": "7"}, (0.5, 7, False)),
        ({"count": "none"}, (0.5, None, False)),
        ({"eager": "true"}, (0.5, None, True)),
        ({"eager": "No"}, (0.5, None, False)),
    ],
)
def test_an_option_becomes_the_type_that_the_constructor_asks_for(options, expected):
    assert load_policy("elsewhere:Odd", options)(PROFILE).options == expected


def test_a_choice_among_texts_is_passed_as_text():
    policy = load_policy("slackfit", {"reading": "s42", "buckets": "9"})(PROFILE)
    assert repr(policy) == repr(SlackFit(PROFILE, 9, "s42"))


def test_a_rank_and_an_id_are_both_texts():
    by_rank = load_policy("fixed", {"subnet": "1"})(PROFILE)
    assert repr(by_rank) == repr(Fixed(PROFILE, "s"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("slakfit", "no policy 'slakfit'; there are default, slackfit, "),
        ("", "there are default"),
        ("nowhere:Policy", "cannot load the policy 'nowhere:Policy'"),
        ("elsewhere:Policy", "cannot load the policy 'elsewhere:Policy'"),
        ("elsewhere:number", "needs to be a class with a choose method"),
        (":Odd", "cannot load the policy ':Odd'"),
        ("elsewhere:", "cannot load the policy 'elsewhere:'"),
    ],
)
def test_an_unknown_policy_is_refused_with_what_could_be_meant(name, message):
    with pytest.raises(ValueError, match=message):
        load_policy(name)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("slackfit", {"bukets": "4"}, "no option 'bukets'; it has buckets, reading, queue_aware"),
        ("slackfit", {"profile": "x"}, "no option 'profile'"),
        ("maxacc", {"buckets": "4"}, "no option 'buckets'; it has none"),
        ("slackfit", {"buckets": "four"}, "buckets='four' is none of int, none"),
        ("slackfit", {"reading": "a6"}, "reading='a6' is none of a5, s42"),
        ("slackfit", {"queue_aware": "maybe"}, "queue_aware='maybe' is no bool"),
        ("elsewhere:Odd", {"share": "half"}, "share='half' is no float"),
    ],
)
def test_an_option_that_does_not_fit_is_refused_with_a_reason(name, options, message):
    with pytest.raises(ValueError, match=message):
        load_policy(name, options)
