"""What people write becomes the study that they mean, or one error that says what would fit."""

import json
import re

import pytest

from loadtest.compare import Failures, Serving, parse_study, quick_study, read_study
from loadtest.compare.study_file import document_of
from loadtest.simulation_noise import Empirical, Exponential, Lognormal
from superserve.errors import ConfigError

POISSON = {"kind": "poisson", "rate": 100, "seconds": 1}


def study(**keys):
    return {"policies": ["slackfit"], "workloads": [POISSON], **keys}


def policy(**keys):
    return study(policies=[{"name": "slackfit", **keys}])


def workload(**keys):
    return study(workloads=[POISSON | keys])


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (study(sloms=36), "the study has no key sloms; it has name, profile"),
        (policy(option={}), "policy slackfit has no key option; it has name, options, label"),
        (workload(slo=36), "does not know slo; its keys are rate, seconds, and label, tuned_on"),
        (study(failures={"evry": 1}), "failures of the study has no key evry; it has every, left"),
        (study(noise={"kind": "normal"}), "kind of noise of the study must be lognormal"),
        (study(noise={"kind": "empirical", "observed": [-1]}), "observed of noise"),
        (study(noise=-0.1), "noise of the study must be a table"),
        (study(seeds=0), "seeds of the study must be how many"),
        (study(seeds=[1, 1]), "seeds need labels of their own: 1 is twice"),
        (study(workers=0), "workers of the study must be a whole number from 1"),
        (study(slo_ms=0), "slo_ms of the study must be a number above 0"),
        (workload(slo_ms=-1), "slo_ms of workload poisson"),
        (study(slo_ms=[[36, 0.5], [18, 0.4]]), "shares that sum to 1"),
        (study(reserve=1.5), "reserve of the study must be a number from 0 to 1"),
        (policy(late="never"), "late of policy slackfit must be drop or serve, not 'never'"),
        (policy(loading_ms="slow"), "loading_ms of policy slackfit"),
        (policy(resident=0), "resident of policy slackfit must be 1 or more"),
        (policy(options={"buckets": [4]}), "buckets of options of policy slackfit"),
        (study(policies=[{"label": "mine"}]), "name of policy mine must be the name of a policy"),
        (study(policies=[]), "policies of the study must be one table or more"),
        (study(policies=["slackfit", "slackfit"]), "policies need labels of their own: slackfit"),
        (study(workloads=[POISSON, POISSON]), "workloads need labels of their own"),
        (study(workloads=[{"kind": "poison"}]), "no workload of kind 'poison'"),
        (workload(tuned_on="yes"), "tuned_on of workload poisson must be true or false"),
        (study(timelines=["best"]), "timelines names no policy of the study: best"),
        (study(failures={"events": [{"at": 1, "kill": "w0"}]}), "(or restart, or join)"),
    ],
)
def test_what_does_not_fit_is_named_with_what_would(document, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse_study(document)


def test_what_the_study_says_holds_where_a_part_says_nothing():
    found = parse_study({
        "slo_ms": 36,
        "noise": 0.1,
        "reserve": 0.2,
        "policies": ["slackfit", {"name": "fixed", "reserve": 0.0, "actuation_ms": 5}],
        "workloads": [POISSON, POISSON | {"label": "fast", "slo_ms": 18, "noise": 0}],
    })  # fmt: skip

    assert [p.serving for p in found.policies] == [Serving(reserve=0.2), Serving(actuation=0.005)]
    assert [w.slo for w in found.workloads] == [0.036, 0.018]
    assert [w.noise for w in found.workloads] == [Lognormal(0.1), None]


FULL = {
    "name": "full",
    "profile": "paper",
    "seeds": [3, 5],
    "workers": [4, 8],
    "bounds": False,
    "timelines": ["mine"],
    "policies": [
        {
            "name": "slackfit",
            "label": "mine",
            "options": {"reading": "s42", "queue_aware": True, "buckets": 7},
            "reserve": 0.25,
            "late": "serve",
            "actuation_ms": 0.3,
            "loading_ms": {"80.16": 50.1},
            "resident": 2,
            "margin_ms": 1.5,
        },
        "maxbatch",
    ],
    "workloads": [
        POISSON
        | {"slo_ms": [[18, 0.25], [36.7, 0.75]], "noise": {"kind": "exponential"}, "workers": 2},
        POISSON
        | {
            "label": "b",
            "tuned_on": True,
            "noise": {"kind": "empirical", "observed": [1, 2.5]},
            "failures": {"every": 12, "left": 4, "events": [{"at": 1, "restart": "w3"}]},
        },
    ],
}


def test_a_full_study_says_what_was_written():
    first, second = parse_study(FULL).workloads
    mine = parse_study(FULL).policy("mine")

    assert mine.options == {"reading": "s42", "queue_aware": "True", "buckets": "7"}
    assert mine.serving == Serving(0.25, "serve", 0.0003, {"80.16": 0.0501}, 2, 0.0015)
    assert (first.slo, first.noise) == (((0.018, 0.25), (0.0367, 0.75)), Exponential())
    assert first.workers == (2,)
    assert second.noise == Empirical((1.0, 2.5))
    assert second.failures == Failures(12.0, 4, ((1, "restart", "w3"),))


@pytest.mark.parametrize("made", [parse_study(FULL), quick_study()], ids=["full", "quick"])
def test_a_study_comes_back_from_its_document_through_json(made):
    assert parse_study(json.loads(json.dumps(document_of(made)))) == made


def test_a_file_is_read_and_named_after_itself(tmp_path):
    path = tmp_path / "bursts.toml"
    path.write_text(
        'policies = ["slackfit"]\n[[workloads]]\nkind = "poisson"\nrate = 9\nseconds = 1'
    )

    assert read_study(path).name == "bursts"


def test_files_are_looked_for_beside_the_study(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text('profile = "h200.json"\n' + 'policies = ["slackfit"]\nworkloads = [{kind = '
                    '"trace", path = "day.csv", label = "day"}]')  # fmt: skip
    with pytest.raises(ConfigError, match=f"there is no trace {tmp_path}/day.csv"):
        read_study(path)

    (tmp_path / "day.csv").write_text("count\n1\n")
    assert read_study(path).profile == str(tmp_path / "h200.json")


@pytest.mark.parametrize("text", ["policies = [", "\x00"])
def test_a_file_that_is_no_toml_is_one_error(tmp_path, text):
    path = tmp_path / "study.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="cannot read the study"):
        read_study(path)


def test_a_named_trace_without_a_folder_says_which_variable_to_set(monkeypatch):
    monkeypatch.delenv("SUPERSERVE_TRACES", raising=False)
    with pytest.raises(ConfigError, match="set SUPERSERVE_TRACES"):
        parse_study(study(workloads=[{"kind": "trace", "name": "wc98"}]))
