"""The open loop as Locust wants it: one user on each worker, a shape that ends with the load."""

import logging
import signal
from pathlib import Path
from typing import ClassVar

import gevent
from locust import LoadTestShape, User, task
from locust.env import Environment
from locust.runners import LocalRunner, MasterRunner, Runner, WorkerRunner
from locust.web import WebUI

from loadtest.locusts.conductor import Conductor
from loadtest.locusts.node import Node
from loadtest.locusts.web import extend_web_ui


class OpenLoopUser(User):
    """Sends all queries of its worker. There is one, whatever number of users is asked for."""

    host = "http://127.0.0.1:8000"
    node: ClassVar[Node]

    @task
    def replay(self) -> None:
        self.node.replay()


class OpenLoop(LoadTestShape):
    """Keeps one user on each worker until the last query has its record."""

    conductor: ClassVar[Conductor]

    def tick(self) -> tuple[int, float] | None:
        users = self.conductor.tick()
        return None if users is None else (users, float(users))


def prepare(environment: Environment, runner: Runner, web_ui: WebUI | None, **_: object) -> None:
    """Give this process its part; a listener of Locust's ``init``."""
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells of every request
    if isinstance(runner, LocalRunner | WorkerRunner):
        OpenLoopUser.node = Node(environment, runner)
    if isinstance(runner, WorkerRunner):
        environment.process_exit_code = 0  # missed deadlines are a result, and the master's affair
    if isinstance(runner, LocalRunner | MasterRunner):
        environment.host = environment.host or OpenLoopUser.host
        conductor = Conductor(environment, runner, _path(environment, "images"),
                              _path(environment, "records"))  # fmt: skip
        OpenLoop.conductor = conductor
        environment.events.test_stop.add_listener(lambda **_: conductor.stop())
        # Before Locust works out its exit code, and while workers can still tell what they have.
        environment.events.quitting.add_listener(lambda **_: runner.stop())
        if environment.parsed_options is not None and environment.parsed_options.headless:
            # Locust installs its own only after a headless run with a shape: too late for it.
            gevent.signal_handler(signal.SIGTERM, runner.quit)
        if web_ui is not None:
            extend_web_ui(web_ui, conductor)


def _path(environment: Environment, name: str) -> Path | None:
    given = getattr(environment.parsed_options, name)
    return Path(given) if given else None
