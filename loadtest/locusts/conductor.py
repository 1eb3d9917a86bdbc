"""The master's part of runs, one after another: plan, hand out, follow, conclude."""

import logging
import time
from collections.abc import Collection
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from locust.env import Environment
from locust.runners import STATE_MISSING, LocalRunner, MasterRunner

from loadtest.locusts.coordinator import Coordinator
from loadtest.locusts.messages import READY, RECORDS, Batch
from loadtest.locusts.options import RunOptions, read_options
from loadtest.locusts.outcome import REFUSED, Outcome, complaints_about, conclusion
from loadtest.locusts.plan import Plan, make_plan
from loadtest.locusts.tally import Tally
from loadtest.records import write_records
from loadtest.report import summarise
from superserve.client import Client
from superserve.errors import ConfigError, SuperServeError

log = logging.getLogger("superserve")

CLIENT_TIMEOUT = 10.0  # seconds, for a question to the server beside the load


@dataclass(frozen=True, slots=True)
class _Run:
    plan: Plan
    policy_before: str  # to restore; empty where it was not changed
    coordinator: Coordinator
    users: int


class Conductor:
    """Begins a run at a tick when there is none, and ends it when every worker is done.

    Where files are read and written was said on the command line, not in the web UI.
    """

    def __init__(
        self, environment: Environment, runner: LocalRunner | MasterRunner,
        images: Path | None, records: Path | None,
    ) -> None:  # fmt: skip
        self._environment = environment
        self._runner = runner
        self._images = images
        self._file = records
        self._numbers = count(1)
        self._run: _Run | None = None
        self.tally = Tally()
        self.slo = 0.0
        self.state = "ready"  # in words, for the web UI
        runner.register_message(READY, self._on_ready)
        runner.register_message(RECORDS, self._on_records)

    def tick(self) -> int | None:
        """How many users there must be: one on each worker; None once there is nothing to do."""
        if self._run is None:
            self._run = self._begin()
            if self._run is None:
                return None
            self._run.coordinator.deal(time.monotonic())
        run = self._run
        run.coordinator.look(time.monotonic(), self._alive())
        if run.coordinator.finished:
            self._conclude(run, interrupted=False)
            return None
        return run.users

    def stop(self) -> None:
        """Locust stops; where a run was under way, somebody wanted that."""
        if self._run is not None:
            self._conclude(self._run, interrupted=True)

    def _begin(self) -> _Run | None:
        """None where the run is refused; it was said why."""
        number = next(self._numbers)
        self.tally, self.state = Tally(), "starting"
        try:
            options = read_options(vars(self._environment.parsed_options))
            plan, before = self._plan(options)
        except SuperServeError as error:
            self.state = f"REFUSED: {error}"
            log.error("The run is refused: %s", error)  # noqa: TRY400  no bug: people read it
            self._environment.process_exit_code = REFUSED
            return None
        workers = self._workers()
        shards = dict(zip(workers, plan.shards(number, len(workers)), strict=True))
        self.slo, self.state = options.slo, "running"
        log.info("Open loop: %s, %d queries, %d sender(s)", plan.label, len(plan.arrivals),
                 len(workers))  # fmt: skip
        coordinator = Coordinator(shards, self._send, self.tally.add)
        return _Run(plan, before, coordinator, len(workers))

    def _plan(self, options: RunOptions) -> tuple[Plan, str]:
        """And the policy to restore afterwards; empty for none."""
        url = (self._environment.host or "").rstrip("/")
        if self._file is not None and not self._file.absolute().parent.is_dir():
            raise ConfigError(f"--records: there is no folder for {self._file}")
        with Client(url, timeout=CLIENT_TIMEOUT) as client:
            before = client.policy().policy if options.policy else ""
            return make_plan(options, url, self._images, client), before

    def _workers(self) -> tuple[str, ...]:
        if isinstance(self._runner, MasterRunner):
            clients = self._runner.clients
            return tuple(node.id for node in (*clients.ready, *clients.running, *clients.spawning))
        return ("local",)

    def _alive(self) -> Collection[str]:
        if isinstance(self._runner, MasterRunner):
            nodes = self._runner.clients.values()
            return {node.id for node in nodes if node.state != STATE_MISSING}
        return ("local",)

    def _send(self, what: str, content: dict[str, Any], worker: str) -> None:
        self._runner.send_message(what, content, worker)

    def _on_ready(self, msg: Any, **_: Any) -> None:
        if self._run is not None:
            now = time.monotonic()
            self._run.coordinator.ready(msg.node_id, msg.data["run"], now)

    def _on_records(self, msg: Any, **_: Any) -> None:
        if self._run is not None:
            self._run.coordinator.take(msg.node_id, Batch.from_message(msg.data))

    def _conclude(self, run: _Run, *, interrupted: bool) -> None:
        self._run = None
        coordinator, options = run.coordinator, run.plan.options
        records = coordinator.records
        complaints = complaints_about(
            records, options.slo,
            missing=coordinator.missing, losses=coordinator.losses, interrupted=interrupted,
        )  # fmt: skip
        header = run.plan.header(
            senders=run.users,
            connections=list(coordinator.connections.values()),
            unanswered=coordinator.unanswered,
            interrupted=interrupted,
            valid=not complaints,
            complaints=list(complaints),
        )
        report = summarise(records) if records else None
        outcome = Outcome(header, records, report, complaints, interrupted)
        self._environment.process_exit_code = outcome.exit_code
        self.state = "valid" if outcome.valid else "INVALID RUN: " + "; ".join(complaints)
        print(conclusion(outcome, coordinator.connections, options.connections), flush=True)
        for complaint in complaints:
            log.error("INVALID RUN: %s", complaint)
        if self._file is not None:
            write_records(self._file, header, records)
            log.info("Records: %s", self._file)
        self._restore(run)

    def _restore(self, run: _Run) -> None:
        if not run.policy_before:
            return
        try:
            with Client(run.plan.url, timeout=CLIENT_TIMEOUT) as client:
                client.set_policy(run.policy_before)
        except SuperServeError as error:
            log.warning("The policy %s could not be restored: %s", run.policy_before, error)
