"""A live run in the form of a simulation says what its records say."""

import pytest

from loadtest.experiment.outcomes import LiveFacts, live_outcomes
from loadtest.records import Record
from loadtest.report import summarise
from superserve.journal import JournalEntries, ServedBatch, Unserved

RECORDS = (
    Record(0.5, 0.6, 0.55, "small", 80.0, lateness=0.001, correct=True, server_met=True),
    Record(0.6, 0.7, 0.75, "large", 90.0, lateness=0.002, correct=True, server_met=True),
    Record(0.7, 0.8, None, dropped="timeout", lateness=0.003),
    Record(0.8, 0.9, 0.85, "large", 90.0, lateness=0.004, correct=False, server_met=True),
)
CLOCK = 1000.0  # of the server at the client's zero
JOURNAL = JournalEntries(
    (
        ServedBatch(CLOCK + 0.51, CLOCK + 0.54, "w1", "m", "small", 80.0, (CLOCK + 0.51,) * 2,
                    (CLOCK + 0.5,), (CLOCK + 0.6,)),
        ServedBatch(CLOCK + 0.7, CLOCK + 0.84, "w0", "m", "large", 90.0, (CLOCK + 0.72,) * 2,
                    (CLOCK + 0.6, CLOCK + 0.8), (CLOCK + 0.7, CLOCK + 0.9), 0.1, 0.02),
    ),
    (Unserved(CLOCK + 0.8, CLOCK + 0.7, CLOCK + 0.8, "expired"),),
)  # fmt: skip


def test_shares_and_accuracies_are_those_of_the_records():
    outcomes, report = live_outcomes(RECORDS, JOURNAL), summarise(RECORDS)

    assert outcomes.attainment == report.attainment == 0.5
    assert outcomes.mean_accuracy == pytest.approx(report.mean_accuracy)
    assert outcomes.utility() == pytest.approx(report.utility)
    assert outcomes.records()[1] == Record(0.6, 0.7, 0.75, "large", 90.0)


def test_batches_are_the_servers_on_the_clients_clock():
    dispatches = live_outcomes(RECORDS, JOURNAL).dispatches

    assert dispatches.decided == pytest.approx([0.51, 0.7])
    assert dispatches.finish == pytest.approx([0.54, 0.84])
    assert dispatches.slack == pytest.approx([0.09, -0.02])
    assert dispatches.size.tolist() == [1, 2]
    assert [dispatches.workers[w] for w in dispatches.worker] == ["w1", "w0"]


def test_a_server_without_a_journal_has_no_batches():
    outcomes = live_outcomes(RECORDS, None)

    assert (outcomes.mean_batch, outcomes.attainment) == (None, 0.5)


def test_the_facts_count_what_was_right_and_what_was_promised():
    facts = LiveFacts.of(RECORDS, JOURNAL, images=2, attempts=1)

    assert (facts.judged, facts.measured) == (3, pytest.approx(100 * 2 / 3))
    assert facts.promised == pytest.approx((80 + 90 + 90) / 3)
    assert (facts.loads, facts.loading) == (1, 0.02)
    assert facts.lateness_p99 == 0.004


def test_images_that_come_again_make_the_measured_accuracy_no_surer():
    share = 2 / 3
    error = LiveFacts.of(RECORDS, JOURNAL, images=2, attempts=1).error

    assert error == pytest.approx(100 * (share * (1 - share) / 2) ** 0.5)
    assert LiveFacts.of(RECORDS, JOURNAL, images=1000, attempts=1).error < error
