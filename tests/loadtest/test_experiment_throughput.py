"""The search for the highest rate that is sustained, on made-up servers."""

import pytest

from loadtest.experiment.throughput import STEPS, Probe, Sustained, chosen, highest, rates_text
from policies.types import Profile


@pytest.mark.parametrize("capacity", [100.0, 333.0, 950.0])
def test_the_capacity_is_found_to_within_a_step(capacity):
    found, limited = highest(lambda rate: Probe(rate <= capacity, True), 0.0, 1000.0)

    assert found <= capacity <= found + 1000.0 / 2**STEPS
    assert not limited


def test_where_all_is_met_no_more_than_the_first_rate_is_claimed():
    tried = []
    found, _ = highest(lambda rate: Probe(not tried.append(rate), True), 0.0, 1000.0)

    assert (found, tried) == (1000.0, [1000.0])


def test_a_rate_that_could_not_be_sent_does_not_count_as_sustained():
    found, limited = highest(lambda rate: Probe(rate < 900, rate < 400), 0.0, 1000.0)

    assert found < 400
    assert limited


def test_the_subnets_are_the_smallest_the_median_and_the_largest():
    rows = [(f"s{i}", 70.0 + i, {1: 0.001 * (i + 1)}) for i in range(5)]

    assert chosen(Profile.from_table(rows)) == ("s0", "s2", "s4")
    assert chosen(Profile.from_table(rows[:1])) == ("s0",)


def test_the_range_is_told_from_the_slowest_to_the_quickest():
    found = [Sustained("a", 70.0, 800.0, 900.0, False), Sustained("b", 80.0, 200.0, 210.0, True)]

    assert rates_text(found) == "200 to 800 queries/s"
