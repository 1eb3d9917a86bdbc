"""What a learning run teaches: made-up servers whose law is known are recognised by it."""

import numpy as np
import pytest

from loadtest.experiment.service import ServiceModel, learn
from loadtest.records import Record
from policies.types import Profile
from superserve.journal import JournalEntries, ServedBatch

BASE = Profile.from_table([("small", 80.0, {1: 0.001, 2: 0.0015, 4: 0.0025}),
                           ("large", 90.0, {1: 0.01, 2: 0.015, 4: 0.025})])  # fmt: skip
FIXED, FACTOR, WAY = 0.002, 1.3, 0.004  # seconds, times, seconds


def run_of(noise, loading=0.0, seed=0):
    """Batches of all kinds on a server with that law, and what clients saw of them."""
    rng = np.random.default_rng(seed)
    batches, records, now = [], [], 0.0
    for _ in range(60):
        for subnet in BASE.subnets:
            for size in (1, 2, 4):
                took = (FIXED + FACTOR * BASE.latency(subnet, size)) * noise(rng)
                finish = now + 0.01 + took + loading
                batches.append(
                    ServedBatch(now + 0.01, finish, "w", "m", subnet, 80.0, (now, now),
                                (now,) * size, (now + 1,) * size, took, loading)
                )  # fmt: skip
                records += [Record(now, now + 1, finish + WAY, subnet, 80.0)] * size
                now = finish
    return JournalEntries(tuple(batches), ()), records


def test_a_law_without_noise_is_found_exactly():
    found = learn(BASE, [run_of(lambda _: 1.0)])

    assert (found.fixed, found.factor) == pytest.approx((FIXED, FACTOR))
    assert max(abs(d) for _, seen in found.scatter.strata for d in seen) < 1e-9
    assert found.overhead == pytest.approx(WAY)


def test_a_noisy_law_is_found_about_and_its_scatter_kept():
    found = learn(BASE, [run_of(lambda rng: rng.lognormal(0.0, 0.2))])

    for subnet, size in (("small", 1), ("large", 4)):
        modelled = found.true_profile(BASE).latency(subnet, size)
        assert modelled == pytest.approx(FIXED + FACTOR * BASE.latency(subnet, size), rel=0.1)
    usual, seen = found.scatter.strata[-1]
    assert np.std(seen) == pytest.approx(0.2 * usual, rel=0.25)


def test_loading_is_kept_apart_from_serving():
    found = learn(BASE, [run_of(lambda _: 1.0, loading=0.05)])

    assert (found.fixed, found.factor) == pytest.approx((FIXED, FACTOR))
    assert found.loading == pytest.approx({"small": 0.05, "large": 0.05})


def test_batches_that_never_came_back_teach_nothing():
    journal, records = run_of(lambda _: 1.0)
    lost = ServedBatch(0.0, None, "w", "m", "small", 80.0, (0.0, 9.0), (0.0,), (1.0,))
    more = JournalEntries((*journal.batches, lost), ())

    assert learn(BASE, [(more, records)]) == learn(BASE, [(journal, records)])


def test_nothing_served_is_an_error():
    with pytest.raises(ValueError, match="too few batches"):
        learn(BASE, [])


def test_a_model_is_read_as_it_was_written():
    found = learn(BASE, [run_of(lambda rng: rng.lognormal(0.0, 0.2))])

    assert ServiceModel.read(found.document()) == found


def test_two_runs_teach_what_their_batches_together_teach():
    one, two = run_of(lambda _: 1.0), run_of(lambda _: 1.2, seed=1)
    found = learn(BASE, [one, two])

    assert found.batches == len(one[0].batches) + len(two[0].batches)
    assert FACTOR < found.factor < 1.2 * FACTOR
