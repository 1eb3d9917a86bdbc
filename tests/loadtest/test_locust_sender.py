"""The gevent sender against a tiny server in the same event loop, which answers when told to."""

from collections.abc import Callable
from contextlib import contextmanager

import gevent
import numpy as np
import pytest
from gevent.event import Event
from gevent.server import StreamServer

from loadtest.client import Payload
from loadtest.connections import Target
from loadtest.locusts.messages import Shard
from loadtest.locusts.sender import Sender
from loadtest.records import Record

PATIENCE = 20.0  # seconds: long enough for any machine, only ever waited for if a test fails
CORRECT = b'{"predictions": [{"index": 7}], "subnet": "s1", "accuracy": 97.5, "deadline_met": true}'

Answer = Callable[[int], bytes | None]  # number of the request from 0 -> response; None = close


def response(body: bytes = CORRECT, status: int = 200, extra: str = "") -> bytes:
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n{extra}\r\n".encode() + body


@contextmanager
def serving(answer: Answer):
    """The target, and the requests that came."""
    requests: list[bytes] = []

    def converse(connected, _):
        stream = connected.makefile("rwb")
        while head := stream.readline():
            length = 0
            while (line := stream.readline()) != b"\r\n":
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            requests.append(head + stream.read(length))
            said = answer(len(requests) - 1)
            if said is None:
                break
            stream.write(said)
            stream.flush()
        stream.close()

    server = StreamServer(("127.0.0.1", 0), converse)
    server.start()
    try:
        yield Target("127.0.0.1", server.server_port, "/v1/classify?slo_ms=100"), requests
    finally:
        server.stop(timeout=0)


def shard(target: Target, arrivals: list[float], **changes) -> Shard:
    settings = {
        "run": 1, "index": 0, "count": 1, "payloads": [Payload(b"image", 7)], "slo": PATIENCE,
        "timeout": PATIENCE, "connections": 64, **changes,
    }  # fmt: skip
    return Shard(arrivals=np.array(arrivals), target=target, **settings)


def send(part: Shard, *, warm: bool = False) -> tuple[list[Record], Sender]:
    records: list[Record] = []
    sender = Sender(part, lambda record, _: records.append(record))
    if warm:
        sender.warm_up()
    with gevent.Timeout(PATIENCE):
        sender.run(sender._clock())
    return sorted(records, key=lambda record: record.arrival), sender


def after(count: int) -> Answer:
    """Frozen until ``count`` queries have come."""
    thawed = Event()

    def answer(number: int) -> bytes:
        if number + 1 == count:
            thawed.set()
        thawed.wait()
        return response()

    return answer


def test_an_answer_becomes_a_record():
    with serving(lambda _: response()) as (target, _):
        records, _ = send(shard(target, [0.0, 0.01], slo=5.0))

    assert (records[1].arrival, records[1].deadline) == (0.01, 5.01)
    assert (records[1].subnet, records[1].accuracy, records[1].status) == ("s1", 97.5, 200)
    assert records[1].correct
    assert records[1].server_met


def test_queries_leave_though_no_earlier_one_was_answered():
    with serving(after(20)) as (target, _):
        records, sender = send(shard(target, [0.005 * i for i in range(20)]))

    assert len(records) == 20
    assert all(record.met for record in records)
    assert sender.connections == 20


def test_latency_counts_from_the_intended_time():
    with serving(after(2)) as (target, _):
        records, _ = send(shard(target, [0.0, 0.3]))

    assert records[0].latency is not None
    assert records[0].latency >= 0.3


def test_a_query_without_an_answer_in_time_is_a_miss():
    never = Event()
    with serving(lambda _: never.wait()) as (target, _):
        waits: list[float] = []
        sender = Sender(
            shard(target, [0.0], slo=0.05, timeout=0.2), lambda _, waited: waits.append(waited)
        )
        sender.run(sender._clock())
        records, _ = send(shard(target, [0.0], slo=0.05, timeout=0.2))

    assert (records[0].finish, records[0].dropped) == (None, "timeout")
    assert waits[0] >= 0.2


