"""The parts of a Locust run that need no Locust: options, shards, the master's book, verdict."""

import numpy as np
import pytest

from loadtest.client import Payload
from loadtest.connections import Target
from loadtest.locusts.closed_users import users_by_step
from loadtest.locusts.coordinator import DONE_PATIENCE, LEAD, READY_PATIENCE, Coordinator
from loadtest.locusts.images import blank_image, class_indices, read_images, write_images
from loadtest.locusts.messages import GO, SHARD, Batch, Shard, cut, merge
from loadtest.locusts.options import read_options
from loadtest.locusts.outcome import INTERRUPTED, INVALID, VALID, Outcome, complaints_about
from loadtest.locusts.tally import Tally
from loadtest.records import Header, Record
from loadtest.report import summarise, timeline
from superserve.errors import ConfigError

DIGITS = tuple("0123456789")


def whole(count: int = 10, run: int = 1) -> Shard:
    return Shard(
        run, 0, 1, np.arange(count) / 10, [Payload(b"a", 1), Payload(b"b", None)],
        Target("host", 80, "/v1/classify"), slo=0.1, timeout=1.0, connections=8,
    )  # fmt: skip


def record(arrival: float, *, late: bool = False, lateness: float = 0.0, **more) -> Record:
    finish = arrival + (0.2 if late else 0.05)
    return Record(arrival, arrival + 0.1, finish, lateness=lateness, **more)


# Options


def test_what_the_web_ui_sends_as_text_is_read_as_numbers():
    options = read_options({"workload": "gamma", "rate": "250", "cv2": "4", "seconds": "12.5"})

    assert options.workload == {"kind": "gamma", "rate": 250.0, "cv2": 4.0, "seconds": 12.5}


def test_the_rate_is_the_mean_rate_where_a_workload_calls_it_so():
    assert read_options({"workload": "diurnal", "rate": 50}).workload["mean_rate"] == 50


def test_a_workload_gets_a_rate_and_a_length_only_where_it_needs_them():
    assert read_options({}).workload == {"kind": "poisson", "rate": 100.0, "seconds": 30.0}
    assert read_options({"workload": "maf_like"}).workload == {"kind": "maf_like"}


def test_other_keys_of_a_workload_come_as_pairs_or_as_json():
    pairs = {"workload": "bursty", "workload_options": "base=10, variant=40,cv2=2"}
    json = {"workload": "phases", "workload_options": '{"steps": [[1, 10], [2, 50]]}'}

    assert read_options(pairs).workload["variant"] == 40
    assert read_options(json).workload["steps"] == [[1, 10], [2, 50]]


def test_a_trace_is_a_file_or_a_name(tmp_path):
    file = tmp_path / "counts.csv"
    file.touch()

    assert read_options({"workload": "trace", "trace": str(file)}).workload["path"] == str(file)
    assert read_options({"workload": "trace", "trace": "wc98"}).workload["name"] == "wc98"


def test_a_query_is_given_up_after_five_slos_but_not_before_a_second():
    assert read_options({"slo_ms": 36}).timeout == 1.0
    assert read_options({"slo_ms": 400}).timeout == 2.0


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"slo_ms": 0}, "--slo-ms"),
        ({"slo_ms": "soon"}, "--slo-ms"),
        ({"slo_ms": 100, "timeout_ms": 50}, "--timeout-ms"),
        ({"workload": "steady"}, "--workload"),
        ({"workload": "bursty", "rate": 5}, "takes no rate"),
        ({"workload_options": "base"}, "--workload-options"),
        ({"workload_options": "{"}, "--workload-options"),
        ({"trace": "wc98"}, "--workload trace"),
        ({"policy": "mine:Policy"}, "no policy"),
        ({"connections": 0}, "--connections"),
        ({"seed": -1}, "--seed"),
    ],
)
def test_what_does_not_fit_is_named(values, named):
    with pytest.raises(ConfigError, match=named):
        read_options(values)


# Shards and batches


def test_shards_are_disjoint_and_together_the_whole():
    shards = cut(whole(10), 3)

    assert sorted(np.concatenate([s.arrivals for s in shards])) == list(whole(10).arrivals)
    assert [s.payload(0) for s in shards] == [0, 1, 0]
    assert shards[1].payload(1) == 4 % 2


