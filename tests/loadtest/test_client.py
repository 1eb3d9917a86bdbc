"""The open-loop sender against a tiny server on loopback, in the same event loop."""

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from loadtest.client import Load, LoadGenerator, Payload
from loadtest.connections import Target

Answer = Callable[[bytes], Awaitable[bytes | None]]  # body of the request -> response; None = close
PATIENCE = 20.0  # seconds: long enough for any machine, only ever waited for if a test fails


def response(status: int, document: object, *, close: bool = False) -> bytes:
    body = json.dumps(document).encode()
    extra = "Connection: close\r\n" if close else ""
    head = f"HTTP/1.1 {status} Whatever\r\nContent-Length: {len(body)}\r\n{extra}\r\n"
    return head.encode() + body


def served(index: int = 7, *, close: bool = False, met: bool = True) -> bytes:
    document = {"predictions": [{"label": str(index), "index": index, "score": 0.9}],
                "subnet": "s1", "accuracy": 97.5, "deadline_met": met}  # fmt: skip
    return response(200, document, close=close)


class Server:
    """Answers each POST with what ``answer(body)`` returns; counts what reaches it."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.connections = 0
        self.heads: list[str] = []
        self.port = 0
        self._serving: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[Target]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield Target("127.0.0.1", self.port, "/v1/classify?slo_ms=100")
        finally:
            server.close()
            for task in self._serving:
                task.cancel()
            await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                await self._converse(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.heads.append(head)
            length = int(head.lower().split("content-length: ")[1].split("\r\n")[0])
            answer = await self._answer(await reader.readexactly(length))
            if answer is None:
                return
            writer.write(answer)
            await writer.drain()


def run(answer: Answer, arrivals: list[float], **options: object) -> tuple[Load, Server]:
    server = Server(answer)

    async def everything() -> Load:
        async with server.listening() as target, asyncio.timeout(PATIENCE):
            return await generator(target, arrivals, **options).run()

    return asyncio.run(everything()), server


def generator(target: Target, arrivals: list[float], **options: object) -> LoadGenerator:
    settings: dict[str, object] = {
        "payloads": [Payload(b"image", 7)], "slo": PATIENCE, "timeout": PATIENCE,
        "warm_connections": 2, **options,
    }  # fmt: skip
    return LoadGenerator(target, arrivals, **settings)


def after(count: int, answer: bytes) -> Answer:
    """A server that is frozen until ``count`` queries have reached it."""
    reached = 0
    thawed = asyncio.Event()

    async def wait(_: bytes) -> bytes:
        nonlocal reached
        reached += 1
        if reached >= count:
            thawed.set()
        await thawed.wait()
        return answer

    return wait


async def at_once(_: bytes) -> bytes:
    return served()


def test_an_answer_becomes_a_record():
    load, _ = run(at_once, [0.0, 0.01], slo=5.0)
    record = load.records[1]
    assert (record.arrival, record.deadline) == (0.01, 5.01)
    assert (record.subnet, record.accuracy, record.status) == ("s1", 97.5, 200)
    assert (record.correct, record.server_met, record.dropped) == (True, True, None)
    assert record.finish is not None
    assert record.finish >= record.arrival


def test_the_request_is_a_plain_post_of_the_image():
    _, server = run(at_once, [0.0])
    (head,) = server.heads
    assert head.splitlines() == [
        "POST /v1/classify?slo_ms=100 HTTP/1.1",
        f"Host: 127.0.0.1:{server.port}",
        "Content-Type: image/png",
        "Content-Length: 5",
        "",
    ]


def test_payloads_take_turns_and_each_is_judged_by_its_own_label():
    async def read_the_image(body: bytes) -> bytes:
        return served(index=int(body))

    payloads = [Payload(b"1", 1), Payload(b"2", 9), Payload(b"3")]
    load, _ = run(read_the_image, [0.0] * 6, payloads=payloads)
    assert [record.correct for record in load.records] == [True, False, None] * 2


def test_records_are_in_order_of_arrival_and_reported_as_they_come():
    second_came = asyncio.Event()

    async def first_last(body: bytes) -> bytes:
        if body == b"first":
            await second_came.wait()
        else:
            second_came.set()
        return served()

    reported: list[float] = []
    load, _ = run(first_last, [0.0, 0.001], payloads=[Payload(b"first"), Payload(b"second")],
                  on_record=lambda record: reported.append(record.arrival))  # fmt: skip
    assert [record.arrival for record in load.records] == [0.0, 0.001]
    assert reported == [0.001, 0.0]


def test_no_query_waits_for_the_answer_to_an_earlier_one():
    """The server answers nobody before all 40 have come: a closed loop would never get there."""
    load, _ = run(after(40, served()), [i / 1000 for i in range(40)])
    assert all(record.met for record in load.records)
    assert load.connections == 40


def test_a_frozen_server_shows_in_the_latency_of_every_query_that_came_meanwhile():
    """Nobody is answered before the last has come, so each latency spans at least that far."""
    arrivals = [i / 100 for i in range(20)]
    load, _ = run(after(20, served()), arrivals)
    for record in load.records:
        assert record.latency is not None
        assert record.latency >= arrivals[-1] - record.arrival


def test_a_late_generator_is_recorded_and_its_lateness_is_part_of_the_latency():
    """The clock jumps by 3 s between the start and the first query: no coordinated omission."""
    readings = iter([100.0])
    load, _ = run(at_once, [0.0, 0.5, 1.0], clock=lambda: next(readings, 103.0))
    assert [record.lateness for record in load.records] == [3.0, 2.5, 2.0]
    assert [record.latency for record in load.records] == [3.0, 2.5, 2.0]


def test_silence_is_a_miss_at_the_timeout():
    load, _ = run(after(99, served()), [0.0, 0.01], slo=0.02, timeout=0.06)
    assert [(r.finish, r.dropped, r.status) for r in load.records] == [(None, "timeout", None)] * 2


def test_an_error_answer_is_a_miss_named_by_its_code():
    async def too_late(_: bytes) -> bytes:
        return response(504, {"error": "too late", "code": "deadline_exceeded"})

    load, _ = run(too_late, [0.0])
    record = load.records[0]
    assert (record.finish, record.dropped, record.status) == (None, "deadline_exceeded", 504)


@pytest.mark.parametrize("document", ["plain", [1], {"error": "x"}])
def test_an_error_answer_of_a_foreign_form_is_named_by_its_status(document):
    async def refuse(_: bytes) -> bytes:
        return response(500, document)

    load, _ = run(refuse, [0.0])
    assert load.records[0].dropped == "http_500"


def test_an_emulated_answer_without_predictions_is_neither_right_nor_wrong():
    async def nothing_seen(_: bytes) -> bytes:
        return response(200, {"predictions": [], "subnet": "s1", "accuracy": 90.0})

    load, _ = run(nothing_seen, [0.0])
    assert (load.records[0].correct, load.records[0].met) == (None, True)


def test_a_server_that_nobody_runs_costs_misses_not_a_crash():
    async def unreachable() -> Load:
        async with Server(at_once).listening() as target:
            pass
        return await generator(target, [0.0, 0.0, 0.01]).run()

    load = asyncio.run(unreachable())
    assert [record.dropped for record in load.records] == ["connection_error"] * 3


def test_a_connection_that_dies_costs_its_own_query_only():
    async def die_on_two(body: bytes) -> bytes | None:
        return None if body == b"2" else served()

    payloads = [Payload(b"1"), Payload(b"2"), Payload(b"3")]
    load, _ = run(die_on_two, [0.0, 0.0, 0.0], payloads=payloads, warm_connections=3)
    assert [record.dropped for record in load.records] == [None, "connection_error", None]


def test_an_answer_that_is_no_http_is_a_miss():
    async def babble(_: bytes) -> bytes:
        return b"hello?\r\n\r\n"

    load, _ = run(babble, [0.0])
    assert load.records[0].dropped == "connection_error"


def test_a_kept_connection_that_the_server_closed_meanwhile_is_replaced_and_the_query_sent_again():
    seen = 0

    async def hang_up_on_the_second(_: bytes) -> bytes | None:
        nonlocal seen
        seen += 1
        return None if seen == 2 else served()

    load, server = run(hang_up_on_the_second, [0.0, 0.05], connection_limit=1)
    assert [record.dropped for record in load.records] == [None, None]
    assert (server.connections, len(server.heads)) == (2, 3)


def test_connections_are_kept_and_reused():
    """One place for a connection, so ten queries can only have shared it."""
    load, server = run(at_once, [0.0] * 10, connection_limit=1)
    assert (server.connections, load.connections) == (1, 1)
    assert all(record.met for record in load.records)


def test_a_server_that_closes_after_each_answer_gets_a_new_connection_each_time():
    async def answer_and_close(_: bytes) -> bytes:
        return served(close=True)

    load, server = run(answer_and_close, [0.0] * 3, connection_limit=1)
    assert all(record.met for record in load.records)
    assert server.connections >= 3


def test_a_query_that_found_no_connection_is_a_miss_and_makes_the_run_late():
    load, _ = run(after(99, served()), [0.0, 0.0], slo=0.02, timeout=0.05, connection_limit=1)
    assert [record.dropped for record in load.records] == ["timeout", "unsent"]
    assert load.records[1].lateness >= 0.05
    assert load.connection_limit == 1


def test_stop_from_another_thread_ends_the_run_and_tells_what_was_under_way():
    both_came = asyncio.Event()
    never = asyncio.Event()

    async def swallow(body: bytes) -> bytes:
        if body == b"2":
            both_came.set()
        await never.wait()
        return served()

    async def stopped() -> Load:
        async with Server(swallow).listening() as target, asyncio.timeout(PATIENCE):
            payloads = [Payload(b"1"), Payload(b"2")]
            sender = generator(target, [0.0, 0.0, 1000.0], timeout=2000.0, payloads=payloads)
            running = asyncio.create_task(sender.run())
            await both_came.wait()
            threading.Thread(target=sender.stop).start()
            return await running

    load = asyncio.run(stopped())
    assert (load.records, load.unanswered) == ((), 2)


def test_an_empty_load_ends_at_once():
    load, _ = run(at_once, [])
    assert load.records == ()


@pytest.mark.parametrize("wrong", [{"payloads": []}, {"slo": 0.0}, {"timeout": 1.0, "slo": 2.0}])
def test_senseless_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="a load needs"):
        generator(Target("127.0.0.1", 1), [0.0], **wrong)


def test_a_target_is_read_from_a_url():
    assert Target.at("http://127.0.0.1:8000/", "/v1/classify?slo_ms=5") == Target(
        "127.0.0.1", 8000, "/v1/classify?slo_ms=5"
    )
    with pytest.raises(ValueError, match="expected http"):
        Target.at("https://example.com")
