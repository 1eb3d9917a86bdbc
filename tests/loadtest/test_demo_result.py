"""The verdict on a run, and the two forms in which its numbers leave."""

import io

import orjson
import pytest
from rich.console import Console

from loadtest.client import Load
from loadtest.demo_plan import make_plan
from loadtest.demo_result import RunResult, Served, complaints, document, draw, result_table
from loadtest.records import Header, Record
from policies.types import Profile

PROFILE = Profile.from_table([("small", 90.0, {4: 0.004}), ("large", 98.0, {4: 0.040})])
PLAN = make_plan(PROFILE, seconds=10.0, slo=0.1)
SERVED = Served("digits", 2, "emulated", PROFILE)


def record(arrival: float, subnet: str = "large", lateness: float = 0.0) -> Record:
    return Record(arrival, arrival + 0.1, arrival + 0.05, subnet, 98.0, lateness=lateness)


def result(*records: Record, interrupted: bool = False, connections: int = 3) -> RunResult:
    load = Load(records or (record(0.5), record(9.5)), connections, 512, 0)
    found = RunResult.of("slackfit", "slackfit", load, PLAN, interrupted=interrupted)
    assert found is not None
    return found


def shown(*results: RunResult) -> str:
    console = Console(file=io.StringIO(), width=80)
    with console.capture() as capture:
        console.print(result_table(results, PLAN))
    return capture.get()


@pytest.mark.parametrize(("lateness", "valid"), [(0.005, True), (0.0051, False)])
def test_a_run_is_invalid_if_its_sender_was_late_by_more_than_5_percent_of_the_slo(lateness, valid):
    found = result(record(0.5, lateness=lateness))
    assert found.valid is valid
    assert bool(complaints([found], PLAN)) is not valid
    assert ("INVALID" in shown(found)) is not valid


def test_the_subnet_at_the_end_is_the_most_used_of_the_last_second():
    records = [record(1.0, "small")] * 5 + [record(9.2, "large")] * 2 + [record(9.3, "small")]
    assert result(*records).last_subnet == "large"


def test_an_interrupted_run_is_cut_at_its_last_query_and_marked():
    found = result(record(0.5), record(2.0), interrupted=True)
    assert not found.complete
    assert found.seconds == pytest.approx(2.0, abs=1e-3)
    assert found.windows[-1].queries == 1
    assert "interrupted at 2 s" in shown(found)


def test_a_run_without_any_answer_has_no_result():
    assert RunResult.of("n", "p", Load((), 1, 512, 3), PLAN, interrupted=True) is None


def test_running_out_of_connections_is_told():
    assert "512 connections" in complaints([result(connections=512)], PLAN)[0]


def test_the_document_is_json_and_says_whether_it_counts():
    good, cut = result(), result(interrupted=True)
    header = Header(3, {"seconds": 10.0})
    found = orjson.loads(orjson.dumps(document([good], PLAN, SERVED, header)))
    assert found["valid"]
    assert (found["header"]["seed"], found["device_type"]) == (3, "emulated")
    assert found["runs"][0]["report"]["attainment"] == 1.0
    assert found["profile"][0] == {"subnet": "small", "accuracy": 90.0, "latencies": {"4": 0.004}}
    assert not document([good, cut], PLAN, SERVED, header)["valid"]


def test_the_table_fits_a_narrow_terminal():
    assert max(len(line) for line in shown(result(), result()).splitlines()) <= 80


def test_the_picture_is_drawn(tmp_path):
    draw(tmp_path / "demo.png", [result(), result(interrupted=True)], PLAN, SERVED)
    assert (tmp_path / "demo.png").stat().st_size > 0
