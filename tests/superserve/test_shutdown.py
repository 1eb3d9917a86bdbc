"""How a server process leaves when a signal comes."""

import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.superserve.fakes import CLASSIFY, png
from tests.superserve.raw_http import read_response, request_head


def serve_process(drain_s):
    return subprocess.Popen(
        [sys.executable, "-m", "tests.superserve.serve_fake", str(drain_s)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_until_draining(http):
    """Each probe is an exchange with the server, which is the wait between them."""
    for _ in range(10_000):
        response = http.get("/health/ready")
        if response.status_code == 503:
            return response
    raise AssertionError("the server never began to drain")


def wait_until_in_flight(http, count):
    for _ in range(10_000):
        if http.get("/v1/stats").json()["in_flight"] == count:
            return
    raise AssertionError("the requests never came")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_turns_ready_off_first_then_what_is_in_flight_finishes_then_exit_0(number):
    with serve_process(drain_s=20) as process, ThreadPoolExecutor() as threads:
        url = f"http://127.0.0.1:{process.stdout.readline().strip()}"
        with httpx.Client(base_url=url, timeout=20) as http:
            first = threads.submit(httpx.post, url + CLASSIFY, content=png(), timeout=20)
            wait_until_in_flight(http, 1)
            process.send_signal(number)
            ready = wait_until_draining(http)
            refused = http.post(CLASSIFY, content=png())
            alive = http.get("/health/live")
        process.stdin.write("go\n")
        process.stdin.flush()
        assert first.result(20).status_code == 200
        assert process.wait(20) == 0
        assert process.stderr.read() == ""
    assert "shutting down" in ready.json()["error"]
    assert (refused.status_code, refused.json()["code"]) == (503, "not_ready")
    assert refused.headers["retry-after"] == "1"
    assert alive.status_code == 200


def test_what_does_not_finish_in_time_is_told_so_and_the_exit_is_still_0():
    with serve_process(drain_s=0.1) as process, ThreadPoolExecutor() as threads:
        url = f"http://127.0.0.1:{process.stdout.readline().strip()}"
        with httpx.Client(base_url=url, timeout=20) as http:
            first = threads.submit(httpx.post, url + CLASSIFY, content=png(), timeout=20)
            wait_until_in_flight(http, 1)
            process.terminate()
            answer = first.result(20)
        assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
        assert process.wait(20) == 0
        assert process.stderr.read() == ""


def test_a_second_signal_ends_the_wait():
    with serve_process(drain_s=600) as process, ThreadPoolExecutor() as threads:
        url = f"http://127.0.0.1:{process.stdout.readline().strip()}"
        with httpx.Client(base_url=url, timeout=20) as http:
            first = threads.submit(httpx.post, url + CLASSIFY, content=png(), timeout=20)
            wait_until_in_flight(http, 1)
            process.terminate()
            wait_until_draining(http)
            process.terminate()
            assert first.result(20).status_code == 503
        assert process.wait(20) == 0


def test_an_upload_that_hangs_does_not_hold_up_the_exit_for_ever():
    with serve_process(drain_s=0.1) as process:
        port = int(process.stdout.readline())
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            connection.sendall(request_head(1000) + b"half")
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as http:
                wait_until_in_flight(http, 1)
            process.terminate()
            assert read_response(connection)[0] == 503
        assert process.wait(20) == 0
        assert process.stderr.read() == ""
