"""A worker's part of a run: it waits for a shard, sends it, and reports records and statistics."""

import time
from typing import Any

import gevent
from gevent.queue import Queue
from locust.env import Environment
from locust.runners import LocalRunner, WorkerRunner

from loadtest.locusts.messages import GO, READY, RECORDS, SHARD, Batch, Shard
from loadtest.locusts.sender import Sender
from loadtest.records import Record

BATCH = 100  # records per message: a larger one takes so long to pack that queries are late
REPORT = 1.0  # seconds between two reports where fewer come


class Node:
    """Takes shards from Locust's messages; `replay` runs in the greenlet of its one user."""

    def __init__(self, environment: Environment, runner: LocalRunner | WorkerRunner) -> None:
        self._environment = environment
        self._runner = runner
        self._shards: Queue[Shard] = Queue()
        self._goes: Queue[tuple[int, float]] = Queue()
        self._run = 0
        self._batch: list[Record] = []
        runner.register_message(SHARD, self._on_shard)
        runner.register_message(GO, self._on_go)

    def replay(self) -> None:
        """Wait for a shard and send it, to the end or until this greenlet is killed."""
        shard = self._shards.get()
        self._run, self._batch = shard.run, []
        sender = Sender(shard, self._take)
        sender.warm_up()
        self._runner.send_message(READY, {"run": shard.run})
        run, start = self._goes.get()
        while run != shard.run:
            run, start = self._goes.get()
        reporting = gevent.spawn(self._report_regularly)
        try:
            sender.run(start)
        finally:
            reporting.kill()
            last = Batch(shard.run, tuple(self._batch), True, sender.unanswered, sender.connections)
            self._runner.send_message(RECORDS, last.to_message())

    def _on_shard(self, msg: Any, **_: Any) -> None:
        while not self._shards.empty():  # of a run that was stopped before it began
            self._shards.get()
        self._shards.put(Shard.from_message(msg.data))

    def _on_go(self, msg: Any, **_: Any) -> None:
        self._goes.put((msg.data["run"], time.monotonic() + msg.data["lead"]))

    def _take(self, record: Record, waited: float) -> None:
        self._batch.append(record)
        if len(self._batch) >= BATCH:
            self._report()
        log_record(self._environment, record, waited)

    def _report_regularly(self) -> None:
        while True:
            gevent.sleep(REPORT)
            self._report()

    def _report(self) -> None:
        if self._batch:
            batch, self._batch = Batch(self._run, tuple(self._batch)), []
            self._runner.send_message(RECORDS, batch.to_message())


def log_record(environment: Environment, record: Record, waited: float) -> None:
    """Enter one record into Locust's statistics; it was there ``waited`` seconds after its arrival.

    The request's row and the total have the latency from the intended time, and a missed deadline
    is a failure: Locust's failure rate is 100 % less the SLO attainment. The other rows stand
    beside the total.
    """
    environment.events.request.fire(
        request_type="POST",
        name="/v1/classify",
        response_time=1000 * waited,
        response_length=0,
        exception=None if record.met else (record.dropped or "late"),
        context={},
    )
    if record.subnet and record.latency is not None:
        _beside(environment, record.subnet, "subnet", record.latency)
    _beside(environment, "lateness", "sender", record.lateness)


def _beside(environment: Environment, name: str, kind: str, seconds: float) -> None:
    entry = environment.stats.get(name, kind)
    entry.log(1000 * seconds, 0)  # type: ignore[arg-type]  # Locust itself logs fractions
