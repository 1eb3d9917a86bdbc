"""The server on a real socket: limits on what comes in, and clients that go away."""

import asyncio
import contextlib
import threading

import httpx
import pytest

from tests.superserve.fakes import CLASSIFY, FakeDispatcher, live, png
from tests.superserve.raw_http import connect, read_response, request_head


def test_several_requests_go_over_one_connection():
    with live() as server, httpx.Client(base_url=server.url) as http:
        answers = [http.post(CLASSIFY, content=png(i)).status_code for i in range(20)]
        assert answers == [200] * 20
        assert len(server.dispatcher.submissions) == 20
        assert set() == server.dispatcher.reserved


def test_a_chunked_body_is_read_to_its_end():
    data = png()
    with live() as server:
        response = httpx.post(server.url + CLASSIFY, content=(data[i : i + 1] for i in range(45)))
        assert (response.status_code, response.json()["code"]) == (400, "bad_image")
        response = httpx.post(server.url + CLASSIFY, content=(bytes([b]) for b in data))
        assert response.status_code == 200


def test_an_announced_body_that_is_too_large_is_never_read():
    with live(max_body_bytes=1000) as server, connect(server) as connection:
        connection.sendall(request_head(1001))
        status, body, closed = read_response(connection)
        assert (status, body["code"], closed) == (413, "payload_too_large", True)