def test_a_refused_answer_is_a_miss_with_the_servers_code():
    with serving(lambda _: response(b'{"code": "overloaded"}', 503)) as (target, _):
        records, _ = send(shard(target, [0.0]))

    assert (records[0].dropped, records[0].status, records[0].met) == ("overloaded", 503, False)


def test_waiting_for_a_connection_at_the_limit_is_the_senders_lateness():
    release = Event()

    def answer(number: int) -> bytes:
        if number == 0:
            release.wait()
        return response()

    with serving(answer) as (target, _):
        gevent.spawn_later(0.2, release.set)
        records, sender = send(shard(target, [0.0, 0.0], connections=1))

    assert max(record.lateness for record in records) >= 0.15
    assert sender.connections == 1


def test_a_query_that_never_got_a_connection_was_unsent():
    never = Event()
    with serving(lambda _: never.wait()) as (target, requests):
        records, _ = send(shard(target, [0.0, 0.0], slo=0.05, timeout=3.0, connections=1))

    assert sorted(str(record.dropped) for record in records) == ["timeout", "unsent"]
    assert len(requests) == 1


def test_a_server_that_nobody_can_reach_is_a_connection_error():
    with serving(lambda _: response()) as (target, _):
        pass
    records, _ = send(shard(target, [0.0]), warm=True)

    assert records[0].dropped == "connection_error"
    assert records[0].lateness < PATIENCE


def test_an_idle_connection_that_the_server_closed_costs_no_query():
    """The server closes its connection after the first answer without saying so."""
    with serving(lambda number: None if number == 1 else response()) as (target, requests):
        records, _ = send(shard(target, [0.0, 0.2], connections=1))

    assert [record.met for record in records] == [True, True]
    assert len(requests) == 3


def test_an_answer_that_is_no_http_is_a_connection_error():
    with serving(lambda _: b"no HTTP at all\r\n") as (target, _):
        records, _ = send(shard(target, [0.0]))

    assert records[0].dropped == "connection_error"


def test_connections_that_the_server_announces_to_close_are_not_used_again():
    said = response(extra="Connection: close\r\n")
    with serving(lambda _: said) as (target, _):
        records, sender = send(shard(target, [0.0, 0.1, 0.2]))

    assert all(record.met for record in records)
    assert not sender._idle


def test_each_shard_takes_the_payloads_of_its_own_indices():
    payloads = [Payload(b"%d" % i, i) for i in range(4)]
    with serving(lambda _: response()) as (target, requests):
        send(shard(target, [0.0, 0.05, 0.1], index=1, count=2, payloads=payloads))

    assert [request[-1:] for request in requests] == [b"1", b"3", b"1"]


def test_a_sender_that_is_stopped_tells_what_it_left_under_way():
    never, came = Event(), Event()

    def answer(_: int) -> bytes | None:
        came.set()
        never.wait()
        return None

    with serving(answer) as (target, _):
        sender = Sender(shard(target, [0.0, 100.0]), lambda *_: None)
        running = gevent.spawn(sender.run, sender._clock())
        assert came.wait(PATIENCE)
        running.kill()

    assert sender.unanswered == 1


@pytest.mark.parametrize("slo", [0.01, 1.0], ids=["polling", "sleeping"])
def test_no_query_leaves_before_its_time(slo):
    with serving(lambda _: response()) as (target, _):
        records, _ = send(shard(target, [0.01 * i for i in range(20)], slo=slo))

    assert min(record.lateness for record in records) >= 0


def test_one_connection_carries_queries_that_do_not_overlap():
    with serving(lambda _: response()) as (target, _):
        records, sender = send(shard(target, [0.0, 1.5, 3.0]))

    assert all(record.met for record in records)
    assert sender.connections == 1
