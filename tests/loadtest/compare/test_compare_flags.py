"""What is typed on a command line replaces its part of the study, and no other."""

import pytest

from loadtest.compare.flags import with_flags
from superserve.errors import ConfigError
from tests.loadtest.compare.small_study import small_study


def test_nothing_typed_changes_nothing():
    assert with_flags(small_study()) == small_study()


def test_policies_take_options_and_classes_of_ones_own():
    found = with_flags(small_study(), policies="slackfit:reading=s42:buckets=4,my.mod:Mine:a=1")

    assert [(p.name, dict(p.options)) for p in found.policies] == [
        ("slackfit", {"reading": "s42", "buckets": "4"}),
        ("my.mod:Mine", {"a": "1"}),
    ]


def test_workloads_seeds_workers_and_slo_are_replaced():
    found = with_flags(
        small_study(),
        workloads=("bursty,variant=100,cv2=2.5,seconds=3", "constant,rate=9,seconds=1"),
        seeds=3,
        workers="4,8",
        slo_ms=18,
        bounds=False,
    )

    assert [dict(w.spec) for w in found.workloads] == [
        {"kind": "bursty", "variant": 100, "cv2": 2.5, "seconds": 3},
        {"kind": "constant", "rate": 9, "seconds": 1},
    ]
    assert {w.slo for w in found.workloads} == {0.018}
    assert (found.seeds, found.workers, found.bounds) == ((0, 1, 2), (4, 8), False)
    assert found.policies == small_study().policies


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"policies": "slackfit,,fixed"}, "no name in ''"),
        ({"policies": "reading=s42"}, "no name in 'reading=s42'"),
        ({"workloads": ("poisson,rate",)}, "must be kind,key=value,key=value"),
        ({"workloads": ("poisson,rate=1,second=1",)}, "does not know second"),
        ({"workers": "4,none"}, "--workers must be whole numbers"),
        ({"slo_ms": -1.0}, "--slo-ms must be positive"),
    ],
)
def test_what_does_not_fit_is_one_error(flags, message):
    with pytest.raises(ConfigError, match=message):
        with_flags(small_study(), **flags)