def test_a_shard_survives_its_message():
    shard = cut(whole(), 2)[1]
    again = Shard.from_message(shard.to_message())

    assert list(again.arrivals) == list(shard.arrivals)
    assert again.to_message() == shard.to_message()


def test_a_batch_survives_its_message():
    batch = Batch(3, (record(0.1, subnet="s", correct=True), record(0.2)), True, 2, 7)

    assert Batch.from_message(batch.to_message()) == batch


def test_records_of_all_workers_are_merged_in_order_of_arrival():
    first, second = [record(0.0), record(0.2)], [record(0.1), record(0.3)]

    assert merge([first, second]) == (first[0], second[0], first[1], second[1])


# The coordinator


class Book:
    """A coordinator with workers a and b, and what it sent and heard."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str]] = []
        self.heard: list[Record] = []
        shards = dict(zip("ab", cut(whole(4), 2), strict=True))
        self.it = Coordinator(
            shards, lambda what, _, worker: self.sent.append((what, worker)), self.heard.append
        )
        self.it.deal(0.0)

    def batch(self, *arrivals: float, done: bool = True, run: int = 1) -> Batch:
        return Batch(run, tuple(record(a) for a in arrivals), done, 0, 5)


def test_every_worker_gets_its_shard_and_the_go_when_all_are_ready():
    book = Book()
    assert book.sent == [(SHARD, "a"), (SHARD, "b")]

    book.it.ready("a", 1, 1.0)
    assert len(book.sent) == 2

    book.it.ready("b", 1, 1.0)
    assert book.sent[2:] == [(GO, "a"), (GO, "b")]


def test_a_run_ends_with_the_last_worker_and_has_every_record_in_order():
    book = Book()
    book.it.take("b", book.batch(0.1, 0.3))
    assert not book.it.finished

    book.it.take("a", book.batch(0.0, done=False))
    book.it.take("a", book.batch(0.2))
    assert book.it.finished
    assert [r.arrival for r in book.it.records] == [0.0, 0.1, 0.2, 0.3]
    assert (book.it.missing, book.it.losses, len(book.heard)) == (0, (), 4)


def test_messages_of_a_stopped_run_count_nothing():
    book = Book()
    book.it.ready("a", 0, 1.0)
    book.it.ready("b", 0, 1.0)
    book.it.take("a", book.batch(0.0, 0.2, run=0))

    assert not book.it.begun
    assert book.it.records == ()


def test_a_lost_worker_ends_the_run_and_its_queries_are_missed():
    book = Book()
    book.it.ready("a", 1, 1.0)
    book.it.ready("b", 1, 1.0)
    book.it.take("a", book.batch(0.0, 0.2))
    book.it.look(2.0, {"a"})

    assert book.it.finished
    assert book.it.missing == 2
    assert book.it.losses == ("worker b was lost",)


def test_the_others_begin_without_a_worker_that_is_never_ready():
    book = Book()
    book.it.ready("a", 1, 1.0)
    book.it.look(READY_PATIENCE + 0.1, {"a", "b"})

    assert book.it.losses == ("worker b was not ready in time",)
    assert book.sent[2:] == [(GO, "a")]


def test_a_worker_that_hangs_is_given_up():
    book = Book()
    book.it.ready("a", 1, 1.0)
    book.it.ready("b", 1, 1.0)
    end = 1.0 + LEAD + 0.3 + 1.0 + DONE_PATIENCE
    book.it.look(end - 0.1, {"a", "b"})
    assert not book.it.finished

    book.it.look(end + 0.1, {"a", "b"})
    assert book.it.finished
    assert book.it.losses == ("worker a did not finish", "worker b did not finish")


# The verdict


def test_a_late_sender_makes_a_run_invalid_just_above_five_percent_of_the_slo():
    on_time = tuple(record(i / 100, lateness=0.005) for i in range(100))
    late = tuple(record(i / 100, lateness=0.0051) for i in range(100))

    assert complaints_about(on_time, 0.1) == ()
    assert "sent late, by 5.1 ms" in complaints_about(late, 0.1)[0]


def test_a_run_without_all_its_records_is_invalid():
    assert "2 of 3 queries" in complaints_about((record(0.0),), 0.1, missing=2)[0]


@pytest.mark.parametrize(
    ("complaints", "interrupted", "code"),
    [((), False, VALID), (("late",), False, INVALID), (("interrupted",), True, INTERRUPTED)],
)
def test_the_exit_code_tells_the_verdict(complaints, interrupted, code):
    assert Outcome(Header(0), (), None, complaints, interrupted).exit_code == code


# The live numbers


def test_the_live_numbers_are_those_of_the_report():
    records = [
        record(0.1, subnet="s", accuracy=90.0, correct=True),
        record(0.7, subnet="l", accuracy=98.0, correct=False),
        record(2.5, subnet="l", accuracy=98.0, correct=True, late=True),
        Record(2.6, 2.7, None, dropped="timeout"),
    ]
    tally = Tally()
    for each in records:
        tally.add(each)
    report, windows = summarise(records), timeline(records, 1.0, 3.0)

    assert tally.whole.attainment == 100 * report.attainment
    assert tally.whole.profiled == report.mean_accuracy
    assert tally.whole.measured == report.correctness
    assert tally.whole.subnets == report.subnets
    for live, window in zip(tally.timeline(), windows, strict=True):
        assert live["rate"] == window.rate
        assert live["profiled"] == window.mean_accuracy
        assert live["subnets"] == window.subnets
        assert live["attainment"] == (window.attainment and 100 * window.attainment)


def test_the_error_of_the_measured_accuracy_is_the_binomial_one():
    tally = Tally()
    for i in range(100):
        tally.add(record(0.0, subnet="s", accuracy=95.0, correct=i < 90))

    (row,) = tally.subnets()
    assert row["measured"] == "90.00 ± 3.00 % of 100, where 95.00 % is promised"


def test_a_run_without_records_has_tables_all_the_same():
    assert Tally().table(0.1, "ready")[0]["attainment"] == "-"
    assert Tally().timeline() == []


# Images


def test_images_come_back_with_their_labels(tmp_path):
    written = [(b"\x89PNG %d" % i, i % 10) for i in range(30)]
    write_images(tmp_path, written)
    found = read_images(tmp_path, DIGITS, 100)

    assert sorted((p.body, p.label) for p in found) == sorted(written)


def test_a_draw_of_images_is_repeated_by_its_seed(tmp_path):
    write_images(tmp_path, [(b"\xff\xd8 %d" % i, i % 10) for i in range(50)])

    assert read_images(tmp_path, DIGITS, 10, 3) == read_images(tmp_path, DIGITS, 10, 3)
    assert read_images(tmp_path, DIGITS, 10, 3) != read_images(tmp_path, DIGITS, 10, 4)


def test_images_beside_the_folders_have_no_label(tmp_path):
    (tmp_path / "one.png").write_bytes(b"image")

    assert read_images(tmp_path, DIGITS, 10) == (Payload(b"image", None),)


@pytest.mark.parametrize(
    ("classes", "labels", "found"),
    [
        (["dog", "cat"], ("cat", "dog", "owl"), {"cat": 0, "dog": 1}),
        (["1", "2"], ("cat", "dog", "owl"), {"1": 1, "2": 2}),
        (["n01", "n02"], ("cat", "dog"), {"n01": 0, "n02": 1}),
    ],
    ids=["by name", "by number", "by position"],
)
def test_folders_are_matched_to_labels(classes, labels, found):
    assert class_indices(classes, labels) == found


def test_folders_that_match_no_label_are_named():
    with pytest.raises(ConfigError, match="cow"):
        class_indices(["cow"], ("cat", "dog"))


def test_a_folder_without_images_is_named(tmp_path):
    with pytest.raises(ConfigError, match="holds no"):
        read_images(tmp_path, DIGITS, 10)


def test_the_blank_image_has_the_size_of_the_model():
    from io import BytesIO

    from PIL import Image

    with Image.open(BytesIO(blank_image(24, 32).body)) as image:
        assert image.size == (32, 24)


# Closed-loop users


def test_closed_loop_users_follow_the_rate_of_each_second():
    arrivals = np.array([*np.arange(0.0, 1.0, 0.05), 1.5, *np.arange(3.0, 4.0, 0.1)])

    assert users_by_step(arrivals, 10.0) == (2, 1, 0, 1)


def test_no_arrivals_need_no_users():
    assert users_by_step(np.empty(0), 1.0) == ()
