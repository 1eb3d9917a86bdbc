"""The arithmetic of the simulated tables: who is cheaper, what is a gain, what is beyond noise."""

import json

from benchmarks.paper_tables import headline
from benchmarks.policies_extra import Point, contests
from benchmarks.policies_table import surely_negative
from benchmarks.study_runs import forget
from loadtest.compare.results import Interval


def point(policy, attainment, accuracy, cost, cap=1):
    return Point(policy, "load", 1, cap, attainment, accuracy, cost)


def row(policy, attainment, accuracy):
    return {
        "policy": policy,
        "attainment": {"mean": attainment},
        "accuracy": {"mean": accuracy},
    }


def shares(points):
    (found,) = contests(points, "ours")
    return found


class TestContests:
    def test_each_constraint_is_met_at_the_least_cost_of_any_cap(self):
        # Constraints 74, 74.25 ... 75: both meet these five; ours at 1.0, theirs at 2.0.
        points = [point("ours", 1.0, 75.0, 1.0), point("theirs", 1.0, 75.0, 2.0),
                  point("theirs", 1.0, 75.0, 3.0, cap=2)]  # fmt: skip
        found = shares(points)
        assert found["cases"] == 5
        assert found["cheaper"] == 100.0
        assert found["mean saving"] == 50.0

    def test_a_policy_that_misses_the_slo_meets_no_constraint(self):
        found = shares([point("ours", 0.999, 75.0, 1.0), point("theirs", 0.998, 75.0, 0.5)])
        assert found["only ours"] == 100.0

    def test_what_neither_reaches_is_no_case(self):
        assert (
            shares([point("ours", 1.0, 74.0, 1.0), point("theirs", 1.0, 74.2, 1.0)])["cases"] == 1
        )

    def test_a_constraint_that_only_the_other_one_reaches_counts_against_ours(self):
        # 74 for both at one cost, 74.25 and 74.5 only for them.
        found = shares([point("ours", 1.0, 74.1, 1.0), point("theirs", 1.0, 74.5, 1.001)])
        assert (found["same"], found["only theirs"]) == (33.3, 66.7)

    def test_dearer_is_shown(self):
        assert (
            shares([point("ours", 1.0, 74.0, 2.0), point("theirs", 1.0, 74.0, 1.0)])["dearer"]
            == 100
        )


class TestHeadline:
    def test_accuracy_is_gained_over_the_most_accurate_that_is_as_timely(self):
        rows = [row("SlackFit", 100.0, 78.5), row("INFaaS", 100.0, 73.8),
                row("Clipper+ 76.69", 100.0, 76.7), row("Clipper+ 79.44", 40.0, 79.4)]  # fmt: skip
        gain = headline(rows)[1]
        assert (gain["accuracy gain, points"], gain["over"]) == (1.8, "Clipper+ 76.69")

    def test_attainment_is_gained_over_the_most_timely_that_is_as_accurate(self):
        rows = [row("SlackFit", 100.0, 78.5), row("Clipper+ 80.16", 20.0, 80.2),
                row("Clipper+ 79.44", 40.0, 79.4)]  # fmt: skip
        gain = headline(rows)[1]
        assert (gain["attainment gain, ×"], gain["over that of"]) == (2.5, "Clipper+ 79.44")

    def test_there_is_no_gain_over_nobody(self):
        gain = headline([row("SlackFit", 99.0, 78.5), row("INFaaS", 98.0, 73.8)])[0]
        assert gain["accuracy gain, points"] is None
        assert gain["attainment gain, ×"] is None


class TestSurelyNegative:
    def test_a_difference_within_its_interval_is_noise(self):
        assert not surely_negative(Interval(-1.0, 1.5, -2.0, 0.5, 5))

    def test_a_difference_beyond_its_interval_is_not(self):
        assert surely_negative(Interval(-1.0, 0.5, -2.0, 0.5, 5))

    def test_of_a_single_seed_the_sign_decides(self):
        assert surely_negative(Interval.of([-0.1]))
        assert not surely_negative(Interval.of([0.0]))


def test_cells_of_a_policy_and_its_variants_are_forgotten_and_no_others(tmp_path):
    file = tmp_path / "cells.jsonl"
    documents = [{"format": "x"}, *({"cell": {"policy": p}} for p in ("A", "A, b=0", "AB", None))]
    file.write_text("".join(json.dumps(each) + "\n" for each in documents))
    forget(file, ["A"])
    kept = [json.loads(line) for line in file.read_text().splitlines()]
    assert kept == [documents[0], documents[3], documents[4]]