def test_an_endless_chunked_body_is_cut_off():
    with live(max_body_bytes=100_000) as server, connect(server) as connection:
        connection.sendall(
            b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        connection.sendall(b"c350\r\n" + bytes(50_000) + b"\r\n")
        connection.sendall(b"c351\r\n" + bytes(50_001) + b"\r\n")
        status, _, closed = read_response(connection)
        assert (status, closed) == (413, True)


def test_a_client_that_waits_for_100_continue_is_refused_before_it_sends():
    with live(max_body_bytes=1000) as server, connect(server) as connection:
        connection.sendall(request_head(5000, "Expect: 100-continue"))
        assert read_response(connection)[0] == 413


def test_a_body_that_does_not_come_is_answered_and_given_up():
    with live(body_timeout_s=0.2) as server, connect(server) as connection:
        connection.sendall(request_head(1000) + b"half")
        status, body, closed = read_response(connection)
        assert (status, body["code"], closed) == (408, "request_timeout", True)
        assert server.app.state.front_end.bodies.held == 0


@pytest.mark.parametrize("head", [b"POST /v1/cl", b"GET / HTTP/1.1\r\nHost: x\r\nX: 1\r\n"])
def test_a_head_that_does_not_come_is_answered_and_given_up(head):
    with live(body_timeout_s=0.2) as server, connect(server) as connection:
        connection.sendall(head)
        status, body, closed = read_response(connection)
        assert (status, body["code"], closed) == (408, "request_timeout", True)


def test_a_second_head_on_a_connection_is_timed_as_well():
    with live(body_timeout_s=0.2) as server, connect(server) as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert read_response(connection)[0] == 200
        connection.sendall(b"GET /health/li")
        assert read_response(connection)[0] == 408


def test_a_connection_that_says_nothing_is_closed():
    with live(body_timeout_s=0.2) as server, connect(server) as connection:
        assert connection.recv(100) == b""


@pytest.mark.parametrize(
    "headers",
    [
        b"X: " + b"a" * 300_000,
        b"\r\n".join(b"X%d: %s" % (i, b"a" * 1000) for i in range(300)),
        b"\r\n".join(b"X%d: a" % i for i in range(50_000)),
    ],
    ids=["one long", "many", "very many"],
)
def test_huge_headers_are_refused(headers):
    with live() as server, connect(server) as connection:
        threading.Thread(target=send_regardless, args=(connection, headers)).start()
        status, body, closed = read_response(connection)
        assert (status, body["code"], closed) == (431, "request_header_fields_too_large", True)


def send_regardless(connection, headers):
    with contextlib.suppress(OSError):  # the server has heard enough
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n\r\n")


def test_a_large_body_does_not_count_as_a_head():
    """The head of a request that follows in the same breath is counted from its own start."""
    body = bytes(200_000)
    with live() as server, connect(server) as connection:
        connection.sendall(request_head(len(body)) + body + b"GET /health/li")
        assert read_response(connection)[0] == 415
        connection.sendall(b"ve HTTP/1.1\r\nHost: x\r\n\r\n")
        assert read_response(connection)[0] == 200


@pytest.mark.parametrize(
    "noise",
    [b"\0\1\2\r\n\r\n", b"GET\r\n\r\n", b"\x16\3\1\2\0\1\0", b"GET / HTTP/9.9\r\n\r\n"],
    ids=["zeros", "short", "TLS", "version"],
)
def test_what_is_not_http_is_answered_in_the_same_form(noise):
    with live() as server, connect(server) as connection:
        connection.sendall(noise)
        status, body, closed = read_response(connection)
        assert (status, body["code"], closed) == (400, "bad_request", True)


OFFER = ("Connection: Upgrade", "Upgrade: h2c")


def test_an_upgrade_is_ignored_where_nothing_is_lost():
    with live() as server, connect(server) as connection:
        connection.sendall("\r\n".join(["GET / HTTP/1.1", "Host: x", *OFFER, "", ""]).encode())
        assert read_response(connection)[0] == 200


def test_an_upgrade_that_would_lose_the_body_is_refused_with_the_reason():
    with live() as server, connect(server) as connection:
        data = png()
        connection.sendall(request_head(len(data), *OFFER) + data)
        status, body, closed = read_response(connection)
        assert (status, body["code"], closed) == (400, "bad_request", True)
        assert "--http1.1" in body["error"]


def test_a_client_that_goes_away_cancels_its_query_and_frees_the_slot(caplog):
    dispatcher = FakeDispatcher(hold=True)
    with live(dispatcher) as server:
        with connect(server) as connection:
            data = png()
            connection.sendall(request_head(len(data)) + data)
            assert dispatcher.arrived.wait(10)
        assert dispatcher.freed.wait(10)
        assert dispatcher.cancelled == 1
        assert httpx.get(server.url + "/health/ready").status_code == 200
        assert server.app.state.front_end.bodies.held == 0
    assert caplog.text == ""


def test_a_client_that_goes_away_in_mid_body_leaves_nothing_behind(caplog):
    with live() as server:
        with connect(server) as connection:
            connection.sendall(request_head(1000) + b"half")
        with connect(server) as connection:
            connection.sendall(b"POST /v1/clas")
        assert httpx.get(server.url + "/health/ready").status_code == 200
    assert server.app.state.front_end.bodies.held == 0
    assert len(server.app.state.front_end.in_flight) == 0
    assert server.dispatcher.submissions == []
    assert caplog.text == ""


def test_many_clients_at_once_get_an_answer_each_and_free_every_slot():
    dispatcher = FakeDispatcher(slots=4)

    async def ask(url):
        async with httpx.AsyncClient(base_url=url, timeout=30) as http:
            posts = (http.post(CLASSIFY, content=png(i % 256)) for i in range(200))
            return [response.status_code for response in await asyncio.gather(*posts)]

    with live(dispatcher) as server:
        statuses = asyncio.run(ask(server.url))
    assert len(statuses) == 200
    assert {200, 503} >= set(statuses)
    assert statuses.count(200) == len(dispatcher.submissions)
    assert set() == dispatcher.reserved


@pytest.mark.parametrize("length", [45, 100_000, 3_000_000])
def test_a_refusal_before_the_body_is_read_reaches_a_client_that_sends_it_first(length):
    """Closed over unread bytes, the connection would be reset, and the answer lost."""
    with live() as server:
        for _ in range(20):
            with connect(server) as connection:
                connection.sendall(request_head(length, target=CLASSIFY + "?top_k=x"))
                connection.sendall(bytes(length))
                status, body, closed = read_response(connection)
                assert (status, body["code"], closed) == (400, "bad_parameter", True)
                assert connection.recv(1) == b""
