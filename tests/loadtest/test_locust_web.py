"""The open loop from Locust's web UI: its fields start a run, its tables and charts show it."""

import re
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import orjson
import pytest

from loadtest.locusts.images import write_images
from loadtest.locusts.run import LOCUSTFILE
from loadtest.records import read_records
from loadtest.server_process import running_server
from loadtest.workloads import WORKLOADS
from policies import POLICIES

SERVER = [sys.executable, str(Path(__file__).with_name("locust_server.py"))]
FIELDS = {  # what the browser sends, as text
    "user_count": "0", "spawn_rate": "0", "workload": "poisson", "rate": "50", "seconds": "1",
    "slo_ms": "4000", "policy": "maxacc", "seed": "1", "records": "/dev/null",
}  # fmt: skip


class Locust:
    def __init__(self, process: subprocess.Popen, url: str) -> None:
        self.process = process
        # It says that it starts its web server just before that listens.
        self.http = httpx.Client(base_url=url, transport=httpx.HTTPTransport(retries=8))
        self.said: list[str] = []

    def until(self, words: str) -> None:
        """Read what it says up to a line with these words."""
        for line in self.process.stdout:
            self.said.append(line)
            if words in line:
                return
        pytest.fail("".join(self.said))

    def stop(self) -> None:
        self.http.close()
        self.process.terminate()
        self.said.append(self.process.communicate()[0])

    def page(self) -> dict:
        """What the page was made from."""
        text = self.http.get("/").text
        return orjson.loads(re.search(r"window.templateArgs = (.*)", text).group(1))

    def get(self, path: str) -> dict:
        return self.http.get(path).raise_for_status().json()


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return tmp_path_factory.mktemp("web") / "records.jsonl"


@pytest.fixture(scope="module")
def locust(tmp_path_factory, records):
    """Locust with its web UI, after a run that was started there."""
    images = tmp_path_factory.mktemp("images")
    write_images(images, [(b"image %d" % digit, digit) for digit in range(10)])
    with running_server([], patience=60.0, command=SERVER) as server:
        arguments = ["--host", server, "--images", str(images), "--records", str(records)]
        locust = started(arguments)
        try:
            locust.http.post("/swarm", data=FIELDS).raise_for_status()
            locust.until("Shape test stopping")
            yield locust
        finally:
            locust.stop()


def started(arguments: list[str]) -> Locust:
    """On a port that was free a moment ago; another one where somebody took it since."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), *arguments]
        process = subprocess.Popen(
            [*command, "--web-host", "127.0.0.1", "--web-port", str(port)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        locust = Locust(process, f"http://127.0.0.1:{port}")
        locust.until("Starting web interface")
        try:
            locust.get("/stats/requests")
        except httpx.TransportError:
            locust.stop()
            if process.returncode in {0, -15}:  # it ran, and was not to be reached
                raise
        else:
            return locust


def test_the_fields_are_those_of_a_run(locust):
    options = locust.page()["extra_options"]

    assert options["workload"]["choices"] == list(WORKLOADS)
    assert set(options["policy"]["choices"]) >= set(POLICIES)
    assert {"rate", "seconds", "trace", "slo_ms", "cv2", "model"} <= set(options)


def test_nobody_names_files_in_the_web_ui(locust, records):
    """The request asked for another file than the command line did."""
    assert not {"records", "images"} & set(locust.page()["extra_options"])
    assert records.exists()


def test_the_run_is_the_one_that_was_asked_for(locust, records):
    header, found = read_records(records)

    assert header.config["workload"] == {"kind": "poisson", "rate": 50.0, "seconds": 1.0}
    assert (header.config["policy"], header.config["slo"]) == ("maxacc", 4.0)
    assert len(found) == header.config["queries"]


def test_a_tab_shows_attainment_and_both_accuracies(locust, records):
    assert [tab["key"] for tab in locust.page()["extended_tabs"]] == ["serving", "subnets"]
    stats = {
        table["key"]: table["data"] for table in locust.get("stats/requests")["extended_stats"]
    }
    (row,) = stats["serving"]

    assert row["name"] == "valid"
    assert row["attainment"] == "100.00 %"
    assert row["profiled"].startswith("9")
    assert "±" in row["measured"]
    assert {each["name"] for each in stats["subnets"]} == {"small", "large"}


def test_locusts_own_table_has_a_row_for_each_subnet(locust, records):
    _, found = read_records(records)
    rows = {row["name"]: row["num_requests"] for row in locust.get("stats/requests")["stats"]}

    assert rows["Aggregated"] == rows["/v1/classify"] == len(found)
    assert rows["small"] + rows["large"] == len(found)


def test_the_page_carries_our_charts_and_their_numbers(locust, records):
    _, found = read_records(records)
    timeline = locust.get("serving.json")["timeline"]

    assert './serving.js"' in locust.http.get("/").text
    script = locust.http.get("/serving.js")
    assert script.headers["content-type"].startswith("application/javascript")
    assert sum(second["rate"] for second in timeline) == len(found)


def test_a_wrong_field_refuses_the_run_and_says_why(locust):
    """Last in this file: the one that begins another run."""
    fields = {**FIELDS, "workload": "bursty"}
    locust.http.post("/swarm", data=fields).raise_for_status()
    locust.until("The run is refused: the workload bursty takes no rate")

    (row,) = locust.get("stats/requests")["extended_stats"][0]["data"]
    assert row["name"].startswith("REFUSED")
