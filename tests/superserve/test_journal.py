"""The journal says what was decided and when, and survives being cut off."""

import pytest

import superserve
from loadtest.experiment.profiles import paper_latencies
from supernets.data.digits_data import sample_images
from superserve.errors import ConfigError
from superserve.journal import Journal, ServedBatch, Unserved, read_journal
from superserve.messages import BatchResult, Complete, Dispatch, Drop, DropReason, Query, Wake

FIRST, SECOND = Query(1, 10.0, 10.1, "m"), Query(2, 10.01, 10.11, "m")
BATCH = Dispatch(7, "w0", "m", "small", 90.0, (FIRST, SECOND), 10.02, 10.05)
LOST = Dispatch(8, "w1", "m", "large", 95.0, (SECOND,), 10.03, 10.07)
SERVED = ServedBatch(
    10.02, 10.06, "w0", "m", "small", 90.0, (10.02, 10.05), (10.0, 10.01), (10.1, 10.11), 0.03, 0.01
)


def written(path, *notes):
    with Journal(path) as journal:
        for note in notes:
            journal.note(*note)
    return path


def test_a_batch_is_read_as_it_was_decided_and_finished(tmp_path):
    path = written(
        tmp_path / "journal",
        (10.02, [BATCH, Wake(11.0)], None),
        (10.06, [Complete(BATCH, 10.06)], BatchResult(7, ((), ()), 0.03, 0.01)),
    )

    assert read_journal(path).batches == (SERVED,)


def test_a_batch_that_never_came_back_has_no_finish(tmp_path):
    path = written(tmp_path / "journal", (10.03, [LOST], None))

    (batch,) = read_journal(path).batches
    assert (batch.worker, batch.finish, batch.size) == ("w1", None, 1)


def test_a_dropped_query_is_read_with_its_reason(tmp_path):
    drop = Drop(FIRST, DropReason.EXPIRED, 10.2)
    path = written(tmp_path / "journal", (10.2, [drop], None))

    assert read_journal(path).unserved == (Unserved(10.2, 10.0, 10.1, "expired"),)


def test_a_last_line_that_is_cut_off_is_left_out(tmp_path):
    path = written(tmp_path / "journal", (10.02, [BATCH], None), (10.03, [LOST], None))
    path.write_bytes(path.read_bytes()[:-20])

    assert [batch.worker for batch in read_journal(path).batches] == ["w0"]


@pytest.mark.parametrize("content", [b"", b"{}\n", b"[1]\n", b"no json\n"])
def test_a_file_that_is_none_is_refused(tmp_path, content):
    path = tmp_path / "other"
    path.write_bytes(content)

    with pytest.raises(ConfigError, match="journal"):
        read_journal(path)


def test_a_place_that_cannot_be_written_is_refused_before_anything_starts(tmp_path):
    with pytest.raises(ConfigError, match="cannot write the journal"):
        superserve.serve(journal=str(tmp_path / "none" / "journal"))


def test_a_server_writes_every_query_of_its_life(tmp_path):
    profile = tmp_path / "profile.json"
    paper_latencies("digits").write(profile)
    path = tmp_path / "journal"
    with (
        superserve.serve(
            devices="emulated:2", latency_profile=str(profile), journal=str(path), slo_ms=5000
        ) as server,
        server.client() as client,
    ):
        answers = [client.classify(image) for image, _ in sample_images(5)]

    batches = read_journal(path).batches
    assert sum(batch.size for batch in batches) == 5
    assert [b.subnet for b in batches for _ in b.arrivals] == [a.subnet for a in answers]
    assert all(b.finish >= b.decided >= b.arrivals[0] for b in batches)
