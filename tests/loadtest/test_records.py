"""Records survive the file, and a damaged file is named."""

import numpy as np
import pytest

from loadtest.records import Header, Record, read_records, write_records

RECORDS = [
    Record(0.1, 0.2, 0.15000000000000002, "s1", 97.5, lateness=1e-4, correct=True, status=200,
           server_met=True),
    Record(0.3, 0.4, None, dropped="expired", status=504),
]  # fmt: skip


def test_file_gives_back_what_was_written(tmp_path):
    header = Header(7, {"slo": 0.1, "policy": "slackfit"}, {"numpy": "1"})
    write_records(tmp_path / "run.jsonl", header, RECORDS)
    assert read_records(tmp_path / "run.jsonl") == (header, RECORDS)


def test_a_header_names_the_versions_it_was_made_with():
    assert Header.of(3, {}).versions["numpy"] == np.__version__


def test_met_means_a_result_at_or_before_the_deadline():
    assert Record(0.0, 1.0, 1.0).met
    assert not Record(0.0, 1.0, 1.0001).met
    assert not Record(0.0, 1.0, None, dropped="shed").met


def test_latency_counts_from_the_intended_arrival():
    assert Record(1.0, 3.0, 2.5, lateness=0.5).latency == 1.5
    assert Record(1.0, 3.0, None, dropped="shed").latency is None


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda lines: [lines[0], lines[1][:-5], lines[2]], "line 2"),
        (lambda lines: [lines[0], lines[1], '{"arrival": 1.0}'], "line 3"),
        (lambda lines: lines[1:], "line 1"),
        (lambda _: [], "line 1"),
        (lambda lines: [lines[0].replace('"format":1', '"format":99'), *lines[1:]], "format 1"),
    ],
    ids=["cut short", "keys missing", "no header", "empty", "other format"],
)
def test_a_damaged_file_is_refused_with_the_place(tmp_path, damage, line):
    path = tmp_path / "run.jsonl"
    write_records(path, Header(0), RECORDS)
    path.write_text("\n".join(damage(path.read_text().splitlines())))
    with pytest.raises(ValueError, match=line):
        read_records(path)
