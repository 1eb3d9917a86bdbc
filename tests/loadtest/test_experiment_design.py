"""An experiment's file: what it may say, what it means, and what is refused with a reason."""

import pytest

from loadtest.experiment.definition_file import (
    experiment_document,
    parse_experiment,
    quick_experiment,
    read_experiment,
    with_flags,
)
from loadtest.experiment.design import System
from loadtest.workloads import make_arrivals, scaled
from policies.types import Profile
from superserve.config import DEFAULTS
from superserve.errors import ConfigError

PROFILE = Profile.from_table([("small", 80.0, {1: 0.001, 10: 0.005}),
                              ("large", 90.0, {1: 0.01, 10: 0.05})])  # fmt: skip
POISSON = {"kind": "poisson", "rate": 1.5, "seconds": 2}
DOCUMENT = {
    "name": "e",
    "policies": [{"name": "dualfit"}, {"name": "slackfit", "worker": "extracted"}],
    "workloads": [POISSON],
    "seeds": 2,
}
EMULATED = {"devices": ["emulated:3", "emulated"], "profile": "paper"}


def parsed(**changed):
    return parse_experiment({**DOCUMENT, **changed})


def test_the_document_of_an_experiment_is_the_experiment_again():
    first = parsed(
        rates_of="largest",
        server={"threads": 2, "profile_seconds": 5},
        load={"processes": 2, "timeout_ms": 900, "pixels": True},
        peers=[{"name": "litserve", "options": {"max_batch": 4}}],
    )

    assert parse_experiment(experiment_document(first)) == first


def test_policies_are_served_as_the_server_would_unless_the_file_says_otherwise():
    first, second = parsed(reserve=0.1).study.policies

    assert first.serving.reserve == second.serving.reserve == 0.1
    assert parsed().study.policies[0].serving.reserve == DEFAULTS.reserve
    assert parsed().study.policies[0].serving.margin == DEFAULTS.margin_ms / 1e3


def test_a_policy_may_have_workers_that_load_models():
    experiment = parsed()

    assert experiment.system("slackfit") == System("extracted", 1)
    assert experiment.worker_kinds == ("resident", "extracted")


def test_the_workers_of_the_study_are_those_of_the_server():
    experiment = parsed(server=EMULATED, policies=["dualfit"])

    assert experiment.server.workers == 4
    assert [setting.workers for setting in experiment.study.settings()] == [4]


def test_rates_are_multiples_of_what_the_largest_subnet_serves():
    found = parsed(rates_of="largest").at_rates_of(PROFILE).study.workloads[0]

    assert found.spec["rate"] == pytest.approx(1.5 * 10 / 0.05)
    assert found.label == "Poisson 300 q/s"


def test_a_label_of_ones_own_stays():
    own = parsed(rates_of="smallest", workloads=[{**POISSON, "label": "mine"}])

    assert own.at_rates_of(PROFILE).study.workloads[0].label == "mine"


def test_policies_take_turns_within_a_seed():
    cells = [(cell.seed, cell.policy) for cell in parsed().cells()]

    assert cells == [(0, "dualfit"), (0, "slackfit"), (1, "dualfit"), (1, "slackfit")]


def test_peers_take_part_in_the_contest_but_not_in_the_simulated_study():
    experiment = parsed(peers=[{"name": "ray", "label": "Ray"}])

    assert [p.label for p in experiment.contest.policies] == ["dualfit", "slackfit", "Ray"]
    assert len(experiment.study.policies) == 2
    assert experiment.peer("Ray").subnet == "largest"


def test_flags_replace_policies_and_keep_how_they_are_served():
    changed = with_flags(parsed(reserve=0.2), policies="maxacc", seeds=1, slo_ms=70)

    assert [(p.name, p.serving.reserve) for p in changed.study.policies] == [("maxacc", 0.2)]
    assert (changed.study.seeds, changed.study.workloads[0].slo) == ((0,), 0.07)
    assert changed.worker_kinds == ("resident",)


def test_the_quick_experiment_that_ships_is_a_valid_one():
    assert {p.name for p in quick_experiment().study.policies} >= {"dualfit", "slackfit", "fixed"}


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"workers": 3}, r"are those of its \[server\]"),
        ({"rates_of": "middle"}, "rates_of must be one of"),
        ({"server": {"port": 1}}, "server has no key port"),
        ({"server": {"threads": "many"}}, "threads"),
        ({"server": {"slowdown": 2}}, "slowdown is for emulated workers"),
        ({"server": {"slowdown": 0}}, "slowdown of server must be a number above 0"),
        ({"server": {"devices": ["emulated:none"]}}, "devices of server must be a list"),
        ({"server": {"profile": "missing.json"}}, "profile of server must be"),
        ({"server": EMULATED}, "emulated workers have no models"),
        ({"peers": [{"name": "triton"}]}, "name of peers must be one of litserve, ray"),
        ({"peers": [{"name": "ray", "label": "dualfit"}]}, "labels of their own: dualfit"),
        ({"policies": [{"name": "dualfit", "worker": "own"}]}, "worker of policy dualfit must be"),
        ({"load": {"users": 3}}, "load has no key users"),
        ({"slo_ms": [[10, 0.5], [20, 0.5]]}, "a live run has one slo_ms"),
        ({"workloads": [{**POISSON, "noise": 0.1}]}, "are for simulations"),
        ({"workloads": [{**POISSON, "failures": {"every": 1}}]}, "are for simulations"),
    ],
)
def test_what_cannot_be_run_live_is_refused(changed, complaint):
    with pytest.raises(ConfigError, match=complaint):
        parsed(**changed)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read the experiment .*none.toml"):
        read_experiment(tmp_path / "none.toml")


@pytest.mark.parametrize(
    "spec",
    [
        {"kind": "constant", "rate": 1.0, "seconds": 2},
        {"kind": "gamma", "rate": 1.0, "cv2": 2, "seconds": 2},
        {"kind": "phases", "steps": [[1, 0.5], [1, 2.0]]},
        {"kind": "bursty", "base": 0.5, "variant": 1.0, "cv2": 2, "seconds": 2},
        {"kind": "time_varying", "rate1": 0.5, "rate2": 2.0, "tau": 1.0, "seconds": 2},
        {"kind": "diurnal", "mean_rate": 1.0, "seconds": 2},
        {"kind": "mmpp", "rate_on": 2.0, "rate_off": 0.5, "on_seconds": 1, "off_seconds": 1,
         "seconds": 4},
        {"kind": "maf_like", "mean_rate": 1.0, "seconds": 2},
    ],
    ids=lambda spec: spec["kind"],
)  # fmt: skip
def test_twice_the_rates_make_about_twice_the_queries(spec):
    one, two = (len(make_arrivals(scaled(spec, unit), 3)) for unit in (2000.0, 4000.0))

    assert two == pytest.approx(2 * one, rel=0.1)


def test_a_rate_that_is_left_out_cannot_be_a_multiple():
    with pytest.raises(ValueError, match="needs base as multiples"):
        scaled({"kind": "bursty", "variant": 1.0, "cv2": 2, "seconds": 2}, 100.0)
